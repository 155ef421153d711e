"""Failures leave as log records when asked for: safe, counted, and out of the way."""

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from msgspec.structs import replace
from opentelemetry._logs import LogRecord, NoOpLoggerProvider, SeverityNumber
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordProcessor,
    ReadableLogRecord,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    LogRecordExporter,
    LogRecordExportResult,
    SimpleLogRecordProcessor,
)
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import TraceFlags

from otel_intercept import RolloutRegistry, semconv
from otel_intercept.errors import ConfigurationError
from otel_intercept.failure import describe
from otel_intercept.sdk import configure
from otel_intercept.sdk.environment import read_environment
from otel_intercept.sdk.exporters import build_log_exporter
from otel_intercept.sdk.fan_out import FanOutLogExporter
from otel_intercept.sdk.otlp_json import logs_line
from otel_intercept.semconv import Fate, Phase, RolloutOutcome
from otel_intercept.telemetry import Settings, Telemetry
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.translate.bounded import within
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.guard_logs import LogGuard
from otel_intercept.translate.guard_metrics import metrics_of
from otel_intercept.translate.log_sender import MAX_WAITING, LogSender
from otel_intercept.translate.logs import LogFactory
from otel_intercept.translate.scope import SCOPE
from tests.collectors import Answer, Collector, GrpcCollector, HttpCollector
from tests.conftest import logged
from tests.samples import (
    EXCHANGE_ID,
    SECOND_NS,
    START_NS,
    TRACE_ID,
    ended,
    exchange,
    failed_exchange,
    failure_seen,
    rollout_ref,
    started,
    wait_until,
)
from tests.stopwatch import Stopwatch

CANARY = "sk-canary-0451"
INLINE = Settings(recorder="inline")
FAST = Settings(schedule_delay_s=0.02)
RESOURCE = Resource({"service.name": "trainer"})
PROTOCOLS = [
    pytest.param(HttpCollector, "http/protobuf", id="http"),
    pytest.param(GrpcCollector, "grpc", id="grpc"),
]


class Scripted(LogRecordExporter):
    """Does what it is told with each batch, and notes the batches."""

    def __init__(self, act: Callable[[], LogRecordExportResult]) -> None:
        self._act = act
        self.batches: list[list[ReadableLogRecord]] = []
        self.closed = False

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Note the batch and act."""
        self.batches.append(list(batch))
        return self._act()

    def logs(self) -> list[ReadableLogRecord]:
        """Return every log record of all batches."""
        return [log for batch in self.batches for log in batch]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Have nothing to flush."""
        return True

    def shutdown(self) -> None:
        """Note the shutdown."""
        self.closed = True


def succeed() -> LogRecordExportResult:
    """Take a batch."""
    return LogRecordExportResult.SUCCESS


def refuse() -> LogRecordExportResult:
    """Refuse a batch."""
    return LogRecordExportResult.FAILURE


def raise_error() -> LogRecordExportResult:
    """Raise what any exporter may raise."""
    raise RuntimeError(CANARY)


def panic() -> LogRecordExportResult:
    """Raise what a Rust exporter raises: no Exception."""
    raise BaseException(CANARY)  # noqa: TRY002 - that is the point


class RaisingProcessor(LogRecordProcessor):
    """A log processor of the application that fails at everything."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        """Raise its secret."""
        raise RuntimeError(CANARY)

    def shutdown(self) -> None:
        """Have nothing to shut down."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Have nothing to flush."""
        return True


def put_failures(telemetry: Telemetry, number: int, *, sampled: bool = True) -> None:
    """Hand over so many exchanges that failed."""
    for index in range(number):
        telemetry.begin(sampled)
        telemetry.put(
            replace(failed_exchange(rollout_ref(sampled=sampled)), span_id=index + 1)
        )


def fates(telemetry: Telemetry, reader: InMemoryMetricReader) -> dict[str, float]:
    """Return how many log records had which fate, as the metrics tell it."""
    data = reader.get_metrics_data()
    assert data is not None
    return {
        str((point.attributes or {})[semconv.RECORD_FATE]): getattr(point, "value", -1)
        for metric in metrics_of(data)
        if metric.name == semconv.RECORDS.name
        for point in metric.data.data_points
        if (point.attributes or {})[semconv.RECORD_SIGNAL] == "logs"
    }


