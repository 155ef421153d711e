"""The pipeline exports, survives every collector, and accounts for every record."""

import logging
import math
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import (
    OTLPSpanExporter as GrpcSpanExporter,
)
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import (
    OTLPSpanExporter as HttpSpanExporter,
)
from opentelemetry.instrumentation.utils import is_instrumentation_enabled
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    Sampler,
    SamplingResult,
    TraceIdRatioBased,
)
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from otel_intercept import semconv
from otel_intercept.record import ExchangeRejected, RequestFacts
from otel_intercept.recorder import Recorder
from otel_intercept.sdk import configure
from otel_intercept.semconv import Dialect, Fate
from otel_intercept.telemetry import Balance, Settings, Telemetry
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.translate.guard_metrics import metrics_of
from otel_intercept.translate.guarded import GuardedMetricReader, is_exporting
from otel_intercept.translate.outlets import LocalSpanExporter
from tests.collectors import (
    Answer,
    Collector,
    GrpcCollector,
    HttpCollector,
    closed_port,
)
from tests.samples import (
    EXCHANGE_ID,
    ROOT_ID,
    WAIT_ID,
    ended,
    exchange,
    failed_exchange,
    record_exchanges,
    rollout_ref,
    started,
    wait,
    wait_until,
)
from tests.stopwatch import Stopwatch

FAST = Settings(schedule_delay_s=0.05)


class BuildExporter(Protocol):
    """Makes an exporter to a collector."""

    def __call__(self, collector: Collector, *, timeout: float = 1.0) -> SpanExporter:
        """Return the exporter; ``timeout`` is in seconds, retries included."""


def http(collector: Collector, *, timeout: float = 1.0) -> SpanExporter:
    """Return the SDK's exporter to an HTTP collector."""
    return HttpSpanExporter(f"{collector.url}/v1/traces", timeout=timeout)


def over_grpc(collector: Collector, *, timeout: float = 1.0) -> SpanExporter:
    """Return the SDK's exporter to a gRPC collector."""
    return GrpcSpanExporter(
        f"127.0.0.1:{collector.port}", insecure=True, timeout=timeout
    )


def holds(balance: Balance) -> bool:
    """Tell whether both identities hold and no count is negative."""
    return (
        balance.started == balance.ended + balance.open
        and balance.ended
        == balance.exported + balance.failed + balance.dropped + balance.queued
        and min(balance) >= 0
    )


def threads() -> set[str]:
    """Return the names of our living threads."""
    return {
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("otel-intercept")
    }


