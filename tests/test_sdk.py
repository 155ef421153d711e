"""`configure` sends telemetry as the variables say, and no secret on the way."""

import io
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

import certifi
import grpc
import pytest
import trustme
import urllib3
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from otel_intercept.errors import ConfigurationError
from otel_intercept.sdk import configure, read_spans
from otel_intercept.telemetry import Balance, Telemetry
from tests.collectors import (
    Answer,
    Collector,
    GrpcCollector,
    HttpCollector,
    closed_port,
)
from tests.samples import record_exchanges, wait_until
from tests.stopwatch import Stopwatch

CANARY = "sk-canary-0451"

PROTOCOLS = [
    pytest.param(HttpCollector, "http/protobuf", id="http"),
    pytest.param(GrpcCollector, "grpc", id="grpc"),
]


class Everything(logging.Handler):
    """Keeps every log record of every logger, with all that hangs on it."""

    def __init__(self) -> None:
        super().__init__(level=0)
        self.text = io.StringIO()
        self.records: list[logging.LogRecord] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the record as it is printed, and as any other handler may see it."""
        self.records.append(record)
        self.text.write(f"{self.format(record)} {vars(record)!r}\n")

    def warnings_of(self, prefix: str) -> list[str]:
        """Return the messages at WARNING and above of some loggers."""
        return [
            record.getMessage()
            for record in self.records
            if record.name.startswith(prefix) and record.levelno >= logging.WARNING
        ]


@pytest.fixture
def everything() -> Iterator[Everything]:
    """Collect all log records at all levels."""
    handler, root = Everything(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(1)
    yield handler
    root.removeHandler(handler)
    root.setLevel(level)


def environ_for(
    collector: Collector, protocol: str = "http/protobuf", **more: str
) -> dict[str, str]:
    """Return variables that send both signals to a collector, quickly."""
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        **more,
    }


def run(environ: Mapping[str, str], number: int = 3) -> Balance:
    """Configure, record some exchanges, and return the final balance."""
    with configure(environ) as telemetry:
        record_exchanges(telemetry, number)
    return telemetry.balance()


@pytest.mark.parametrize(("collector", "protocol"), PROTOCOLS)
def test_spans_and_metrics_arrive_with_resource_and_headers(
    collector: type[Collector], protocol: str
) -> None:
    """Both signals reach the endpoint, with the headers and the resource asked for."""
    with collector() as server:
        balance = run(
            environ_for(
                server,
                protocol,
                OTEL_EXPORTER_OTLP_HEADERS="x-team=blue,authorization=Bearer%20token",
                OTEL_SERVICE_NAME="trainer",
            )
        )

    (traces,) = [got for got in server.received if got.signal == "traces"]
    metrics = [got for got in server.received if got.signal == "metrics"]
    request = ExportTraceServiceRequest.FromString(traces.body)
    resource = {
        attribute.key: attribute.value.string_value
        for attribute in request.resource_spans[0].resource.attributes
    }
    assert balance == Balance(3, 3, 0, 3, 0, 0, 0)
    assert len(server.spans()) == 3
    assert len(metrics) == 1
    assert resource["service.name"] == "trainer"
    assert len(resource["service.instance.id"]) == 36
    for got in (traces, *metrics):
        assert got.headers["x-team"] == "blue"
        assert got.headers["authorization"] == "Bearer token"


@pytest.mark.parametrize(
    ("collector", "protocol", "compression"),
    [
        (HttpCollector, "http/protobuf", "gzip"),
        (HttpCollector, "http/protobuf", "deflate"),
        (GrpcCollector, "grpc", "gzip"),
    ],
)
def test_compressed_requests_arrive(
    collector: type[Collector], protocol: str, compression: str
) -> None:
    """Every compression of the exporters can be asked for."""
    with collector() as server:
        run(environ_for(server, protocol, OTEL_EXPORTER_OTLP_COMPRESSION=compression))

    assert len(server.spans()) == 3
    if protocol != "grpc":
        assert {got.headers["content-encoding"] for got in server.received} == {
            compression
        }


@pytest.mark.parametrize(("collector", "protocol"), PROTOCOLS)
def test_mutual_tls_works(
    collector: type[Collector],
    protocol: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Authority, client certificate and key are used, and nothing works without."""
    authority = trustme.CA()
    own = authority.issue_cert("client")
    paths = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": tmp_path / "ca.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": tmp_path / "client.pem",
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": tmp_path / "client.key",
    }
    authority.cert_pem.write_to_path(paths["OTEL_EXPORTER_OTLP_CERTIFICATE"])
    own.cert_chain_pems[0].write_to_path(paths["OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE"])
    own.private_key_pem.write_to_path(paths["OTEL_EXPORTER_OTLP_CLIENT_KEY"])

    with collector(authority=authority) as server:
        environ = environ_for(server, protocol, OTEL_METRICS_EXPORTER="none")
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
        trusted = run(environ | {name: str(path) for name, path in paths.items()})
        untrusted = run(environ)

    assert trusted.exported == 3
    assert untrusted.failed == 3
    assert len(server.spans()) == 3


