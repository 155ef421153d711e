"""Doctor's check of the export path, against collectors that answer in every way."""

import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
import trustme
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from otel_intercept.cli.doctor.exports import ExportCheck, check_exports, is_told
from otel_intercept.sdk.probe import Answered
from tests.collectors import (
    Answer,
    Collector,
    GrpcCollector,
    HttpCollector,
    closed_port,
)

CANARY = "sk-canary-e4b0"
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL = "OTEL_EXPORTER_OTLP_PROTOCOL"
TIMEOUT = "OTEL_EXPORTER_OTLP_TIMEOUT"

REJECTING = ExportTraceServiceResponse(
    partial_success=ExportTracePartialSuccess(rejected_spans=1, error_message=CANARY)
).SerializeToString()


def check(collector: Collector, **variables: str) -> ExportCheck:
    """Check the export of traces to a collector, and nothing else."""
    grpc_name = "grpc" if isinstance(collector, GrpcCollector) else "http/protobuf"
    environ = {
        ENDPOINT: collector.url,
        PROTOCOL: grpc_name,
        "OTEL_METRICS_EXPORTER": "none",
        TIMEOUT: "30",
    }
    traces, metrics = check_exports(environ | variables)
    assert metrics.finding is None
    return traces


@pytest.mark.parametrize("collector", [HttpCollector(), GrpcCollector()])
def test_a_good_collector_gets_one_probe_per_signal(collector: Collector) -> None:
    """Traces, metrics and configured logs are each answered, under the user's name."""
    name = "grpc" if isinstance(collector, GrpcCollector) else "http/protobuf"

    with collector:
        checks = check_exports(
            {
                ENDPOINT: collector.url,
                PROTOCOL: name,
                "OTEL_INTERCEPT_FAILURE_LOGS": "true",
                "OTEL_SERVICE_NAME": "my-proxy",
                "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            }
        )

    assert [item.signal for item in checks] == ["traces", "metrics", "logs"]
    assert {item.answer for item in checks} == {Answered.ACCEPTED}
    assert all(item.finding is None for item in checks)
    assert len(collector.received) == 3
    assert all(b"my-proxy" in got.body for got in collector.received)
    assert all(b"otel_intercept.probe" in got.body for got in collector.received)


@pytest.mark.parametrize(
    ("answer", "expected", "words"),
    [
        (Answer(401), Answered.UNAUTHORIZED, "OTEL_EXPORTER_OTLP_HEADERS"),
        (Answer(403), Answered.UNAUTHORIZED, "OTEL_EXPORTER_OTLP_HEADERS"),
        (Answer(404), Answered.NO_SUCH_PATH, "without /v1/traces"),
        (Answer(413), Answered.TOO_LARGE, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
        (Answer(429), Answered.BUSY, "room"),
        (Answer(503), Answered.BUSY, "room"),
        (Answer(400), Answered.BAD_REQUEST, "COMPRESSION"),
        (Answer(500), Answered.SERVER_ERROR, "own log"),
        (
            Answer(307, headers=(("location", f"http://x/{CANARY}"),)),
            Answered.REDIRECTED,
            "do not follow",
        ),
        (Answer(body=REJECTING), Answered.PARTLY_REJECTED, "limits"),
        (Answer(hang=True), Answered.TIMED_OUT, "OTEL_EXPORTER_OTLP_TIMEOUT"),
        (Answer(garbage=b"SMTP ready\r\n"), Answered.NO_OTLP, "scheme, port"),
    ],
)
def test_each_http_answer_has_its_line(
    answer: Answer, expected: Answered, words: str
) -> None:
    """What the collector answers is told apart, with what to do about it."""
    with HttpCollector(answer=answer) as collector:
        found = check(collector, **{TIMEOUT: "0.5" if answer.hang else "30"})

    assert found.answer is expected
    assert found.finding is not None
    assert words in found.finding.add


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (Answer(code=grpc.StatusCode.UNAUTHENTICATED), Answered.UNAUTHORIZED),
        (Answer(code=grpc.StatusCode.PERMISSION_DENIED), Answered.UNAUTHORIZED),
        (Answer(code=grpc.StatusCode.UNIMPLEMENTED), Answered.NO_SUCH_PATH),
        (Answer(code=grpc.StatusCode.RESOURCE_EXHAUSTED), Answered.BUSY),
        (Answer(code=grpc.StatusCode.INVALID_ARGUMENT), Answered.BAD_REQUEST),
        (Answer(code=grpc.StatusCode.INTERNAL), Answered.SERVER_ERROR),
        (Answer(code=grpc.StatusCode.UNAVAILABLE), Answered.BUSY),
        (Answer(body=REJECTING), Answered.PARTLY_REJECTED),
        (Answer(body=b"\xff\xff"), Answered.NO_OTLP),
        (Answer(hang=True), Answered.TIMED_OUT),
    ],
)
def test_each_grpc_answer_has_its_line(answer: Answer, expected: Answered) -> None:
    """The same for gRPC, whose codes say the same."""
    with GrpcCollector(answer=answer) as collector:
        found = check(collector, **{TIMEOUT: "0.5" if answer.hang else "30"})

    assert found.answer is expected
    assert found.finding is not None