class Scripted(SpanExporter):
    """An exporter that does what a script says, and notes what it was given."""

    def __init__(self, script: Iterator[Callable[[], SpanExportResult]]) -> None:
        self._script = script
        self.batches: list[list[ReadableSpan]] = []
        self.closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Note the batch and do the next thing of the script."""
        self.batches.append(list(spans))
        return next(self._script)()

    def shutdown(self) -> None:
        """Note the shutdown."""
        self.closed = True


def succeed() -> SpanExportResult:
    """Take a batch."""
    return SpanExportResult.SUCCESS


def refuse() -> SpanExportResult:
    """Refuse a batch."""
    return SpanExportResult.FAILURE


def raise_error() -> SpanExportResult:
    """Raise what any exporter may raise."""
    raise RuntimeError("sk-canary-0451")


def panic() -> SpanExportResult:
    """Raise what a Rust exporter raises: no Exception."""
    raise BaseException("sk-canary-0451")  # noqa: TRY002 - that is the point


def always(action: Callable[[], SpanExportResult]) -> Scripted:
    """Return an exporter that does the same every time."""
    return Scripted(iter(lambda: action, None))


@pytest.mark.parametrize(
    ("collector", "build"),
    [(HttpCollector, http), (GrpcCollector, over_grpc)],
    ids=["http", "grpc"],
)
def test_records_arrive_as_spans_at_a_real_collector(
    collector: type[Collector], build: BuildExporter
) -> None:
    """Ids and parents arrive as drawn, over both protocols, and all are confirmed."""
    with collector() as server:
        telemetry = Telemetry(span_exporter=build(server), settings=FAST)
        for record in (started(), exchange(waits=(wait(),)), ended()):
            telemetry.begin(True)
            telemetry.put(record)

        flushed = telemetry.flush()
        balance = telemetry.shutdown()

    spans = {span.name: span for span in server.spans()}
    root, client = spans["rollout"], spans["chat gpt-5"]
    assert flushed
    assert balance == Balance(3, 3, 0, 3, 0, 0, 0)
    assert len(spans) == 4
    assert root.span_id == ROOT_ID.to_bytes(8, "big")
    assert root.parent_span_id == b""
    assert spans["rollout.started"].parent_span_id == root.span_id
    assert client.parent_span_id == EXCHANGE_ID.to_bytes(8, "big")
    assert client.span_id == WAIT_ID.to_bytes(8, "big")
    assert {span.trace_id for span in spans.values()} == {root.trace_id}


def test_the_marker_of_a_running_rollout_arrives_by_itself() -> None:
    """A rollout can be seen at the collector while it is open, without a flush."""
    with HttpCollector() as server:
        telemetry = Telemetry(span_exporter=http(server), settings=FAST)
        telemetry.begin(True)
        telemetry.begin(True)
        telemetry.put(started())

        arrived = server.wait_for("traces")
        exported = wait_until(lambda: telemetry.balance().exported == 1)
        balance = telemetry.balance()
        telemetry.shutdown()

    assert arrived
    assert exported
    assert [span.name for span in server.spans()][:1] == ["rollout.started"]
    assert balance == Balance(2, 1, 1, 1, 0, 0, 0)


MISBEHAVIOURS = [
    pytest.param(HttpCollector, http, Answer(status=400), id="http-400"),
    pytest.param(HttpCollector, http, Answer(status=401), id="http-401"),
    pytest.param(HttpCollector, http, Answer(status=429), id="http-429"),
    pytest.param(HttpCollector, http, Answer(status=500), id="http-500"),
    pytest.param(HttpCollector, http, Answer(status=503), id="http-503"),
    pytest.param(
        HttpCollector, http, Answer(garbage=b"\0\xff\r\n\r\n"), id="http-junk"
    ),
    pytest.param(HttpCollector, http, Answer(delay_s=9), id="http-too-slow"),
    pytest.param(
        GrpcCollector,
        over_grpc,
        Answer(code=grpc.StatusCode.UNAUTHENTICATED),
        id="grpc-unauthenticated",
    ),
    pytest.param(
        GrpcCollector,
        over_grpc,
        Answer(code=grpc.StatusCode.UNAVAILABLE),
        id="grpc-unavailable",
    ),
    pytest.param(
        GrpcCollector,
        over_grpc,
        Answer(code=grpc.StatusCode.RESOURCE_EXHAUSTED),
        id="grpc-exhausted",
    ),
    pytest.param(
        GrpcCollector, over_grpc, Answer(body=b"\xff\xff\xff"), id="grpc-junk"
    ),
    pytest.param(GrpcCollector, over_grpc, Answer(delay_s=9), id="grpc-too-slow"),
]


@pytest.mark.parametrize(("collector", "build", "answer"), MISBEHAVIOURS)
def test_what_a_collector_does_not_take_counts_as_failed(
    collector: type[Collector], build: BuildExporter, answer: Answer
) -> None:
    """Whatever a collector does, the balance holds and claims no export too many."""
    with collector(answer) as server:
        telemetry = Telemetry(span_exporter=build(server, timeout=1.5), settings=FAST)
        record_exchanges(telemetry, 5)

        flushed = telemetry.flush()
        after_flush = telemetry.balance()
        server.answer = Answer()
        record_exchanges(telemetry, 2)
        recovered = telemetry.flush()
        balance = telemetry.shutdown()

    assert not flushed
    assert after_flush == Balance(5, 5, 0, 0, 5, 0, 0)
    assert recovered
    assert balance == Balance(7, 7, 0, 2, 5, 0, 0)


@pytest.mark.parametrize("build", [http, over_grpc])
def test_without_a_collector_everything_is_accounted_for(build: BuildExporter) -> None:
    """When nothing listens, records fail; nobody waits for them but the flush."""
    absent = HttpCollector(port=closed_port())
    telemetry = Telemetry(span_exporter=build(absent, timeout=0.3), settings=FAST)

    with Stopwatch() as watch:
        record_exchanges(telemetry, 1000)
    flushed = telemetry.flush()

    assert not flushed
    assert watch.took_s < 2.0
    assert telemetry.shutdown() == Balance(1000, 1000, 0, 0, 1000, 0, 0)


@pytest.mark.parametrize(
    ("collector", "build"),
    [(HttpCollector, http), (GrpcCollector, over_grpc)],
    ids=["http", "grpc"],
)
def test_shutdown_keeps_its_budget_when_the_collector_hangs(
    collector: type[Collector], build: BuildExporter
) -> None:
    """What is being sent counts as failed, what waits as dropped, within the budget."""
    with collector(Answer(hang=True)) as server:
        telemetry = Telemetry(span_exporter=build(server, timeout=30), settings=FAST)
        record_exchanges(telemetry, 3)
        assert server.wait_for("traces")
        record_exchanges(telemetry, 4)

        with Stopwatch() as watch:
            balance = telemetry.shutdown(timeout_s=1.0)

    assert watch.took_s < 3.0
    assert balance == Balance(7, 7, 0, 0, 3, 4, 0)
    assert wait_until(lambda: telemetry.idle)
    assert telemetry.balance() == balance


def test_flush_keeps_its_budget_when_the_collector_hangs() -> None:
    """A flush that cannot finish says so in time, and nothing is settled by it."""
    with HttpCollector(Answer(hang=True)) as server:
        exporter = OTLPMetricExporter(f"{server.url}/v1/metrics")
        reader = GuardedMetricReader(exporter)
        telemetry = Telemetry(
            span_exporter=http(server, timeout=30), metric_reader=reader, settings=FAST
        )
        record_exchanges(telemetry, 3)

        with Stopwatch() as watch:
            flushed = telemetry.flush(timeout_s=0.3)
        balance = telemetry.balance()
        telemetry.shutdown(timeout_s=0.5)
        # Or else it tries again, and logs, when the collector is gone.
        exporter.shutdown()

    assert not flushed
    assert watch.took_s < 2.5
    assert balance.queued == 3


def test_a_result_that_comes_after_shutdown_changes_nothing() -> None:
    """A batch that was given up stays failed, although its exporter took it later."""
    release = threading.Event()
    exporter = always(lambda: succeed() if release.wait(30) else refuse())
    telemetry = Telemetry(span_exporter=exporter, settings=FAST)
    record_exchanges(telemetry, 2)
    assert wait_until(lambda: exporter.batches)

    balance = telemetry.shutdown(timeout_s=0.2)
    busy = not telemetry.idle
    release.set()

    assert busy
    assert wait_until(lambda: telemetry.idle)
    assert telemetry.balance() == balance == Balance(2, 2, 0, 0, 2, 0, 0)


def test_after_a_shutdown_that_gave_up_nothing_more_is_sent() -> None:
    """The thread that was left behind sends none of what it still held."""
    release = threading.Event()
    exporter = always(lambda: succeed() if release.wait(30) else refuse())
    settings = Settings(schedule_delay_s=0.05, export_batch_size=2)
    telemetry = Telemetry(span_exporter=exporter, settings=settings)
    record_exchanges(telemetry, 2)
    assert wait_until(lambda: exporter.batches)
    record_exchanges(telemetry, 9)

    balance = telemetry.shutdown(timeout_s=0.2)
    release.set()

    assert wait_until(lambda: telemetry.idle)
    assert len(exporter.batches) == 1
    assert telemetry.balance() == balance == Balance(11, 11, 0, 0, 2, 9, 0)


@pytest.mark.parametrize("late_s", [0.1, 0.7])
def test_a_lone_record_leaves_when_it_has_waited_for_the_delay(late_s: float) -> None:
    """It waits for others to be translated with, and that is a part of the delay."""
    exporter = always(succeed)
    settings = Settings(schedule_delay_s=1.0)
    telemetry = Telemetry(span_exporter=exporter, settings=settings)
    time.sleep(late_s)

    with Stopwatch() as watch:
        record_exchanges(telemetry, 1)
        left = wait_until(lambda: exporter.batches)
    telemetry.shutdown()

    assert left
    assert watch.took_s < 1.4


class HangingAbroad(LocalSpanExporter):
    """Hangs until it is released, but keeps what it is asked to keep here."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.sent: list[ReadableSpan] = []
        self.kept: list[ReadableSpan] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.sent.extend(spans)
        self.release.wait(30)
        return SpanExportResult.FAILURE

    def export_locally(self, spans: Sequence[ReadableSpan]) -> None:
        self.kept.extend(spans)