@pytest.mark.parametrize(("collector", "protocol"), PROTOCOLS)
def test_only_the_given_variables_count(
    collector: type[Collector], protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands in the process's own environment does not leak into another's."""
    for signal in ("", "TRACES_", "METRICS_"):
        prefix = f"OTEL_EXPORTER_OTLP_{signal}"
        monkeypatch.setenv(f"{prefix}ENDPOINT", f"http://127.0.0.1:{closed_port()}")
        monkeypatch.setenv(f"{prefix}HEADERS", f"x-leak={CANARY},authorization=x")
        monkeypatch.setenv(f"{prefix}COMPRESSION", "gzip")
        monkeypatch.setenv(f"{prefix}CERTIFICATE", __file__)
        monkeypatch.setenv(f"{prefix}TIMEOUT", "0.001")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    monkeypatch.setenv("OTEL_SERVICE_NAME", CANARY)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", f"a={CANARY}")
    monkeypatch.setenv("OTEL_METRICS_EXEMPLAR_FILTER", "always_off")

    with collector() as server:
        balance = run(environ_for(server, protocol))

    exemplars = [
        exemplar
        for metric in server.metrics()
        for point in metric.histogram.data_points
        for exemplar in point.exemplars
    ]
    assert balance.exported == 3
    assert server.count("metrics") == 1
    assert CANARY.encode() not in server.raw()
    assert exemplars
    for got in server.received:
        assert "x-leak" not in got.headers
        assert "authorization" not in got.headers
        assert got.headers.get("content-encoding", "identity") == "identity"


def test_the_process_environment_is_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Called without variables, it takes those of the process."""
    with HttpCollector() as server:
        for name, value in environ_for(server).items():
            monkeypatch.setenv(name, value)

        with configure(service_name="mine") as telemetry:
            record_exchanges(telemetry, 2)

    assert len(server.spans()) == 2


def test_disabled_telemetry_is_given_when_there_is_nothing_to_export() -> None:
    """Disabled by variable, or without any exporter: a no-op telemetry either way."""
    none = {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}

    for environ in ({"OTEL_SDK_DISABLED": "true"}, none):
        with configure(environ) as telemetry:
            assert not telemetry.enabled


def test_a_block_that_raises_is_flushed_all_the_same() -> None:
    """An exception passes through unchanged, after everything was exported."""
    error = RuntimeError()
    seen: list[Telemetry] = []

    def fail_while_configured(environ: Mapping[str, str]) -> None:
        with configure(environ) as telemetry:
            seen.append(telemetry)
            record_exchanges(telemetry, 2)
            raise error

    with HttpCollector() as server, pytest.raises(RuntimeError) as caught:
        fail_while_configured(environ_for(server))

    assert caught.value is error
    assert seen[0].balance().exported == 2


def test_metrics_are_exported_at_their_interval() -> None:
    """Metrics leave on their own, without a flush or a shutdown."""
    with HttpCollector() as server:
        environ = environ_for(server, OTEL_METRIC_EXPORT_INTERVAL="50")
        with configure(environ):
            arrived = server.wait_for("metrics", 3)

    assert arrived


def test_unsampled_rollouts_have_metrics_and_no_spans() -> None:
    """A ratio of zero leaves the counters whole."""
    with (
        HttpCollector() as server,
        configure(
            environ_for(
                server,
                OTEL_TRACES_SAMPLER="traceidratio",
                OTEL_TRACES_SAMPLER_ARG="0",
            )
        ) as telemetry,
    ):
        sampled = telemetry.sample(1)

    assert not sampled
    assert server.count("traces") == 0
    assert server.count("metrics") == 1


def test_a_file_is_written_beside_a_collector_that_fails(tmp_path: Path) -> None:
    """Each exporter gets everything; exported is what all of them took."""
    path = tmp_path / "spans.jsonl"
    with HttpCollector(Answer(status=400)) as server:
        balance = run(
            environ_for(
                server,
                OTEL_INTERCEPT_FILE=str(path),
                OTEL_METRICS_EXPORTER="otlp,otlp_json_file",
            )
        )

    assert balance == Balance(3, 3, 0, 0, 3, 0, 0)
    assert len(list(read_spans(path))) == 3
    assert (
        (tmp_path / "spans.metrics.jsonl")
        .read_bytes()
        .startswith(b'{"resourceMetrics"')
    )


def test_a_collector_that_hangs_costs_the_file_nothing(tmp_path: Path) -> None:
    """What the network could not take in time is in the file all the same."""
    path = tmp_path / "spans.jsonl"
    with HttpCollector(Answer(hang=True)) as server:
        environ = environ_for(
            server, OTEL_INTERCEPT_FILE=str(path), OTEL_EXPORTER_OTLP_TIMEOUT="30"
        )
        with configure(environ) as telemetry:
            record_exchanges(telemetry, 1)
            assert server.wait_for("traces")
            record_exchanges(telemetry, 500)
        kept = filters()
    wait_until(lambda: telemetry.idle)
    remove(kept)

    balance = telemetry.balance()
    assert len(list(read_spans(path))) == 501
    assert (balance.exported, balance.failed, balance.dropped) == (0, 1, 500)


def test_the_console_prints_guarded_telemetry(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Spans and metrics can be printed; they have passed the guard as well."""
    monkeypatch.setenv("NO_COLOR", "1")

    run({"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "console"})

    printed = capsys.readouterr().out
    assert '"intercept.exchange.outcome": "ok"' in printed
    assert "intercept.exchanges" in printed


@pytest.mark.parametrize("path", ["/nowhere/spans.jsonl", "/"])
def test_a_file_that_cannot_be_written_is_an_error(path: str) -> None:
    """The error names the variable, not the path, and nothing is left running."""
    environ = {
        "OTEL_INTERCEPT_FILE": path,
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }

    with pytest.raises(ConfigurationError, match="OTEL_INTERCEPT_FILE") as caught:
        run(environ)

    assert "nowhere" not in str(caught.value)
    assert filters() == []


def test_a_metrics_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """When the second exporter cannot be made, the first one does not stay open."""
    (tmp_path / "spans.metrics.jsonl").mkdir()
    environ = {
        "OTEL_INTERCEPT_FILE": str(tmp_path / "spans.jsonl"),
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "otlp_json_file",
    }

    with pytest.raises(ConfigurationError, match="OTEL_INTERCEPT_FILE"):
        run(environ)

    assert filters() == []


def test_a_variable_of_the_process_that_breaks_an_exporter_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An exporter that cannot be made is one clear error, and no thread is left."""
    before = {*threading.enumerate()}
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", CANARY)

    with pytest.raises(ConfigurationError) as caught:
        run(
            {
                "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
                "OTEL_INTERCEPT_FAILURE_LOGS": "true",
            }
        )

    assert CANARY not in str(caught.value)
    assert caught.value.__context__ is None
    assert {*threading.enumerate()} <= before


def partial_success() -> Answer:
    """Return an answer that rejects one span in an otherwise good response."""
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message=CANARY)
    response = ExportTraceServiceResponse(partial_success=partial)
    return Answer(body=response.SerializeToString())


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(partial_success(), id="rejects-a-part"),
        pytest.param(
            Answer(status=302, headers=(("location", "http://login/"),)), id="redirects"
        ),
        pytest.param(Answer(status=304), id="not-modified"),
    ],
)
def test_an_answer_that_only_looks_like_success_is_a_failure(answer: Answer) -> None:
    """A redirect to a login page, or a partly rejected batch, was not exported."""
    with HttpCollector(answer) as server:
        balance = run(environ_for(server, OTEL_METRICS_EXPORTER="none"))

    assert balance == Balance(3, 3, 0, 0, 3, 0, 0)
    assert server.count("traces") >= 1