def sample_log() -> ReadableLogRecord:
    """Return the log record of a failed exchange."""
    log = LogFactory(RESOURCE, SCOPE).log_of(failed_exchange())
    assert log is not None
    return log


def test_a_failure_is_one_log_record_on_the_span_that_it_stands_on() -> None:
    """It has the ids, time and attributes of the exception event, and no body."""
    recorder = TelemetryRecorder()

    for record in (started(), failed_exchange(), failure_seen(), exchange()):
        recorder.telemetry.begin(True)
        recorder.telemetry.put(record)
    end = ended(outcome=RolloutOutcome.FAILED, failed=failure_seen().failure)
    recorder.telemetry.begin(True)
    recorder.telemetry.put(end)
    logs = recorder.logs()
    eventful = [span for span in recorder.spans() if span.events]

    assert len(logs) == len(eventful) == 2
    for log, span in zip(logs, eventful, strict=True):
        (event,) = span.events
        said = log.log_record
        assert span.context is not None
        assert (said.trace_id, said.span_id) == (TRACE_ID, span.context.span_id)
        assert said.trace_flags == TraceFlags.SAMPLED
        assert said.timestamp == said.observed_timestamp == START_NS + SECOND_NS
        assert said.event_name == "intercept.failure"
        assert said.severity_number is SeverityNumber.ERROR
        assert said.severity_text == "ERROR"
        assert said.body is None
        assert dict(said.attributes or {}) == {
            **dict(event.attributes or {}),
            "intercept.rollout.id": "r-1",
        }
        assert log.resource == span.resource
        assert log.instrumentation_scope == span.instrumentation_scope
        assert set(said.attributes or {}) <= semconv.LOG_ATTRIBUTES
    assert logs[0].log_record.span_id == EXCHANGE_ID


def test_failures_of_unsampled_rollouts_are_logged_and_say_so() -> None:
    """Logs are not sampled: the ids are there, and the flags say that no span is."""
    recorder = TelemetryRecorder(sampler=ALWAYS_OFF)
    registry = RolloutRegistry(recorder.telemetry)
    rollout = registry.open("r-1")

    rollout.fail(TimeoutError(CANARY), phase=Phase.UPSTREAM_CALL)
    registry.close("r-1")

    (log,) = recorder.logs()
    assert recorder.spans() == []
    assert f"{log.log_record.trace_id:032x}" == rollout.trace_id
    assert log.log_record.span_id != 0
    assert log.log_record.trace_flags == 0
    assert dict(log.log_record.attributes or {})["error.type"] == "upstream_timeout"
    assert b"upstream_timeout" in recorder.exported_bytes()
    assert CANARY.encode() not in recorder.exported_bytes()


def test_log_records_are_counted_by_what_became_of_them() -> None:
    """Exported, refused, and beyond the room: every failure has one fate."""
    reader = InMemoryMetricReader()
    answers = iter([succeed, refuse, raise_error, panic, succeed])
    exporter = Scripted(lambda: next(answers)())
    settings = Settings(schedule_delay_s=3600, export_batch_size=2, queue_size=100)
    telemetry = Telemetry(
        log_exporter=exporter, metric_reader=reader, settings=settings
    )

    flushed = []
    for _ in range(5):
        put_failures(telemetry, 2)
        flushed.append(telemetry.flush())
    counted = fates(telemetry, reader)
    telemetry.shutdown()

    assert flushed == [True, False, False, False, True]
    assert counted == {"exported": 4, "failed": 6, "dropped": 0}
    assert exporter.closed


