"""Nothing passes the export guard but what the catalogue and the settings allow."""

import logging
import math
import time
from collections.abc import Sequence
from enum import StrEnum

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import (
    SimpleSpanProcessor,
    SpanExporter,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)
from opentelemetry.util.types import AttributeValue

from otel_intercept import catalogue, semconv
from otel_intercept.semconv import Fate
from otel_intercept.translate.complaints import Complaints, RepeatLimit
from otel_intercept.translate.guard import MAX_DECLARED_KEYS, Guard, safe_value
from otel_intercept.translate.guard_metrics import MetricGuard
from otel_intercept.translate.guarded import GuardedMetricExporter, GuardedSpanExporter
from tests.readable import ReadableSpans
from tests.samples import exchange as exchange_record
from tests.samples import failed_exchange, wait

CANARY = "sk-canary-0451"
OURS = InstrumentationScope("otel_intercept")
FOREIGN = InstrumentationScope("opentelemetry.instrumentation.httpx")
CONTEXT = SpanContext(0xA, 0xB, is_remote=False, trace_flags=TraceFlags(1))


class Word(StrEnum):
    """A subclass of str."""

    SECRET = CANARY


class Lying(int):
    """A subclass of int that prints as something else."""

    def __str__(self) -> str:
        return CANARY


def span(
    name: str = "rollout",
    *,
    scope: InstrumentationScope | None = OURS,
    context: SpanContext | None = CONTEXT,
    attributes: dict[str, AttributeValue] | None = None,
    events: Sequence[Event] = (),
    links: Sequence[Link] = (),
    status: Status | None = None,
    resource: Resource | None = None,
) -> ReadableSpan:
    """Return a finished span."""
    return ReadableSpan(
        name=name,
        context=context,
        parent=context,
        resource=resource or Resource({"service.name": "s"}),
        attributes=attributes,
        events=events,
        links=links,
        status=status or Status(StatusCode.UNSET),
        start_time=1,
        end_time=2,
        instrumentation_scope=scope,
    )


def passed(guard: Guard, guarded: ReadableSpan) -> ReadableSpan:
    """Return the one span that the guard lets through."""
    (safe,) = guard.spans([guarded])
    return safe


def test_spans_of_records_pass_unchanged() -> None:
    """What the translator makes is within the fence: nothing is dropped."""
    guard = Guard()
    factory = ReadableSpans(Resource({"service.name": "s"}), OURS)
    made = [
        made
        for record in (failed_exchange(), exchange_record(link=(3, 4), waits=(wait(),)))
        for made in factory.spans_of(record)
    ]

    safe = guard.spans(made)

    assert guard.dropped == 0
    assert encode_spans(safe) == encode_spans(made)


def test_unknown_keys_are_dropped_and_the_span_survives() -> None:
    """A key that is not in the catalogue leaves with nothing, the rest stays."""
    guard = Guard()

    safe = passed(
        guard, span(attributes={"http.url": CANARY, semconv.ROLLOUT_ID: "r", "x": 1})
    )

    assert dict(safe.attributes or {}) == {semconv.ROLLOUT_ID: "r"}
    assert guard.dropped == 2


@pytest.mark.parametrize(
    "value",
    [
        Word.SECRET,
        Lying(3),
        CANARY.encode(),
        [CANARY],
        {"a": CANARY},
        (CANARY, 1),
        (Word.SECRET,),
        None,
        Exception,
        2**63,
        -(2**63) - 1,
        math.nan,
        math.inf,
        "\ud800" + CANARY,
        ("\ud800",),
    ],
    ids=ascii,
)
def test_values_of_other_types_are_dropped(value: object) -> None:
    """Subclasses, bytes, lists, maps and what OTLP cannot carry never leave."""
    assert safe_value(value) is None


@pytest.mark.parametrize(
    "value",
    ["text", "", "ü" * 10, True, 0, -(2**63), 2**63 - 1, 0.5, (), ("a", "ü")],
    ids=repr,
)
def test_exact_primitives_pass_unchanged(
    value: str | bool | float | tuple[str, ...],
) -> None:
    """The types that the catalogue uses pass as they are."""
    safe = safe_value(value)

    assert safe == value
    assert type(safe) is type(value)