def test_what_a_hanging_exporter_leaves_is_measured_and_kept_here() -> None:
    """It costs neither the metrics of the records nor their copy on this machine."""
    exporter = HangingAbroad()
    reader = InMemoryMetricReader()
    telemetry = Telemetry(span_exporter=exporter, metric_reader=reader, settings=FAST)
    # Four of them fill a request, two are translated, and the others wait.
    many = tuple(wait(span_id=number) for number in range(1001, 2001))
    for number in range(1, 7):
        telemetry.begin(True)
        telemetry.put(exchange(span_id=number, waits=many))
    assert wait_until(lambda: exporter.sent)
    for number in range(7, 17):
        telemetry.begin(True)
        telemetry.put(exchange(span_id=number))
    assert isinstance(telemetry.intake, Recorder)
    timings = telemetry.intake.timings
    assert timings is not None
    asked = RequestFacts("gpt-5", stream=False, attributes=())
    assert timings.add(Dialect.CHAT_COMPLETIONS, asked, (1, None, ()))

    balance = telemetry.shutdown(timeout_s=0.2)
    exporter.release.set()

    sent, kept = exchanges_of(exporter.sent), exchanges_of(exporter.kept)
    assert (len(sent), len(kept)) == (balance.failed, balance.dropped)
    assert sorted(sent + kept) == list(range(1, 17))
    assert counter_sum(reader, semconv.EXCHANGES.name) == 17