def test_what_finds_no_room_is_dropped_and_counted() -> None:
    """Memory is bounded before the pipeline and behind it; nothing is lost silently."""
    free, reader = threading.Event(), InMemoryMetricReader()

    def hang() -> LogRecordExportResult:
        free.wait(30)
        return LogRecordExportResult.SUCCESS

    exporter = Scripted(hang)
    sender = LogSender(exporter, Settings(schedule_delay_s=0.01, queue_size=10**6))
    telemetry = Telemetry(
        log_exporter=Scripted(succeed),
        metric_reader=reader,
        settings=Settings(recorder="inline", queue_size=4),
    )

    sender.put(sample_log())
    assert wait_until(lambda: bool(exporter.batches))
    for _ in range(MAX_WAITING + 7):
        sender.put(sample_log())
    full = sender.fates
    free.set()
    sender.shutdown(10)
    # The records' queue has one more place, its reserve for failures.
    put_failures(telemetry, 9)
    telemetry.flush()

    assert full[Fate.DROPPED] == 7
    assert sender.fates == {
        Fate.EXPORTED: MAX_WAITING + 1,
        Fate.FAILED: 0,
        Fate.DROPPED: 7,
    }
    assert fates(telemetry, reader) == {"exported": 4, "failed": 0, "dropped": 5}


def test_a_log_exporter_that_hangs_holds_up_neither_spans_nor_shutdown() -> None:
    """Spans leave meanwhile, shutdown keeps its budget, and all is accounted for."""
    free, spans, reader = threading.Event(), InMemorySpanExporter(), None

    def hang() -> LogRecordExportResult:
        free.wait(30)
        return LogRecordExportResult.SUCCESS

    reader = InMemoryMetricReader()
    telemetry = Telemetry(
        span_exporter=spans,
        metric_reader=reader,
        log_exporter=Scripted(hang),
        settings=FAST,
    )

    put_failures(telemetry, 3)
    spans_left = wait_until(lambda: len(spans.get_finished_spans()) == 3)
    flushed = telemetry.flush(0.2)
    with Stopwatch() as watch:
        telemetry.shutdown(1.0)
    idle = telemetry.idle
    free.set()

    assert spans_left
    assert not flushed
    assert watch.took_s < 1.5
    assert not idle
    assert telemetry.balance().exported == 3


def test_shutdown_exports_what_waits_and_then_nothing_more() -> None:
    """What was put before leaves; what comes after is dropped."""
    exporter = Scripted(succeed)
    sender = LogSender(exporter, Settings(schedule_delay_s=3600))

    sender.put(sample_log())
    sender.shutdown(5)
    sender.put(sample_log())

    assert [len(batch) for batch in exporter.batches] == [1]
    assert sender.fates[Fate.DROPPED] == 1
    assert sender.idle
    assert exporter.closed


def test_what_shutdown_cannot_send_counts_as_failed_or_dropped() -> None:
    """The batch on its way has failed, and the ones behind it are dropped."""
    free = threading.Event()
    exporter = Scripted(lambda: succeed() if free.wait(30) else refuse())
    sender = LogSender(exporter, Settings(schedule_delay_s=0.01, export_batch_size=2))

    for _ in range(5):
        sender.put(sample_log())
    assert wait_until(lambda: bool(exporter.batches))
    sender.shutdown(0.2)
    counted = sender.fates
    free.set()
    assert wait_until(lambda: sender.idle)

    in_flight = len(exporter.batches[0])
    assert counted == {
        Fate.EXPORTED: 0,
        Fate.FAILED: in_flight,
        Fate.DROPPED: 5 - in_flight,
    }
    assert sender.fates == counted


def test_a_batch_is_sent_when_it_is_full_or_old() -> None:
    """Neither a full batch nor an old log record waits for a flush."""
    quick, full = Scripted(succeed), Scripted(succeed)
    aging = LogSender(quick, Settings(schedule_delay_s=0.05))
    filling = LogSender(full, Settings(schedule_delay_s=3600, export_batch_size=3))

    aging.put(sample_log())
    for _ in range(3):
        filling.put(sample_log())

    assert wait_until(lambda: aging.fates[Fate.EXPORTED] == 1)
    assert wait_until(lambda: filling.fates[Fate.EXPORTED] == 3)
    aging.shutdown(5)
    filling.shutdown(5)