def test_texts_and_lists_are_cut() -> None:
    """No text is longer than 256 characters, and no list than 128 items."""
    texts = safe_value(("x" * 1000,) * 1000)

    assert safe_value("x" * 1000) == "x" * 256
    assert texts == ("x" * 256,) * 128


def test_only_exception_events_pass_and_only_with_known_keys() -> None:
    """A stacktrace on an exception event and any other event are dropped."""
    guard = Guard()
    events = [
        Event("exception", {"exception.stacktrace": CANARY, "exception.type": "E"}, 5),
        Event(CANARY, {"exception.type": "E"}, 6),
    ]

    safe = passed(guard, span(events=events))

    (event,) = safe.events
    assert (event.name, event.timestamp) == ("exception", 5)
    assert dict(event.attributes or {}) == {"exception.type": "E"}
    assert guard.dropped == 2


def test_a_status_keeps_its_code_and_loses_its_text() -> None:
    """The description, where SDKs write the exception's text, never leaves."""
    guard = Guard()

    safe = passed(guard, span(status=Status(StatusCode.ERROR, CANARY)))

    assert safe.status.status_code is StatusCode.ERROR
    assert safe.status.description is None
    assert guard.dropped == 1


def test_links_and_contexts_keep_ids_only() -> None:
    """Link attributes and trace states are dropped, ids and remoteness stay."""
    guard = Guard()
    context = SpanContext(
        7, 8, is_remote=True, trace_flags=TraceFlags(0xFF), trace_state=TraceState(
            [("vendor", CANARY)]
        )
    )  # fmt: skip
    links = [Link(context, {"a": CANARY}), Link(SpanContext(0, 0, is_remote=True))]

    safe = passed(guard, span(context=context, links=links))

    (link,) = safe.links
    for kept in (link.context, safe.context, safe.parent):
        assert kept is not None
        assert (kept.trace_id, kept.span_id, kept.is_remote) == (7, 8, True)
        assert not kept.trace_state
        assert kept.trace_flags == 1
    assert not link.attributes
    assert CANARY.encode() not in encode_spans([safe]).SerializeToString()


@pytest.mark.parametrize("context", [None, SpanContext(0, 0, is_remote=False)])
def test_a_span_without_a_valid_id_is_dropped(context: SpanContext | None) -> None:
    """A span that no backend could place does not spoil its batch."""
    guard = Guard()

    safe = guard.spans([span(context=context), span()])

    assert len(safe) == 1
    assert guard.dropped == 1


@pytest.mark.parametrize(
    ("name", "scope", "expected"),
    [
        ("POST /rollout/{id}", OURS, "POST /rollout/{id}"),
        ("x" * 1000, OURS, "x" * 256),
        ("\ud800", OURS, "_OTHER"),
        ("POST", FOREIGN, "POST"),
        (f"GET /v1?key={CANARY}", FOREIGN, "_OTHER"),
        (CANARY, None, "_OTHER"),
    ],
)
def test_names_of_foreign_spans_are_not_trusted(
    name: str, scope: InstrumentationScope | None, expected: str
) -> None:
    """Another library's span keeps its name only when it is a bare HTTP method."""
    assert passed(Guard(), span(name, scope=scope)).name == expected


def test_resource_and_scope_keep_plain_values_only() -> None:
    """Configuration may name anything, but only as text, number or flag."""
    guard = Guard()
    resource = Resource(
        {"host.name": "h", "n": 1, "f": 0.5, "b": True, "list": ["x"], "raw": b"x"}
    )
    scope = InstrumentationScope("lib", "1", "http://schema", {"ok": 1, "raw": b"x"})

    safe = passed(guard, span("GET", resource=resource, scope=scope))

    assert dict(safe.resource.attributes) == {
        "host.name": "h",
        "n": 1,
        "f": 0.5,
        "b": True,
    }
    assert safe.instrumentation_scope is not None
    assert safe.instrumentation_scope.name == "lib"
    assert safe.instrumentation_scope.schema_url == "http://schema"
    assert dict(safe.instrumentation_scope.attributes or {}) == {"ok": 1}
    assert guard.dropped == 3


def test_one_resource_stays_one_resource() -> None:
    """Spans of one resource are exported under one, not under a copy each."""
    guard = Guard()
    resource = Resource({"service.name": "s"})

    safe = guard.spans([span(resource=resource), span(resource=resource)])

    assert safe[0].resource is safe[1].resource


