"""Telemetry on the application's own providers says what ours would say."""

import random
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count

import pytest
from msgspec.structs import replace
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import (
    InMemoryMetricReader,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import (
    ReadableSpan,
    Span,
    SpanLimits,
    SpanProcessor,
    TracerProvider,
)
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Decision,
    ParentBased,
    Sampler,
    SamplingResult,
)
from opentelemetry.trace import Link, NoOpTracerProvider, SpanKind, TraceState
from opentelemetry.util.types import Attributes

from otel_intercept import RolloutRegistry, semconv
from otel_intercept.errors import ConfigurationError
from otel_intercept.failure import describe
from otel_intercept.record import Record
from otel_intercept.semconv import ErrorType, Phase, RolloutOutcome
from otel_intercept.telemetry import Settings, Telemetry
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.translate.guard_metrics import metrics_of
from otel_intercept.translate.scope import SCOPE
from tests.conftest import logged
from tests.samples import (
    SECOND_NS,
    TRACE_ID,
    ended,
    exchange,
    failed_exchange,
    failure_seen,
    record_exchanges,
    rollout_ref,
    started,
    wait,
)

CANARY = "sk-canary-0451"
INLINE = Settings(recorder="inline")
RESOURCE = Resource({"service.name": "trainer", "team": "blue"})


class Numbered(IdGenerator):
    """Gives out small numbers, so that foreign ids stand out."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def generate_span_id(self) -> int:
        """Return the next number."""
        return next(self._numbers)

    def generate_trace_id(self) -> int:
        """Return the next number."""
        return next(self._numbers)


class Raising(SpanProcessor):
    """Raises its secret wherever it can."""

    def __init__(self, *where: str) -> None:
        self._where = where

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Raise, if asked to at the start."""
        self._raise("start")

    def on_end(self, span: ReadableSpan) -> None:
        """Raise, if asked to at the end."""
        self._raise("end")

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Raise, if asked to on a flush."""
        self._raise("flush")
        return True

    def _raise(self, where: str) -> None:
        if where in self._where:
            raise RuntimeError(CANARY)


class Noting(SpanProcessor):
    """Notes what happens to spans, and in which thread."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, int, int | None]] = []
        self.threads: set[str] = set()
        self.parents: list[int] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Note a start."""
        self.calls.append(("start", id_of(span), span.start_time))
        self.threads.add(threading.current_thread().name)
        parent = trace.get_current_span(parent_context).get_span_context()
        self.parents.append(parent.span_id)

    def on_end(self, span: ReadableSpan) -> None:
        """Note an end."""
        self.calls.append(("end", id_of(span), span.end_time))

    def shutdown(self) -> None:
        """Note the shutdown, which must not come."""
        self.calls.append(("shutdown", 0, None))


class Scripted(Sampler):
    """Decides by the parity of the trace id, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[Context | None, str, SpanKind | None]] = []

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
        """Take even trace ids."""
        self.asked.append((parent_context, name, kind))
        taken = trace_id % 2 == 0
        return SamplingResult(Decision.RECORD_AND_SAMPLE if taken else Decision.DROP)

    def get_description(self) -> str:
        """Say what it does."""
        return "even"


class Refusing(SpanProcessor):
    """Never manages to flush."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Say that it was too late."""
        return False


class Stuck(SpanProcessor):
    """Hangs in its flush until it is let go."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Hang."""
        return self.free.wait(30)


class KeepingMetrics(MetricExporter):
    """Keeps the last metrics that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.latest = MetricsData([])
        self.closed = False

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        """Keep them."""
        self.latest = metrics_data
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Have nothing to flush."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Note the shutdown."""
        self.closed = True


def id_of(span: ReadableSpan) -> int:
    """Return the span id."""
    assert span.context is not None
    span_id: int = span.context.span_id
    return span_id