def test_rejected_points_make_a_failed_export() -> None:
    """The same holds for metrics."""
    response = ExportMetricsServiceResponse(
        partial_success=ExportMetricsPartialSuccess(rejected_data_points=1)
    )
    with (
        HttpCollector(Answer(body=response.SerializeToString())) as server,
        configure(environ_for(server, OTEL_TRACES_EXPORTER="none")) as telemetry,
    ):
        flushed = telemetry.flush()

    assert not flushed


@pytest.mark.parametrize(
    "body", [b"", b"ok", b"{}", b"\xff\xff\xff"], ids=["empty", "ok", "json", "junk"]
)
def test_a_plain_success_with_any_body_is_a_success(body: bytes) -> None:
    """Collectors that answer 200 with something else have taken the batch."""
    with HttpCollector(Answer(body=body)) as server:
        balance = run(environ_for(server, OTEL_METRICS_EXPORTER="none"))

    assert balance.exported == 3


HTTP_ANSWERS = [
    Answer(status=400, reason=f"Bad {CANARY}", body=CANARY.encode()),
    Answer(status=401, reason=CANARY, headers=(("www-authenticate", CANARY),)),
    Answer(status=429, reason=CANARY, headers=(("retry-after", CANARY),)),
    Answer(status=500, reason=CANARY, body=CANARY.encode()),
    Answer(status=503, reason=CANARY, body=CANARY.encode()),
    Answer(status=799, reason=CANARY),
    Answer(status=302, headers=(("location", f"http://{CANARY}/"),)),
    Answer(garbage=f"{CANARY} nonsense\r\n\r\n".encode()),
    Answer(garbage=f"HTTP/1.1 200 OK\r\n{CANARY}\r\n\r\n".encode()),
    Answer(
        garbage=b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        + CANARY.encode()
    ),
    Answer(garbage=b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n" + CANARY.encode()),
    partial_success(),
    Answer(hang=True),
    Answer(),
]


@pytest.mark.parametrize("answer", HTTP_ANSWERS, ids=range(len(HTTP_ANSWERS)))
def test_no_secret_of_an_http_endpoint_is_logged(
    answer: Answer, everything: Everything, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the collector says, its words and our URL and headers are not seen."""
    with HttpCollector(answer) as server:
        base = server.url.replace("http://", f"http://user:{CANARY}@")
        environ = environ_for(
            server,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{base}/{CANARY}?token={CANARY}",
            OTEL_EXPORTER_OTLP_HEADERS=f"x-key={CANARY}",
            OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
        )
        run(environ)
        still_sent = server.raw()

    output = capfd.readouterr()
    assert CANARY not in everything.text.getvalue()
    assert CANARY not in output.out + output.err
    assert f"/{CANARY}/v1/traces?token={CANARY}".encode() in still_sent
    assert f"x-key: {CANARY}".encode() in still_sent
    assert b"authorization: basic" in still_sent.lower()


GRPC_CODES = ["UNKNOWN", "UNAVAILABLE", "UNAUTHENTICATED", "INTERNAL", "OK"]


@pytest.mark.parametrize("code", GRPC_CODES)
@pytest.mark.parametrize("body", [b"", b"\xff" + CANARY.encode()], ids=["", "junk"])
def test_no_secret_of_a_grpc_endpoint_is_logged(
    code: str,
    body: bytes,
    everything: Everything,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The collector's status text, our path, query and headers stay out of the logs."""
    answer = Answer(code=grpc.StatusCode[code], details=CANARY, body=body)
    with GrpcCollector(answer) as server:
        environ = environ_for(
            server,
            "grpc",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{server.url}/{CANARY}?token={CANARY}",
            OTEL_EXPORTER_OTLP_HEADERS=f"x-key={CANARY}",
            OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
        )
        run(environ)

    output = capfd.readouterr()
    assert server.received[0].headers["x-key"] == CANARY
    assert CANARY not in everything.text.getvalue()
    assert CANARY not in output.out + output.err


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_an_absent_collector_is_reported_without_its_url(
    protocol: str, everything: Everything
) -> None:
    """When nothing listens there is a warning, and it holds no part of the URL."""
    port = closed_port()
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}/?token={CANARY}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }

    balance = run(environ)

    assert balance.failed == 3
    told = {line.split()[0] for line in everything.warnings_of("otel_intercept.sdk")}
    assert told == {"spans", "metrics"}
    assert CANARY not in everything.text.getvalue()