def test_a_grpc_port_that_is_spoken_to_in_http_is_named() -> None:
    """The wrong protocol is told as such, and which one is right."""
    with GrpcCollector() as collector:
        found = check(collector, **{PROTOCOL: "http/protobuf"})

    assert found.answer is Answered.SPEAKS_GRPC
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=grpc" in found.add


def test_an_http_port_that_is_spoken_to_in_grpc_is_named() -> None:
    """The reverse is told as well."""
    with HttpCollector() as collector:
        found = check(collector, **{PROTOCOL: "grpc"})

    assert found.answer is Answered.SPEAKS_HTTP
    assert "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf" in found.add


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_port_on_which_nobody_listens_is_named(protocol: str) -> None:
    """A refused connection is found before any exporter waits for its timeout."""
    url = f"http://127.0.0.1:{closed_port()}"

    found = check_exports({ENDPOINT: url, PROTOCOL: protocol})

    assert {item.answer for item in found} == {Answered.REFUSED}
    assert found[0].endpoint.endswith(url.removeprefix("http:"))


def test_a_host_that_is_unknown_is_named() -> None:
    """A name that does not resolve is told from a server that is down."""
    found = check_exports({ENDPOINT: "http://collector.invalid:4318"})

    assert {item.answer for item in found} == {Answered.NO_SUCH_HOST}


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_certificate_that_is_not_trusted_is_named(protocol: str) -> None:
    """A TLS handshake that fails is told as such."""
    with _tls_server() as port:
        found = check_exports(
            {ENDPOINT: f"https://127.0.0.1:{port}", PROTOCOL: protocol, TIMEOUT: "30"}
        )

    assert {item.answer for item in found} == {Answered.TLS_FAILED}
    assert "OTEL_EXPORTER_OTLP_CERTIFICATE" in found[0].add


def test_a_tls_collector_that_is_trusted_accepts(tmp_path: Path) -> None:
    """Certificates of the environment are used, for gRPC and what checks it."""
    authority = trustme.CA()
    own = authority.issue_cert("client")
    files = {
        "OTEL_EXPORTER_OTLP_CERTIFICATE": authority.cert_pem,
        "OTEL_EXPORTER_OTLP_CLIENT_KEY": own.private_key_pem,
        "OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": own.cert_chain_pems[0],
    }
    variables = {}
    for name, blob in files.items():
        path = tmp_path / name
        blob.write_to_path(str(path))
        variables[name] = str(path)

    with GrpcCollector(authority=authority) as collector:
        accepted = check(collector, **variables)
        collector.answer = Answer(code=grpc.StatusCode.UNAVAILABLE)
        busy = check(collector, **variables)

    assert accepted.answer is Answered.ACCEPTED
    assert busy.answer is Answered.BUSY


@contextmanager
def _tls_server() -> Iterator[int]:
    """Shake hands with a certificate of an authority that nobody knows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                try:
                    context.wrap_socket(connection, server_side=True).close()
                except OSError:
                    connection.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_malformed_variable_is_a_finding_in_our_words() -> None:
    """A variable that cannot work is named, and its value is not repeated."""
    (found,) = check_exports({ENDPOINT: f"ftp://{CANARY}"})

    assert found.finding is not None
    assert ENDPOINT in found.finding.what
    assert CANARY not in found.finding.what + found.finding.add


def test_telemetry_that_is_switched_off_is_a_finding() -> None:
    """Nothing is exported then, which a user should know."""
    (disabled,) = check_exports({"OTEL_SDK_DISABLED": "true"})
    off, _ = check_exports(
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
    )

    assert "OTEL_SDK_DISABLED" in disabled.add
    assert off.add == "set OTEL_TRACES_EXPORTER=otlp"


def test_a_file_needs_no_collector(tmp_path: Path) -> None:
    """What goes to a file is no finding."""
    found = check_exports(
        {
            "OTEL_INTERCEPT_FILE": str(tmp_path / "f.jsonl"),
            "OTEL_TRACES_EXPORTER": "otlp_json_file",
            "OTEL_METRICS_EXPORTER": "none",
        }
    )

    assert [item.finding for item in found] == [None, None]
    assert found[0].said == "go to a file or the console"


@pytest.mark.parametrize(
    "answer",
    [
        Answer(401, reason=CANARY, body=CANARY.encode()),
        Answer(body=REJECTING),
        Answer(garbage=f"HTTP/1.1 {CANARY}\r\n".encode()),
    ],
)
def test_nothing_of_endpoint_headers_or_answer_is_told(answer: Answer) -> None:
    """User, path and query of the endpoint, headers and answers stay where they are."""
    with HttpCollector(answer=answer) as collector:
        secret = collector.url.replace("//", f"//u:{CANARY}@")
        found = check(
            collector,
            **{
                ENDPOINT: f"{secret}/{CANARY}",
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{secret}/{CANARY}?k={CANARY}",
                "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={CANARY}",
            },
        )

    assert CANARY.encode() in collector.raw()
    assert found.endpoint == collector.url
    assert CANARY not in repr((found, found.finding))


def test_an_environment_that_says_nothing_is_known() -> None:
    """Blank variables say nothing either."""
    assert not is_told({ENDPOINT: " ", "PATH": "/bin"})
    assert is_told({ENDPOINT: "http://h"})