def test_declared_keys_pass_until_there_are_too_many() -> None:
    """An operator may declare 64 keys of its own, again and again, and none of ours."""
    guard = Guard()
    many = {f"team.{number:03}" for number in range(100)}

    first = guard.declare(["team.a", semconv.ROLLOUT_OUTCOME])
    again = guard.declare(["team.a"])
    rest = guard.declare(many)
    safe = passed(guard, span(attributes={"team.a": 1, "team.099": 2}))

    assert first == again == {"team.a"}
    assert len(rest) == MAX_DECLARED_KEYS - 1
    assert rest < many
    assert dict(safe.attributes or {}) == {"team.a": 1}
    assert guard.dropped == 1 + (100 - 63) + 1


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from([Word.SECRET, Lying(1)]),
    lambda inner: (
        st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner)
    ),
)


@given(
    st.dictionaries(
        st.sampled_from([*sorted(catalogue.SPAN_ATTRIBUTES), "other"]), values
    ),
    st.text(),
)
def test_whatever_goes_in_only_the_schema_comes_out(
    attributes: dict[str, AttributeValue], name: str
) -> None:
    """Any span that goes in comes out encodable, with known keys and exact types."""
    safe = passed(
        Guard(),
        span(name, attributes=attributes, events=[Event("exception", attributes, 1)]),
    )

    encoded = encode_spans([safe]).resource_spans[0].scope_spans[0].spans[0]
    for mapping in (safe.attributes, safe.events[0].attributes):
        for key, value in (mapping or {}).items():
            assert key in catalogue.SPAN_ATTRIBUTES
            assert type(value) in (str, bool, int, float, tuple)
    assert len(encoded.attributes) == len(safe.attributes or {})


def number_point(labels: dict[str, AttributeValue] | None) -> NumberDataPoint:
    """Return a point with an exemplar that holds what it must not."""
    exemplar = Exemplar({"filtered": CANARY}, 1, 5, 0xB, 0xA)
    return NumberDataPoint(labels, 1, 2, 3, [exemplar])


def metrics_data(*metrics: Metric) -> MetricsData:
    """Return metrics of one scope of one resource."""
    scope = ScopeMetrics(OURS, list(metrics), "")
    return MetricsData([ResourceMetrics(Resource({"raw": b"x"}), [scope], "")])


def counter(name: str, *points: NumberDataPoint) -> Metric:
    """Return a cumulative counter."""
    return Metric(
        name, "", "1", Sum(points, AggregationTemporality.CUMULATIVE, is_monotonic=True)
    )


def test_points_of_the_catalogue_pass_without_exemplar_attributes() -> None:
    """A proper point stays; its exemplars keep ids and value and nothing else."""
    guard = Guard()
    data = metrics_data(
        counter("intercept.rollouts", number_point({semconv.ROLLOUT_OUTCOME: "ok"})),
        Metric("intercept.records.queued", "", "1", Gauge([number_point(None)])),
        Metric(
            "intercept.rollout.duration",
            "",
            "s",
            Histogram(
                [HistogramDataPoint({}, 1, 2, 1, 3.0, [1], [], 3.0, 3.0)],
                AggregationTemporality.CUMULATIVE,
            ),
        ),
    )

    safe, number = MetricGuard(guard).data(data)

    assert number == 3
    encoded = encode_metrics(safe)
    assert CANARY.encode() not in encoded.SerializeToString()
    (metric, *_) = encoded.resource_metrics[0].scope_metrics[0].metrics
    (point,) = metric.sum.data_points
    assert point.exemplars[0].trace_id.hex().endswith("0a")
    assert point.as_int == 3
    assert guard.dropped == 1


@pytest.mark.parametrize(
    "point",
    [
        number_point({"intercept.rollout.outcome": Word.SECRET}),
        number_point({"rollout_id": CANARY}),
        number_point({semconv.ROLLOUT_OUTCOME: "ok", "path": CANARY}),
    ],
)
def test_a_point_with_a_foreign_label_is_dropped_whole(point: NumberDataPoint) -> None:
    """A label that is not the instrument's cannot leave, nor can its point pretend."""
    guard = Guard()
    good = number_point({semconv.ROLLOUT_OUTCOME: "failed"})

    safe, number = MetricGuard(guard).data(
        metrics_data(counter("intercept.rollouts", point, good))
    )

    assert number == 1
    assert CANARY.encode() not in encode_metrics(safe).SerializeToString()