def every_record() -> list[Record]:
    """Return records that become every kind of span, event, link and status."""
    joined = replace(
        rollout_ref(
            parent_span_id=0xABCDEF, attributes=(("env", "gsm8k"), ("seed", 3))
        ),
        previous=(0xFEED, 0xBEEF),
    )
    return [
        started(joined),
        exchange(
            joined,
            link=(0xCAFE, 0xF00D),
            request=((semconv.GEN_AI_REQUEST_TEMPERATURE, 0.5),),
            response=((semconv.GEN_AI_RESPONSE_FINISH_REASONS, ("stop", "length")),),
            waits=(
                wait(error_type=ErrorType.UPSTREAM_TIMEOUT),
                wait(span_id=0x77, seconds=1),
            ),
        ),
        replace(failed_exchange(joined), span_id=0x88),
        failure_seen(joined),
        ended(joined, outcome=RolloutOutcome.FAILED, failed=failure_seen().failure),
        started(),
        ended(),
    ]


def put_all(telemetry: Telemetry, records: list[Record]) -> None:
    """Hand records over as a registry does."""
    telemetry.declare_attribute_keys(["env", "seed"])
    for record in records:
        telemetry.begin(True)
        telemetry.put(record)


def facts(span: ReadableSpan) -> dict[str, object]:
    """Return everything that a collector is told of a span, except for who it is."""
    context = span.context
    assert context is not None
    return {
        "context": (
            context.trace_id,
            context.span_id,
            int(context.trace_flags),
            context.is_remote,
            dict(context.trace_state),
        ),
        "parent": span.parent
        and (span.parent.trace_id, span.parent.span_id, span.parent.is_remote),
        "name": span.name,
        "kind": span.kind,
        "times": (span.start_time, span.end_time),
        "status": (span.status.status_code, span.status.description),
        "attributes": dict(span.attributes or {}),
        "events": [
            (event.name, event.timestamp, dict(event.attributes or {}))
            for event in span.events
        ],
        "links": [
            (link.context.trace_id, link.context.span_id, dict(link.attributes or {}))
            for link in span.links
        ],
        "scope": span.instrumentation_scope,
        "dropped": (
            span.dropped_attributes,
            span.dropped_events,
            span.dropped_links,
        ),
    }


def series(data: MetricsData) -> dict[tuple[str, frozenset[tuple[str, object]]], str]:
    """Return every series with its value or its buckets, times and exemplars aside."""
    found: dict[tuple[str, frozenset[tuple[str, object]]], str] = {}
    for metric in metrics_of(data):
        for point in metric.data.data_points:
            labels = frozenset((point.attributes or {}).items())
            buckets = getattr(point, "bucket_counts", None)
            bounds = getattr(point, "explicit_bounds", None)
            value = getattr(point, "value", getattr(point, "sum", None))
            unit = (metric.unit, metric.description, type(metric.data).__name__)
            found[metric.name, labels] = f"{unit} {value} {bounds} {buckets}"
    return found


@contextmanager
def provider_of(
    *processors: SpanProcessor,
    sampler: Sampler = ALWAYS_ON,
    limits: SpanLimits | None = None,
) -> Iterator[TracerProvider]:
    """Make an application's tracer provider, and shut it down as its owner does."""
    provider = TracerProvider(
        sampler=sampler,
        resource=RESOURCE,
        id_generator=Numbered(),
        span_limits=limits,
        shutdown_on_exit=False,
    )
    for processor in processors:
        provider.add_span_processor(processor)
    yield provider
    provider.shutdown()


def test_spans_are_those_of_the_plain_path_with_the_providers_resource() -> None:
    """Ids, parents, times, events, links and statuses are the same, span by span."""
    memory = InMemorySpanExporter()
    recorder = TelemetryRecorder()
    put_all(recorder.telemetry, every_record())

    with provider_of(BatchSpanProcessor(memory)) as provider:
        telemetry = Telemetry(tracer_provider=provider, settings=INLINE)
        put_all(telemetry, every_record())
        assert telemetry.flush()
        handed = memory.get_finished_spans()

    assert [facts(span) for span in handed] == [
        facts(span) for span in recorder.spans()
    ]
    assert len(handed) == 9
    assert {span.resource for span in handed} == {RESOURCE}
    assert telemetry.balance() == recorder.telemetry.balance()
    assert telemetry.balance().exported == len(every_record())