@pytest.mark.parametrize("host", ["a" * 70, "*"])
def test_a_host_that_cannot_exist_is_reported_without_its_url(
    host: str, everything: Everything
) -> None:
    """A URL that the HTTP library refuses makes a failed export and no leak."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}.{CANARY}/?token={CANARY}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }

    balance = run(environ)

    assert balance.failed == 3
    assert CANARY not in everything.text.getvalue()


@pytest.mark.parametrize("where", ["given", "process"])
def test_malformed_headers_are_not_repeated(
    where: str, monkeypatch: pytest.MonkeyPatch, everything: Everything
) -> None:
    """Headers in the wrong form, which the SDK logs as they are, are seen nowhere."""
    malformed = f"Authorization: Bearer {CANARY}"
    with HttpCollector() as server:
        if where == "given":
            with pytest.raises(ConfigurationError) as caught:
                run(environ_for(server, OTEL_EXPORTER_OTLP_HEADERS=malformed))
            assert CANARY not in str(caught.value)
        else:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", malformed)
            run(environ_for(server))

    assert CANARY not in everything.text.getvalue()


def test_a_problem_is_reported_with_safe_facts_and_once(everything: Everything) -> None:
    """Of many refused batches the log has one line per signal, with the status."""
    with (
        HttpCollector(Answer(status=401)) as server,
        configure(environ_for(server)) as telemetry,
    ):
        for _ in range(5):
            record_exchanges(telemetry, 1)
            telemetry.flush()

    lines = everything.warnings_of("otel_intercept.sdk")
    assert server.count("traces") == 5
    assert sorted(lines) == [
        "metrics were not exported (HTTP 401, Unauthorized)",
        "spans were not exported (HTTP 401, Unauthorized)",
    ]


def test_the_kind_of_a_broken_connection_is_told(everything: Everything) -> None:
    """While it is retried, a lost connection is named in our own words."""
    with HttpCollector(Answer(garbage=b"\0\r\n\r\n")) as server:
        environ = environ_for(server, OTEL_METRICS_EXPORTER="none")
        run(environ | {"OTEL_EXPORTER_OTLP_TIMEOUT": "2.5"})

    lines = everything.warnings_of("otel_intercept.sdk")
    assert any("the connection failed" in line for line in lines)
    assert all("127.0.0.1" not in line for line in lines)


def test_the_logs_of_others_are_left_alone(everything: Everything) -> None:
    """While configured, the application's own HTTP calls are logged as ever."""
    with HttpCollector() as server, configure(environ_for(server)) as telemetry:
        with urllib3.PoolManager() as pool:
            pool.request("POST", f"{server.url}/elsewhere/traces", body=b"")
        record_exchanges(telemetry, 1)
        telemetry.flush()

    lines = [
        record.getMessage()
        for record in everything.records
        if record.name == "urllib3.connectionpool"
    ]
    assert any("/elsewhere/traces" in line for line in lines)
    assert not any("/v1/traces" in line for line in lines)