def test_only_failure_events_with_known_attributes_pass_the_guard() -> None:
    """Other events are dropped whole; bodies and foreign attributes are cut away."""
    guard = Guard()
    plain = sample_log()
    record = plain.log_record

    def log(
        *,
        event_name: str = "intercept.failure",
        body: str | None = None,
        severity: SeverityNumber = SeverityNumber.ERROR,
        attributes: Mapping[str, object] | None = None,
        scope: InstrumentationScope | None = SCOPE,
        timestamp: int | None = START_NS,
    ) -> ReadableLogRecord:
        made = LogRecord(
            timestamp=timestamp,
            context=record.context,
            severity_number=severity,
            body=body,
            event_name=event_name,
        )
        vars(made)["attributes"] = attributes
        return ReadableLogRecord(made, RESOURCE, scope)

    class Liar(str):
        __slots__ = ()

    attributes = {
        "error.type": "_OTHER",
        "exception.message": CANARY,
        "gen_ai.request.model": "gpt-5",
        "exception.type": Liar(CANARY),
        CANARY: 1,
    }

    passed = LogGuard(guard).log(log(body=CANARY, attributes=attributes))
    dropped = guard.dropped
    others = [
        LogGuard(guard).log(other)
        for other in (
            log(event_name=CANARY),
            log(severity=SeverityNumber.INFO),
            log(scope=None),
            log(timestamp=None),
            log(timestamp=2**63),
        )
    ]

    assert passed is not None
    assert dict(passed.log_record.attributes or {}) == {"error.type": "_OTHER"}
    assert passed.log_record.body is None
    assert passed.log_record.span_id == EXCHANGE_ID
    assert dropped == 5
    assert others == [None] * 5
    assert guard.dropped == 10
    assert CANARY.encode() not in encode_logs([passed]).SerializeToString()


def test_log_records_of_records_pass_the_guard_unchanged() -> None:
    """The guard holds nothing of ours back."""
    guard = Guard()
    log = sample_log()

    safe = LogGuard(guard).log(log)

    assert safe is not None
    assert guard.dropped == 0
    assert encode_logs([safe]) == encode_logs([log])


def test_a_failure_that_cannot_be_logged_is_dropped_and_stops_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record with an impossible id costs its own log record and no other."""
    recorder = TelemetryRecorder()
    caplog.set_level(0)
    impossible = replace(failed_exchange(), span_id=0)

    for record in (impossible, failed_exchange()):
        recorder.telemetry.begin(True)
        recorder.telemetry.put(record)

    assert len(recorder.logs()) == 1
    dropped = {"intercept.record.signal": "logs", "intercept.record.fate": "dropped"}
    assert recorder.value("intercept.records", dropped) == 1


@pytest.mark.parametrize(
    "processor", [BatchLogRecordProcessor, SimpleLogRecordProcessor]
)
def test_a_logger_provider_of_the_application_gets_the_same_log_records(
    processor: type[BatchLogRecordProcessor] | type[SimpleLogRecordProcessor],
) -> None:
    """Its resource stands on them, the rest is as over our exporters; it lives on."""
    memory = Scripted(succeed)
    provider = LoggerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_log_record_processor(processor(memory))
    telemetry = Telemetry(logger_provider=provider)
    plain = TelemetryRecorder()

    for target in (telemetry, plain.telemetry):
        put_failures(target, 3)
    flushed = telemetry.flush()
    telemetry.shutdown()
    provider.get_logger("theirs").emit(LogRecord(body="later"))
    provider.force_flush()
    logs = memory.logs()
    provider.shutdown()

    assert flushed
    assert [log.log_record.body for log in logs] == [None] * 3 + ["later"]
    for log, expected in zip(logs, plain.logs(), strict=False):
        ours, theirs = expected.log_record, log.log_record
        assert dict(theirs.attributes or {}) == dict(ours.attributes or {})
        assert (theirs.trace_id, theirs.span_id, theirs.trace_flags) == (
            ours.trace_id,
            ours.span_id,
            ours.trace_flags,
        )
        assert (theirs.timestamp, theirs.event_name, theirs.severity_number) == (
            ours.timestamp,
            ours.event_name,
            ours.severity_number,
        )
        assert log.resource is RESOURCE
        assert log.instrumentation_scope == SCOPE


def test_a_log_processor_that_raises_counts_as_failed_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What an application's processor raises is not passed on and not repeated."""
    caplog.set_level(0)
    memory, reader = Scripted(succeed), InMemoryMetricReader()
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(SimpleLogRecordProcessor(memory))
    provider.add_log_record_processor(RaisingProcessor())
    telemetry = Telemetry(
        logger_provider=provider, metric_reader=reader, settings=INLINE
    )

    put_failures(telemetry, 2)
    flushed = telemetry.flush()

    assert not flushed
    assert fates(telemetry, reader) == {"exported": 0, "failed": 2, "dropped": 0}
    assert len(memory.logs()) == 2
    assert CANARY not in logged(caplog)
    assert "a log processor of the application raised" in logged(caplog)