async def test_the_ids_that_were_handed_out_are_the_ids_of_the_spans() -> None:
    """A traceparent that was given away before leads to the exported root."""
    memory = InMemorySpanExporter()

    with provider_of(SimpleSpanProcessor(memory)) as provider:
        telemetry = Telemetry(tracer_provider=provider, settings=INLINE)
        registry = RolloutRegistry(telemetry)
        rollout = registry.open("r-1")
        handed_out = rollout.traceparent
        # Its own span, active around, is no parent, and keeps its own ids.
        with provider.get_tracer("training").start_as_current_span("step") as step:
            registry.close("r-1")
            telemetry.flush()
        own = step.get_span_context()

    marker, root = memory.get_finished_spans()[:2]
    assert root.context is not None
    assert handed_out == f"00-{root.context.trace_id:032x}-{id_of(root):016x}-01"
    assert root.parent is None
    assert marker.parent is not None
    assert marker.parent.span_id == id_of(root)
    assert (own.trace_id, own.span_id) == (1, 2)


def test_other_tracers_of_the_provider_are_left_alone() -> None:
    """Even a tracer of our own scope keeps the provider's ids and sampler."""
    memory = InMemorySpanExporter()
    sampler = Scripted()

    with provider_of(SimpleSpanProcessor(memory), sampler=sampler) as provider:
        namesake = provider.get_tracer(SCOPE.name, SCOPE.version)
        telemetry = Telemetry(tracer_provider=provider, settings=INLINE)
        record_exchanges(telemetry, 3)
        telemetry.flush()
        memory.clear()
        odd, even = namesake.start_span("odd"), namesake.start_span("even")

    assert (odd.get_span_context().trace_id, odd.is_recording()) == (1, False)
    assert even.get_span_context().trace_id == 3
    assert [name for _, name, _ in sampler.asked] == ["odd", "even"]


def test_processors_see_start_and_end_off_the_thread_that_records() -> None:
    """Each span is started, then ended, with its own times and parent, elsewhere."""
    noting = Noting()

    with provider_of(noting) as provider:
        telemetry = Telemetry(tracer_provider=provider)
        put_all(telemetry, [started(), exchange(), ended()])
        assert telemetry.flush()
        telemetry.shutdown()
        calls = noting.calls.copy()

    ids = [span_id for what, span_id, _ in calls if what == "start"]
    assert [(what, span_id) for what, span_id, _ in calls] == [
        (what, span_id) for span_id in ids for what in ("start", "end")
    ]
    at = dict.fromkeys(ids, 0) | {i: time or 0 for w, i, time in calls if w == "end"}
    assert at[ids[1]] - at[ids[0]] == 3 * SECOND_NS
    assert noting.parents == [rollout_ref().span_id, rollout_ref().span_id, 0]
    assert noting.threads == {"otel-intercept"}


def test_the_sampler_of_the_provider_decides_once_per_rollout() -> None:
    """Refused rollouts have no spans, and count in the metrics like the others."""
    memory, sampler, reader = InMemorySpanExporter(), Scripted(), InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)

    with provider_of(SimpleSpanProcessor(memory), sampler=sampler) as provider:
        telemetry = Telemetry(
            tracer_provider=provider, meter_provider=meters, settings=INLINE
        )
        registry = RolloutRegistry(telemetry)
        for trace_id in range(1, 11):
            registry.open(f"r-{trace_id}", trace_id=f"{trace_id:032x}")
            registry.close(f"r-{trace_id}")
        telemetry.flush()

    shown = {span.context.trace_id for span in memory.get_finished_spans()}
    assert shown == {2, 4, 6, 8, 10}
    assert len(memory.get_finished_spans()) == 10
    assert len(sampler.asked) == 10
    assert {(name, kind) for _, name, kind in sampler.asked} == {
        ("rollout", SpanKind.INTERNAL)
    }
    data = reader.get_metrics_data()
    assert data is not None
    totals = [
        point.value
        for metric in metrics_of(data)
        if metric.name == semconv.ROLLOUTS.name
        for point in metric.data.data_points
        if hasattr(point, "value")
    ]
    assert sum(totals) == 10