def exchanges_of(spans: Sequence[ReadableSpan]) -> list[int]:
    """Return the span ids of exchanges."""
    return [span.context.span_id for span in spans if span.kind is SpanKind.SERVER]


def test_what_was_collected_for_the_next_batch_is_dropped_as_well() -> None:
    """Spans that were ready but not sent at a shutdown that gave up stay unsent."""
    release = threading.Event()
    exporter = always(lambda: succeed() if release.wait(30) else refuse())
    settings = Settings(schedule_delay_s=0.05, export_batch_size=4096)
    telemetry = Telemetry(span_exporter=exporter, settings=settings)
    record = exchange(waits=tuple(wait(span_id=number + 1) for number in range(1000)))
    for _ in range(5):
        telemetry.begin(True)
        telemetry.put(record)
    assert wait_until(lambda: exporter.batches)

    balance = telemetry.shutdown(timeout_s=0.2)
    release.set()

    assert wait_until(lambda: telemetry.idle)
    assert len(exporter.batches) == 1
    assert telemetry.balance() == balance
    assert (balance.ended, balance.queued) == (5, 0)
    assert balance.failed + balance.dropped == 5


def test_a_slow_collector_gets_larger_batches_and_loses_nothing() -> None:
    """A backlog makes the batches larger, so that few requests carry all of it."""
    with HttpCollector(Answer(delay_s=0.3)) as server:
        settings = Settings(schedule_delay_s=0.05, export_batch_size=16)
        telemetry = Telemetry(span_exporter=http(server, timeout=5), settings=settings)
        record_exchanges(telemetry, 20)
        assert server.wait_for("traces")

        record_exchanges(telemetry, 3000)
        flushed = telemetry.flush(timeout_s=20)
        balance = telemetry.shutdown()

    assert flushed
    assert balance == Balance(3020, 3020, 0, 3020, 0, 0, 0)
    assert server.count("traces") <= 6
    assert len(server.spans()) == 3020