def test_metrics_that_are_not_in_the_catalogue_are_dropped() -> None:
    """Neither another library's metric nor another kind of data passes."""
    guard = Guard()
    exponential = ExponentialHistogram([], AggregationTemporality.CUMULATIVE)

    safe, number = MetricGuard(guard).data(
        metrics_data(
            counter("http.server.duration", number_point({}), number_point({})),
            Metric("intercept.rollout.duration", "", "s", exponential),
        )
    )

    assert number == 0
    assert safe.resource_metrics[0].scope_metrics[0].metrics == []
    assert guard.dropped == 3


class Raising(SpanExporter):
    """An exporter that raises."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Raise."""
        raise RuntimeError(CANARY)


class RaisingMetrics(MetricExporter):
    """A metric exporter that raises."""

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        """Raise."""
        raise RuntimeError(CANARY)

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Do nothing."""


def test_the_guard_can_stand_before_the_spans_of_a_foreign_provider() -> None:
    """Spans that another library makes lose names, texts and traces of exceptions."""
    memory = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(GuardedSpanExporter(memory)))
    tracer = provider.get_tracer("some.library")

    with (
        pytest.raises(RuntimeError),
        tracer.start_as_current_span(f"GET /{CANARY}", attributes={"url.full": CANARY}),
    ):
        raise RuntimeError(CANARY)
    flushed = provider.force_flush()
    provider.shutdown()

    spans = memory.get_finished_spans()
    assert flushed
    assert [each.name for each in spans] == ["_OTHER"]
    assert CANARY.encode() not in encode_spans(spans).SerializeToString()
    assert spans[0].events[0].attributes == {"exception.type": "RuntimeError"}


def test_an_exporter_that_raises_counts_as_failed_without_its_text(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An exporter's exception becomes FAILURE, and nobody gets to read it."""
    metrics = GuardedMetricExporter(RaisingMetrics())
    data = metrics_data(counter("intercept.rollouts", number_point({})))

    spans_result = GuardedSpanExporter(Raising()).export([span()])
    metrics_result = metrics.export(data)

    assert spans_result is SpanExportResult.FAILURE
    assert metrics_result is MetricExportResult.FAILURE
    assert metrics.fates == {Fate.EXPORTED: 0, Fate.FAILED: 1, Fate.DROPPED: 0}
    assert metrics.idle
    assert len(caplog.records) == 2
    assert CANARY not in caplog.text
    assert all(record.exc_info is None for record in caplog.records)


def test_a_guarded_exporter_passes_flush_and_shutdown_on() -> None:
    """Behind the guard the other exporter is flushed and shut down as ever."""
    memory = InMemorySpanExporter()
    guarded = GuardedSpanExporter(memory)

    flushed = guarded.force_flush()
    guarded.shutdown()

    assert flushed
    assert memory.export([span()]) is SpanExportResult.FAILURE


def test_texts_that_cannot_be_encoded_leave_neither_name_nor_scope() -> None:
    """A name that is no text, or no valid one, becomes ``_OTHER``."""
    guard = Guard()
    scope = InstrumentationScope("\ud800", "1", "\ud800")

    safe = passed(guard, span("GET", scope=scope))

    assert safe.instrumentation_scope is not None
    assert safe.instrumentation_scope.name == "_OTHER"
    assert safe.instrumentation_scope.schema_url == "_OTHER"
    assert guard.dropped == 2


def test_a_repeated_complaint_is_made_once(caplog: pytest.LogCaptureFixture) -> None:
    """The same warning is logged once a minute, another one at once."""
    complaints = Complaints(logging.getLogger("otel_intercept.test"))

    for text in ("first", "first", "second", "first"):
        complaints.warn(text)

    assert [record.getMessage() for record in caplog.records] == ["first", "second"]


def test_a_limit_opens_again_after_its_interval() -> None:
    """A problem passes again when its interval is over, and not before."""
    long, short = RepeatLimit(interval_s=3600), RepeatLimit(interval_s=0.05)

    at_first = (long.passes("x"), long.passes("x"), short.passes("x"))
    time.sleep(0.06)

    assert at_first == (True, False, True)
    assert short.passes("x")
    assert not long.passes("x")