def test_an_active_span_does_not_decide_on_a_rollout() -> None:
    """A parent-based sampler sees a root, whatever unsampled span is active."""
    memory = InMemorySpanExporter()
    sampler = ParentBased(ALWAYS_ON, local_parent_not_sampled=ALWAYS_OFF)
    unsampled = trace.NonRecordingSpan(trace.SpanContext(1, 1, is_remote=False))

    with provider_of(SimpleSpanProcessor(memory), sampler=sampler) as provider:
        telemetry = Telemetry(tracer_provider=provider, settings=INLINE)
        with trace.use_span(unsampled):
            sampled = telemetry.sample(TRACE_ID)

    assert sampled


def test_a_sampler_of_the_settings_decides_in_place_of_the_providers() -> None:
    """Whoever gives a sampler in the settings means it."""
    with provider_of(sampler=ALWAYS_ON) as provider:
        settings = Settings(recorder="inline", sampler=ALWAYS_OFF)
        telemetry = Telemetry(tracer_provider=provider, settings=settings)

        assert not telemetry.sample(TRACE_ID)


def test_the_span_limits_of_the_provider_apply() -> None:
    """Limits cut our spans as any other span of the provider."""
    memory = InMemorySpanExporter()
    limits = SpanLimits(max_links=0, max_span_attribute_length=5, max_events=0)

    with provider_of(SimpleSpanProcessor(memory), limits=limits) as provider:
        telemetry = Telemetry(tracer_provider=provider, settings=INLINE)
        put_all(telemetry, [exchange(failed=failure_seen().failure, link=(1, 2))])
        telemetry.flush()

    (span,) = memory.get_finished_spans()
    assert (span.dropped_links, span.dropped_events) == (1, 1)
    assert span.attributes is not None
    assert span.attributes[semconv.HTTP_ROUTE] == "/roll"