def test_a_logger_provider_is_the_sdks_and_stands_alone() -> None:
    """Neither a provider that does nothing nor two ways out are accepted."""
    build: type = Telemetry

    with pytest.raises(ConfigurationError, match="logger_provider must be a"):
        build(logger_provider=NoOpLoggerProvider())
    with pytest.raises(ConfigurationError, match="log_exporter or logger_provider"):
        Telemetry(log_exporter=Scripted(succeed), logger_provider=LoggerProvider())


@pytest.mark.parametrize(("collector", "protocol"), PROTOCOLS)
def test_log_records_arrive_at_a_collector_when_asked_for(
    collector: type[Collector], protocol: str
) -> None:
    """Over both protocols, with headers of the signal, and the secret nowhere."""
    failed = describe(RuntimeError(CANARY), phase=Phase.HANDLER, key=b"k" * 16)
    with collector() as server:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
            "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
            "OTEL_EXPORTER_OTLP_LOGS_HEADERS": "x-team=blue",
            "OTEL_INTERCEPT_FAILURE_LOGS": "true",
        }
        with configure(environ) as telemetry:
            telemetry.begin(True)
            telemetry.put(exchange(failed=failed))
            assert telemetry.flush()

    (log,) = server.logs()
    (request,) = [got for got in server.received if got.signal == "logs"]
    attributes = {each.key: each.value for each in log.attributes}
    assert log.event_name == "intercept.failure"
    assert log.trace_id == TRACE_ID.to_bytes(16)
    assert log.flags == 1
    assert attributes["intercept.rollout.id"].string_value == "r-1"
    assert attributes["exception.type"].string_value == "RuntimeError"
    assert log.body.WhichOneof("value") is None
    assert request.headers["x-team"] == "blue"
    assert CANARY.encode() not in server.raw()


@pytest.mark.parametrize("value", ["", "false"])
def test_failures_are_not_logged_unless_asked_for(value: str) -> None:
    """By default no log leaves, and the variables of logs are not read either."""
    with HttpCollector() as server:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
            "OTEL_INTERCEPT_FAILURE_LOGS": value,
            "OTEL_LOGS_EXPORTER": "something-of-theirs",
        }
        with configure(environ) as telemetry:
            put_failures(telemetry, 1)

    assert server.count("traces") == 1
    assert server.count("logs") == 0


def test_a_rejected_log_record_makes_a_failed_export() -> None:
    """A collector that takes a batch only in part has not taken it."""
    partial = ExportLogsServiceResponse(
        partial_success=ExportLogsPartialSuccess(
            rejected_log_records=1, error_message=CANARY
        )
    )
    with HttpCollector(Answer(body=partial.SerializeToString())) as server:
        environment = read_environment(
            {
                "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{server.url}/v1/logs",
                "OTEL_INTERCEPT_FAILURE_LOGS": "true",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            }
        )
        assert environment is not None
        exporter = build_log_exporter(environment.logs)
        assert exporter is not None

        result = exporter.export([sample_log()])
        assert within(30, exporter.shutdown)

    assert result is LogRecordExportResult.FAILURE