def test_a_request_stays_below_what_grpc_servers_take() -> None:
    """However large the spans, no request reaches 4 MiB, and all arrive."""
    with GrpcCollector() as server:
        settings = Settings(recorder="inline", export_batch_size=4096)
        telemetry = Telemetry(
            span_exporter=over_grpc(server, timeout=9), settings=settings
        )
        keys = [f"team.{number}" for number in range(32)]
        telemetry.declare_attribute_keys(keys)
        rollout = rollout_ref(attributes=tuple((key, "ü" * 256) for key in keys))
        for _ in range(500):
            telemetry.begin(True)
            telemetry.put(ended(rollout))

        flushed = telemetry.flush(timeout_s=20)
        telemetry.shutdown()

    sizes = [len(received.body) for received in server.received]
    assert flushed
    assert len(sizes) > 1
    assert max(sizes) < 4 * 1024 * 1024
    assert len(server.spans()) == 500


def test_a_request_has_a_bounded_number_of_spans() -> None:
    """Exchanges with many upstream waits are split over several requests."""
    exporter = always(succeed)
    settings = Settings(recorder="inline", export_batch_size=4096)
    telemetry = Telemetry(span_exporter=exporter, settings=settings)
    record = exchange(waits=tuple(wait(span_id=number + 1) for number in range(1000)))
    for _ in range(9):
        telemetry.begin(True)
        telemetry.put(record)

    telemetry.flush()

    assert [len(batch) for batch in exporter.batches] == [4004, 4004, 1001]


@pytest.mark.parametrize("failing", [raise_error, panic, refuse])
def test_an_exporter_that_fails_never_stops_the_thread(
    failing: Callable[[], SpanExportResult], caplog: pytest.LogCaptureFixture
) -> None:
    """After a batch that raised, the next one is exported, and no text was logged."""
    exporter = Scripted(iter([failing, succeed]))
    telemetry = Telemetry(span_exporter=exporter, settings=FAST)
    record_exchanges(telemetry, 20)
    first = telemetry.flush()
    record_exchanges(telemetry, 3)

    second = telemetry.flush()
    balance = telemetry.shutdown()

    assert (first, second) == (False, True)
    assert balance == Balance(23, 23, 0, 3, 20, 0, 0)
    assert "canary" not in caplog.text
    assert exporter.closed


def test_a_panic_in_the_middle_of_many_batches_loses_no_other_record() -> None:
    """Records that were taken when an exporter panicked are exported afterwards."""
    exporter = Scripted(iter([panic, *[succeed] * 50]))
    settings = Settings(schedule_delay_s=0.05, export_batch_size=5)
    telemetry = Telemetry(span_exporter=exporter, settings=settings)

    record_exchanges(telemetry, 3)
    wait_until(lambda: exporter.batches)
    record_exchanges(telemetry, 47)
    telemetry.flush()
    balance = telemetry.shutdown()

    assert balance.exported + balance.failed == 50
    assert balance.failed == len(exporter.batches[0])
    assert sum(map(len, exporter.batches)) == 50


def test_the_queue_is_bounded_and_the_counters_stay_exact() -> None:
    """With a hung exporter memory is bounded, and what is dropped is still counted."""
    release = threading.Event()
    exporter = always(lambda: succeed() if release.wait(30) else refuse())
    reader = InMemoryMetricReader()
    settings = Settings(queue_size=100, schedule_delay_s=0.01, export_batch_size=10)
    telemetry = Telemetry(
        span_exporter=exporter, metric_reader=reader, settings=settings
    )
    record_exchanges(telemetry, 10)
    assert wait_until(lambda: exporter.batches)

    record_exchanges(telemetry, 1000)
    for _ in range(200):
        telemetry.begin(True)
        telemetry.put(failed_exchange())
    held = telemetry.balance()
    release.set()
    assert telemetry.flush() is True
    counted = counter_sum(reader, semconv.EXCHANGES.name)
    failed = counter_sum(reader, semconv.FAILURES.name)
    balance = telemetry.shutdown()

    assert held.queued == 10 + 100 + 25
    assert held.dropped == 1210 - 135
    assert counted == 1210
    assert failed == 200
    assert balance == Balance(1210, 1210, 0, 135, 0, 1075, 0)