def filters() -> list[logging.Filter]:
    """Return every filter of ours on any logger."""
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    return [
        each
        for logger in loggers
        for each in logger.filters
        if isinstance(each, logging.Filter)
        and type(each).__module__.startswith("otel_intercept.")
    ]


def remove(kept: list[logging.Filter]) -> None:
    """Take away the filters that a hanging export left behind on purpose."""
    for logger in map(logging.getLogger, list(logging.root.manager.loggerDict)):
        for each in kept:
            logger.removeFilter(each)


def test_the_filters_go_with_the_telemetry() -> None:
    """Loggers are as before when the block has ended."""
    with HttpCollector() as server, configure(environ_for(server)):
        during = filters()

    assert during
    assert filters() == []


def test_an_export_that_was_given_up_stays_silent(everything: Everything) -> None:
    """What an abandoned export logs after the shutdown is still filtered."""
    with HttpCollector(Answer(hang=True)) as server:
        environ = environ_for(
            server,
            OTEL_EXPORTER_OTLP_ENDPOINT=f"{server.url}?token={CANARY}",
            OTEL_EXPORTER_OTLP_TIMEOUT="30",
        )
        with Stopwatch() as watch, configure(environ) as telemetry:
            record_exchanges(telemetry, 1)
            assert server.wait_for("traces")
        kept = filters()
    wait_until(lambda: telemetry.idle)

    assert watch.took_s < 8.0
    assert kept
    assert telemetry.balance() == Balance(1, 1, 0, 0, 1, 0, 0)
    assert CANARY not in everything.text.getvalue()
    remove(kept)


def test_the_balance_is_printed_at_the_end(everything: Everything) -> None:
    """The last thing that is logged at INFO is what became of all records."""
    with HttpCollector() as server:
        run(environ_for(server))

    lines = [
        record.getMessage()
        for record in everything.records
        if record.name == "otel_intercept.telemetry"
    ]
    (line,) = lines
    assert line == (
        "telemetry balance: started=3 ended=3 open=0 exported=3 failed=0 dropped=0 "
        "queued=0"
    )


def test_nothing_is_made_global() -> None:
    """No provider is set for the whole process, and no handler is added to a logger."""
    handlers = list(logging.getLogger().handlers)
    with HttpCollector() as server, configure(environ_for(server)):
        inside = sys.modules["opentelemetry.trace"].__dict__["_TRACER_PROVIDER"]

    assert inside is None
    assert logging.getLogger().handlers == handlers