@pytest.mark.parametrize("where", ["start", "end", "flush"])
def test_a_processor_that_raises_neither_stops_us_nor_speaks(
    where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is raised or repeated; what it broke counts as failed, not exported."""
    memory = InMemorySpanExporter()
    caplog.set_level(0)

    with provider_of(BatchSpanProcessor(memory), Raising(where)) as provider:
        telemetry = Telemetry(tracer_provider=provider)
        record_exchanges(telemetry, 3)
        flushed = telemetry.flush()
        record_exchanges(telemetry, 2)
        telemetry.shutdown()

    seen = {"start": 0, "end": 5, "flush": 5}[where]
    balance = telemetry.balance()
    assert not flushed
    assert len(memory.get_finished_spans()) == seen
    assert (balance.exported, balance.failed) == ((5, 0), (0, 5))[where != "flush"]
    assert CANARY not in logged(caplog)
    assert ("a span processor of the application raised" in logged(caplog)) == (
        where != "flush"
    )


def test_the_provider_is_flushed_and_never_shut_down() -> None:
    """A flush ends in the provider's; after our shutdown the provider works on."""
    memory, noting = InMemorySpanExporter(), Noting()

    with provider_of(BatchSpanProcessor(memory), noting) as provider:
        telemetry = Telemetry(tracer_provider=provider)
        record_exchanges(telemetry, 2)
        flushed = telemetry.flush()
        after_flush = len(memory.get_finished_spans())
        record_exchanges(telemetry, 1)
        telemetry.shutdown()
        after_shutdown = len(memory.get_finished_spans())
        provider.get_tracer("training").start_span("later").end()
        provider.force_flush()
        calls = [what for what, _, _ in noting.calls]

    assert flushed
    assert (after_flush, after_shutdown) == (2, 3)
    assert "shutdown" not in calls
    assert memory.get_finished_spans()[-1].name == "later"


def test_a_flush_that_is_refused_or_hangs_is_no_success() -> None:
    """A provider that says no, or nothing, costs the time given and no more."""
    stuck = Stuck()
    with provider_of(Refusing()) as refusing, provider_of(stuck) as hanging:
        refused = Telemetry(tracer_provider=refusing, settings=INLINE)
        hung = Telemetry(tracer_provider=hanging, settings=INLINE)

        results = refused.flush(), hung.flush(0.1)
        hung.shutdown(0.2)
        still_stuck = not stuck.free.is_set()
        stuck.free.set()

    assert results == (False, False)
    assert still_stuck


def test_a_disabled_provider_samples_nothing() -> None:
    """A provider that gives tracers without effect gets no span and loses none."""
    code = """
from opentelemetry.sdk.trace import TracerProvider
from otel_intercept import RolloutRegistry, Telemetry
telemetry = Telemetry(tracer_provider=TracerProvider())
registry = RolloutRegistry(telemetry)
print(registry.open("r-1").traceparent[-2:])
registry.close("r-1")
print(*telemetry.shutdown())
"""

    printed = run_python(code, OTEL_SDK_DISABLED="true")

    assert printed.split() == ["00", *"0000000"]


@pytest.mark.parametrize("where", ["tracer_provider", "meter_provider"])
def test_a_provider_that_is_not_the_sdks_is_refused(where: str) -> None:
    """Providers that do nothing would swallow everything, so they are an error."""
    no_op = {
        "tracer_provider": NoOpTracerProvider(),
        "meter_provider": NoOpMeterProvider(),
    }
    build: type = Telemetry

    with pytest.raises(ConfigurationError, match=f"{where} must be a"):
        build(**{where: no_op[where]})


def test_a_provider_and_what_it_replaces_exclude_each_other() -> None:
    """Two ways out for one signal are a mistake, and the message names both."""
    with provider_of() as provider:
        with pytest.raises(ConfigurationError, match=r"span_exporter or tracer_prov"):
            Telemetry(span_exporter=InMemorySpanExporter(), tracer_provider=provider)
        with pytest.raises(ConfigurationError, match=r"metric_reader or meter_prov"):
            Telemetry(
                metric_reader=InMemoryMetricReader(), meter_provider=MeterProvider()
            )


def test_metrics_are_those_of_the_plain_path() -> None:
    """The application's reader gets the same series, values and buckets as ours."""
    plain_reader, keeping = InMemoryMetricReader(), KeepingMetrics()
    meters = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(keeping, 3_600_000)],
        resource=RESOURCE,
        shutdown_on_exit=False,
    )
    plain = Telemetry(metric_reader=plain_reader, settings=INLINE)
    adopted = Telemetry(meter_provider=meters, settings=INLINE)

    seeded = adopted.flush() and series(keeping.latest)
    for telemetry in (plain, adopted):
        put_all(telemetry, every_record())
        telemetry.flush()
    data = plain_reader.get_metrics_data()
    adopted.shutdown()
    closed_by_us = keeping.closed
    plain.shutdown()
    meters.shutdown()

    assert data is not None
    assert series(keeping.latest) == series(data)
    assert seeded
    assert len(seeded) > 100
    assert not closed_by_us
    assert keeping.latest.resource_metrics[0].resource is RESOURCE


def test_exemplars_stay_on_histograms_and_off_counters() -> None:
    """Histograms lead to their span; counters cannot without drawing from random."""
    keeping = KeepingMetrics()
    meters = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(keeping, 3_600_000)],
        shutdown_on_exit=False,
    )

    with provider_of() as provider:
        telemetry = Telemetry(
            tracer_provider=provider, meter_provider=meters, settings=INLINE
        )
        put_all(telemetry, every_record())
        telemetry.flush()
        at_flush = keeping.latest
    meters.shutdown()

    with_exemplars = {
        metric.name
        for metric in metrics_of(at_flush)
        for point in metric.data.data_points
        if point.exemplars
    }
    assert semconv.EXCHANGE_DURATION.name in with_exemplars
    assert not with_exemplars & {
        instrument.name
        for instrument in semconv.INSTRUMENTS
        if instrument.kind != "histogram"
    }