def test_a_hostile_collector_of_logs_is_not_quoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the endpoint's query nor the collector's words get into our logs."""
    caplog.set_level(0)
    answer = Answer(status=503, reason=CANARY, body=CANARY.encode())
    with HttpCollector(answer) as server:
        environ = {
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": f"{server.url}/v1/logs?key={CANARY}",
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            "OTEL_INTERCEPT_FAILURE_LOGS": "true",
        }
        with configure(environ) as telemetry:
            put_failures(telemetry, 1)
            flushed = telemetry.flush()

    assert not flushed
    assert server.count("logs") >= 1
    assert "reported a problem with telemetry" in logged(caplog)
    assert CANARY not in logged(caplog)


def test_the_console_and_a_file_of_their_own_take_log_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both get the same failure; the file of the spans gets no line of logs."""
    environ = {
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "console,otlp_json_file",
        "OTEL_INTERCEPT_FAILURE_LOGS": "true",
        "OTEL_INTERCEPT_FILE": str(tmp_path / "out.jsonl"),
    }

    with configure(environ) as telemetry:
        put_failures(telemetry, 1)

    (line,) = (tmp_path / "out.logs.jsonl").read_text().splitlines()
    printed = json.loads(capsys.readouterr().out)
    (resource,) = json.loads(line)["resourceLogs"]
    (log,) = resource["scopeLogs"][0]["logRecords"]
    assert log["eventName"] == printed["event_name"] == "intercept.failure"
    assert log["traceId"] == f"{TRACE_ID:032x}"
    assert log["severityNumber"] == 17
    assert "resourceLogs" not in (tmp_path / "out.jsonl").read_text()


def test_a_line_of_logs_is_what_protobuf_encodes_with_hex_ids() -> None:
    """A line parses back into the request, its ids being hex as OTLP JSON has them."""
    line = json.loads(logs_line([sample_log()]))

    (log,) = line["resourceLogs"][0]["scopeLogs"][0]["logRecords"]
    assert (log["traceId"], log["spanId"]) == (
        f"{TRACE_ID:032x}",
        f"{EXCHANGE_ID:016x}",
    )
    del log["traceId"], log["spanId"]
    expected = encode_logs([sample_log()])
    (wanted,) = expected.resource_logs[0].scope_logs[0].log_records
    wanted.ClearField("trace_id")
    wanted.ClearField("span_id")
    assert ParseDict(line, ExportLogsServiceRequest()) == expected


def test_all_log_exporters_are_asked_and_all_must_agree() -> None:
    """One that fails or raises stops no other, and makes the whole a failure."""
    for acts, expected in (
        ((succeed, succeed), LogRecordExportResult.SUCCESS),
        ((refuse, succeed), LogRecordExportResult.FAILURE),
        ((raise_error, succeed), LogRecordExportResult.FAILURE),
    ):
        exporters = [Scripted(act) for act in acts]
        several = FanOutLogExporter.of(exporters)
        assert several is not None

        result = several.export([sample_log()])
        assert within(30, several.shutdown)

        assert result is expected
        assert several.force_flush()
        assert all(len(each.batches) == 1 and each.closed for each in exporters)
    single = Scripted(succeed)
    assert FanOutLogExporter.of([]) is None
    assert FanOutLogExporter.of([single]) is single


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"OTEL_INTERCEPT_FAILURE_LOGS": CANARY}, "must be true or false"),
        ({"OTEL_LOGS_EXPORTER": CANARY}, "OTEL_LOGS_EXPORTER must be none, or a list"),
        ({"OTEL_LOGS_EXPORTER": "otlp_json_file"}, "needs OTEL_INTERCEPT_FILE"),
        (
            {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": CANARY},
            "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT must be",
        ),
    ],
)
def test_a_wrong_variable_of_logs_is_named_and_not_repeated(
    environ: dict[str, str], message: str
) -> None:
    """Each mistake is an error with the variable's name and without its value."""
    environ = {"OTEL_INTERCEPT_FAILURE_LOGS": "true", **environ}

    with pytest.raises(ConfigurationError, match=message) as caught:
        read_environment(environ)

    assert CANARY not in str(caught.value)