def counter_sum(reader: InMemoryMetricReader, name: str) -> float:
    """Return the sum over all series of a counter."""
    data = reader.get_metrics_data()
    assert data is not None
    return sum(
        getattr(point, "value", 0)
        for metric in metrics_of(data)
        if metric.name == name
        for point in metric.data.data_points
    )


class RaisingSampler(Sampler):
    """A sampler that raises."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Raise."""
        raise RuntimeError("sk-canary-0451")

    def get_description(self) -> str:
        """Return what it is."""
        return "raising"


def test_rollouts_are_sampled_by_trace_id() -> None:
    """The sampler of the settings decides; without one, or if it raises, all are in."""
    low, high = 1, 2**64 - 1

    half = TelemetryRecorder(sampler=TraceIdRatioBased(0.5)).telemetry
    none = TelemetryRecorder(Settings(sampler=ALWAYS_OFF)).telemetry
    raising = TelemetryRecorder(sampler=RaisingSampler()).telemetry
    every = TelemetryRecorder().telemetry

    assert (half.sample(low), half.sample(high)) == (True, False)
    assert not none.sample(low)
    assert raising.sample(low)
    assert every.sample(high)


def test_with_metrics_only_no_rollout_is_sampled() -> None:
    """Without a span exporter nothing is balanced, and every metric still counts."""
    reader = InMemoryMetricReader()
    telemetry = Telemetry(metric_reader=reader, settings=Settings(recorder="inline"))
    record_exchanges(telemetry, 3)

    flushed = telemetry.flush()

    assert flushed
    assert not telemetry.sample(1)
    assert counter_sum(reader, semconv.EXCHANGES.name) == 3
    assert telemetry.shutdown() == Balance(0, 0, 0, 0, 0, 0, 0)


def test_a_record_that_cannot_be_shown_is_dropped_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record without a valid id, or with nonsense in it, does not spoil the batch."""
    recorder = TelemetryRecorder()
    nowhere = rollout_ref(trace_id=0)
    nonsense = replace(exchange(), waits=7)
    for record in (exchange(), exchange(nowhere), nonsense, exchange()):
        recorder.telemetry.begin(True)
        recorder.telemetry.put(record)

    flushed = recorder.flush()

    assert not flushed
    assert recorder.telemetry.balance() == Balance(4, 4, 0, 2, 0, 2, 0)
    assert len(recorder.spans()) == 2
    assert len(caplog.records) == 2


def test_what_the_guard_held_back_is_told_at_the_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An attribute that nobody declared stays, and the operator hears of it."""
    recorder = TelemetryRecorder()
    recorder.telemetry.begin(True)
    recorder.telemetry.put(ended(rollout_ref(attributes=(("undeclared", "x"),))))

    recorder.telemetry.shutdown()

    (span,) = recorder.spans()
    assert "undeclared" not in (span.attributes or {})
    assert "held back 1 items" in caplog.text


def test_exports_are_marked_so_that_nobody_traces_them() -> None:
    """In an export other instrumentation is suppressed, and only there."""
    seen: list[tuple[bool, bool]] = []

    def look() -> SpanExportResult:
        seen.append((is_exporting(), is_instrumentation_enabled()))
        return SpanExportResult.SUCCESS

    telemetry = Telemetry(span_exporter=always(look), settings=FAST)
    record_exchanges(telemetry, 1)
    telemetry.flush()
    telemetry.shutdown()

    assert seen == [(True, False)]
    assert (is_exporting(), is_instrumentation_enabled()) == (False, True)