def test_recording_draws_nothing_from_the_global_random() -> None:
    """Seeded training code gets the same numbers with us as without."""
    random.seed(42)
    expected = random.getstate()
    reader = InMemoryMetricReader()
    meters = MeterProvider(metric_readers=[reader], shutdown_on_exit=False)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(InMemorySpanExporter()))

    telemetry = Telemetry(
        tracer_provider=provider, meter_provider=meters, settings=INLINE
    )
    registry = RolloutRegistry(telemetry)
    registry.open("r-1")
    registry.close("r-1")
    put_all(telemetry, every_record() * 20)
    telemetry.flush()
    reader.get_metrics_data()

    assert random.getstate() == expected


def test_a_meter_provider_that_hangs_or_raises_is_no_success() -> None:
    """Its flush is bounded, and what it raises is not passed on."""

    class Broken(KeepingMetrics):
        def export(
            self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
        ) -> MetricExportResult:
            """Hang for longer than anybody waits."""
            free.wait(20)
            return MetricExportResult.FAILURE

    free = threading.Event()
    meters = MeterProvider(
        metric_readers=[PeriodicExportingMetricReader(Broken(), 3_600_000)],
        shutdown_on_exit=False,
    )
    telemetry = Telemetry(meter_provider=meters, settings=INLINE)

    flushed = telemetry.flush(0.2)
    free.set()
    telemetry.shutdown(0.2)
    meters.shutdown()

    assert not flushed


def test_no_secret_leaves_through_the_providers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a guard holds back on our exporters, it holds back here as well."""
    memory, reader = InMemorySpanExporter(), InMemoryMetricReader()
    caplog.set_level(0)
    meters = MeterProvider(
        metric_readers=[reader],
        exemplar_filter=AlwaysOnExemplarFilter(),
        shutdown_on_exit=False,
    )

    class Liar(str):
        __slots__ = ()

        def __str__(self) -> str:
            return CANARY

    failed = describe(RuntimeError(CANARY), phase=Phase.HANDLER, key=b"k" * 16)
    whole = exchange(
        failed=failed,
        response=((f"x.{CANARY}", CANARY), ("gen_ai.response.id", 1)),
        waits=(wait(),),
    )
    leaky = replace(whole, request=replace(whole.request, scheme=Liar("http")))
    with provider_of(SimpleSpanProcessor(memory)) as provider:
        telemetry = Telemetry(
            tracer_provider=provider, meter_provider=meters, settings=INLINE
        )
        put_all(telemetry, [leaky])
        telemetry.flush()
    data = reader.get_metrics_data()

    assert data is not None
    spans = memory.get_finished_spans()
    left = encode_spans(spans).SerializeToString()
    left += encode_metrics(data).SerializeToString()
    assert len(spans) == 2
    assert b"upstream" in left or b"RuntimeError" in left
    assert CANARY.encode() not in left
    assert CANARY not in logged(caplog)


class Leisurely(InMemorySpanExporter):
    """Takes longer for a batch than it takes to make the next one."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Keep the batch, in its own time."""
        threading.Event().wait(0.2)
        return super().export(spans)


def test_a_burst_loses_nothing_in_a_batch_processor() -> None:
    """Many more spans than its queue holds arrive, though its exporter is slow."""
    memory = Leisurely()

    with provider_of(BatchSpanProcessor(memory), Raising("flush")) as provider:
        telemetry = Telemetry(tracer_provider=provider)
        record_exchanges(telemetry, 5000)
        telemetry.shutdown(30)

    assert len(memory.get_finished_spans()) == 5000
    assert telemetry.balance().exported == 5000


class Slow(SpanExporter):
    """Takes its time, as a simple processor makes its caller feel."""

    def __init__(self) -> None:
        self.free = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Wait to be let go."""
        self.free.wait(20)
        return SpanExportResult.SUCCESS


def test_a_provider_that_hangs_costs_the_caller_nothing() -> None:
    """Recording goes on at once, and shutdown keeps within its budget."""
    slow = Slow()

    with provider_of(SimpleSpanProcessor(slow)) as provider:
        telemetry = Telemetry(
            tracer_provider=provider, settings=Settings(schedule_delay_s=0.01)
        )
        record_exchanges(telemetry, 3)
        flushed = telemetry.flush(0.2)
        balance = telemetry.shutdown(0.5)
        slow.free.set()

    assert not flushed
    assert balance.exported == 0
    assert balance.failed + balance.dropped == 3


def run_python(code: str, **environ: str) -> str:
    """Run code in a fresh interpreter, since providers are global only once."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": ":".join(sys.path), **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


GLOBALS = """
import logging, sys
from opentelemetry import _logs, metrics, trace
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from otel_intercept import RolloutRegistry
from otel_intercept.sdk import adopt_global_providers
logging.basicConfig(level="INFO", stream=sys.stdout, format="%(name)s %(message)s")
"""
SET_TRACES = "trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))\n"
SET_METRICS = "metrics.set_meter_provider(MeterProvider(shutdown_on_exit=False))\n"
SET_LOGS = "_logs.set_logger_provider(LoggerProvider(shutdown_on_exit=False))\n"
LOGS_ON = "import os; os.environ['OTEL_INTERCEPT_FAILURE_LOGS'] = 'true'\n"
USE = """
telemetry = adopt_global_providers()
if telemetry is None:
    print("none")
else:
    rollout = RolloutRegistry(telemetry).open("r-1")
    print(telemetry.enabled, rollout.traceparent[-2:], telemetry.settings.queue_size)
    telemetry.shutdown()
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ["none"]),
        (SET_TRACES + SET_METRICS, ["True 01 7"]),
        (SET_TRACES, ["global provider of the SDK: metrics", "True 01 7"]),
        (
            f"{LOGS_ON}{SET_METRICS}",
            ["global provider of the SDK: traces, logs", "True 00 7"],
        ),
        (LOGS_ON + SET_TRACES + SET_METRICS + SET_LOGS, ["True 01 7"]),
        (SET_METRICS, ["global provider of the SDK: traces", "True 00 7"]),
    ],
)
def test_global_providers_are_adopted_as_far_as_they_are_there(
    given: str, expected: list[str]
) -> None:
    """Both, one with a line that says so, or none; the settings are the operator's."""
    printed = run_python(GLOBALS + given + USE, OTEL_BSP_MAX_QUEUE_SIZE="7")

    lines = [line for line in printed.splitlines() if "balance" not in line]
    assert len(lines) == len(expected)
    assert all(map(str.endswith, lines, expected))


def test_a_disabled_sdk_gives_disabled_telemetry() -> None:
    """Switched off, nothing is adopted, and the caller need not configure either."""
    printed = run_python(GLOBALS + SET_TRACES + USE, OTEL_SDK_DISABLED="true")

    assert printed.split()[:2] == ["False", "00"]


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_EXPORTER": "zipkin", "OTEL_METRICS_EXPORTER": "prometheus"},
        {"OTEL_TRACES_SAMPLER": "jaeger_remote", "OTEL_LOGS_EXPORTER": "fluent"},
    ],
)
def test_what_the_provider_was_made_from_is_not_read_again(
    environ: Mapping[str, str],
) -> None:
    """Exporters and samplers that only the SDK knows are no error here."""
    code = GLOBALS + SET_METRICS + USE

    assert "True 00 65536" in run_python(code, **environ)


def test_a_wrong_variable_is_named_and_not_repeated() -> None:
    """A bad setting is an error that has the name and not the value."""
    code = (
        GLOBALS
        + SET_TRACES
        + ("try: adopt_global_providers()\nexcept ValueError as exc: print(exc)")
    )

    printed = run_python(code, OTEL_INTERCEPT_FINGERPRINT_KEY=CANARY)

    assert printed.startswith("OTEL_INTERCEPT_FINGERPRINT_KEY must have")
    assert CANARY not in printed