def test_one_daemon_thread_lives_as_long_as_its_telemetry() -> None:
    """The thread cannot keep the process alive, and is gone after shutdown."""
    telemetry = Telemetry(span_exporter=always(succeed), settings=FAST)

    running = [
        thread for thread in threading.enumerate() if thread.name == "otel-intercept"
    ]
    telemetry.shutdown()

    assert [thread.daemon for thread in running] == [True]
    assert wait_until(lambda: not threads())


def test_shutdown_ends_what_is_open_first_and_logs_the_balance(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Callbacks come first; one that raises stops no other; the sheet is printed."""
    caplog.set_level(logging.INFO, "otel_intercept.telemetry")
    telemetry = Telemetry(span_exporter=always(succeed), settings=FAST)
    telemetry.begin(True)

    def fail() -> None:
        raise RuntimeError("sk-canary-0451")

    telemetry.add_shutdown_callback(fail)
    telemetry.add_shutdown_callback(lambda: telemetry.put(ended()))
    balance = telemetry.shutdown()
    again = telemetry.shutdown()

    assert balance == again == Balance(1, 1, 0, 1, 0, 0, 0)
    assert "sk-canary" not in caplog.text
    assert [record.getMessage() for record in caplog.records][-1] == (
        "telemetry balance: started=1 ended=1 open=0 exported=1 failed=0 dropped=0 "
        "queued=0"
    )
    assert caplog.text.count("balance") == 1


def test_after_shutdown_nothing_is_taken_any_more() -> None:
    """Records that come too late are dropped, and a flush says that it did nothing."""
    telemetry = Telemetry(span_exporter=always(succeed), settings=FAST)
    telemetry.shutdown()

    record_exchanges(telemetry, 2)

    assert telemetry.flush() is False
    assert telemetry.balance() == Balance(2, 2, 0, 0, 0, 2, 0)


@pytest.mark.parametrize("recorder", ["thread", "process"])
@pytest.mark.parametrize("timeout_s", [math.inf, 1e12])
def test_one_may_wait_for_as_long_as_it_takes(recorder: str, timeout_s: float) -> None:
    """More seconds than a clock has are as good as any that are enough."""
    with HttpCollector() as server:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
            "OTEL_INTERCEPT_RECORDER": recorder,
        }
        with configure(environ) as telemetry:
            record_exchanges(telemetry, 2)
            flushed = telemetry.flush(timeout_s)
            record_exchanges(telemetry, 1)
            balance = telemetry.shutdown(timeout_s)

    assert flushed
    assert balance == Balance(3, 3, 0, 3, 0, 0, 0)


@pytest.mark.parametrize("timeout_s", [0.0, -1.0, math.nan])
def test_no_time_at_all_is_a_budget_too(timeout_s: float) -> None:
    """What cannot be sent in it is accounted for, and nothing raises."""
    with HttpCollector(Answer(hang=True)) as server:
        telemetry = Telemetry(span_exporter=http(server, timeout=30), settings=FAST)
        record_exchanges(telemetry, 2)

        flushed = telemetry.flush(timeout_s)
        balance = telemetry.shutdown(timeout_s)

    assert not flushed
    assert balance.queued == balance.open == 0
    assert balance.failed + balance.dropped == 2


def test_disabled_telemetry_is_a_no_op() -> None:
    """Without exporter and reader nothing is started, sampled or counted."""
    telemetry = Telemetry()

    record_exchanges(telemetry, 2)
    telemetry.put(ExchangeRejected(Dialect.OTHER))

    assert not telemetry.enabled
    assert not telemetry.sample(1)
    assert telemetry.declare_attribute_keys(["team"]) == {"team"}
    assert telemetry.flush()
    assert telemetry.idle
    assert telemetry.shutdown() == Balance(0, 0, 0, 0, 0, 0, 0)
    assert not threads()


def test_disabled_telemetry_does_not_load_the_sdk() -> None:
    """A process that exports nothing does not pay for the SDK's import."""
    program = (
        "import sys; from otel_intercept.telemetry import Telemetry; Telemetry();"
        "sys.exit(any(name.startswith('opentelemetry.sdk') for name in sys.modules))"
    )

    ended = subprocess.run([sys.executable, "-c", program], check=False)

    assert ended.returncode == 0


def test_the_last_metrics_have_the_final_balance() -> None:
    """Metrics are exported after the last spans, so the final scrape adds up."""
    with HttpCollector() as server:
        telemetry = Telemetry(
            span_exporter=http(server),
            metric_reader=GuardedMetricReader(
                OTLPMetricExporter(f"{server.url}/v1/metrics"), interval_s=3600
            ),
            settings=FAST,
        )
        record_exchanges(telemetry, 4)
        telemetry.shutdown()

    records = {
        point.attributes[1].value.string_value: point.as_int
        for metric in server.metrics()
        if metric.name == "intercept.records"
        for point in metric.sum.data_points
        if point.attributes[0].value.string_value == "traces"
    }
    assert records == {"exported": 4, "failed": 0, "dropped": 0}


def test_metrics_that_a_collector_refuses_count_as_failed() -> None:
    """The fate of the metrics signal is real as well, and a flush tells of it."""
    with HttpCollector(Answer(status=400)) as server:
        reader = GuardedMetricReader(
            OTLPMetricExporter(f"{server.url}/v1/metrics"), interval_s=3600
        )
        telemetry = Telemetry(metric_reader=reader, settings=FAST)

        flushed = telemetry.flush()
        failed = dict(reader.fates)
        server.answer = Answer()
        recovered = telemetry.flush()
        telemetry.shutdown()

    assert (flushed, recovered) == (False, True)
    assert failed[Fate.FAILED] > 0
    assert failed[Fate.EXPORTED] == 0
    assert reader.fates[Fate.EXPORTED] > 0


def test_a_reader_that_raises_harms_nothing() -> None:
    """When a collection fails, spans are exported and shutdown ends all the same."""

    class RaisingReader(InMemoryMetricReader):
        def _receive_metrics(self, *_: object, **__: object) -> None:
            raise RuntimeError("sk-canary-0451")

        def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
            raise RuntimeError("sk-canary-0451")

    telemetry = Telemetry(
        span_exporter=always(succeed), metric_reader=RaisingReader(), settings=FAST
    )
    record_exchanges(telemetry, 1)

    flushed = telemetry.flush()

    assert not flushed
    assert telemetry.shutdown() == Balance(1, 1, 0, 1, 0, 0, 0)


steps = st.lists(
    st.sampled_from(["begin", "exchange", "failure", "rejected", "flush"]), max_size=40
)
results = st.lists(st.sampled_from([succeed, refuse, raise_error]), max_size=40)


@given(steps=steps, results=results, queue_size=st.integers(1, 6))
@settings(deadline=None, max_examples=60)
def test_the_balance_holds_whatever_the_exporter_answers(
    steps: list[str],
    results: list[Callable[[], SpanExportResult]],
    queue_size: int,
) -> None:
    """After every step the identities hold; each batch has the fate it was given."""

    def script() -> Iterator[Callable[[], SpanExportResult]]:
        yield from results
        while True:
            yield succeed

    exporter = Scripted(script())
    options = Settings(recorder="inline", queue_size=queue_size, export_batch_size=2)
    telemetry = Telemetry(span_exporter=exporter, settings=options)
    for step in steps:
        match step:
            case "begin":
                telemetry.begin(True)
            case "exchange":
                record_exchanges(telemetry, 1)
            case "failure":
                telemetry.begin(True)
                telemetry.put(failed_exchange())
            case "rejected":
                telemetry.put(ExchangeRejected(Dialect.OTHER))
            case _:
                telemetry.flush()
                assert telemetry.balance().queued == 0
        assert holds(telemetry.balance())

    balance = telemetry.shutdown()

    answers = [*results, *[succeed] * len(exporter.batches)][: len(exporter.batches)]
    taken = sum(
        len(batch)
        for batch, answer in zip(exporter.batches, answers, strict=True)
        if answer is succeed
    )
    assert holds(balance)
    assert balance.queued == 0
    assert balance.exported == taken
    assert balance.failed == sum(map(len, exporter.batches)) - taken
