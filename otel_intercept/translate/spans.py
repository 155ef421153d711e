"""Turn one record into finished spans: pure, built directly, no tracer."""

from typing import Final, Generic

from opentelemetry.trace import SpanContext, TraceFlags

from otel_intercept import semconv
from otel_intercept.failure import Failure
from otel_intercept.record import (
    Attributes,
    ExchangeEnded,
    ExchangeRejected,
    FailureSeen,
    Record,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
    UpstreamWait,
)
from otel_intercept.semconv import (
    RolloutOutcome,
)
from otel_intercept.translate.attributes import (
    exception_attributes,
    outcome_attributes,
    rollout_attributes,
    stream_attributes,
    streamed,
)
from otel_intercept.translate.cache import Cache
from otel_intercept.translate.shapes import (
    CallKey,
    ExchangeKey,
    call_shape,
    exchange_shape,
    traces_of,
)
from otel_intercept.translate.span import (
    INTERNAL,
    AttributesT,
    ExceptionEvent,
    Shape,
    ShapeT,
    SpanBuilder,
    SpanLink,
    SpanT_co,
    TraceT,
)

_MAX_SHAPES: Final = 1024
_MAX_TRACES: Final = 4096
_MAX_REQUESTS: Final = 4096
_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_STARTED: Final = Shape(semconv.SPAN_ROLLOUT_STARTED, INTERNAL)
_FAILURE: Final = Shape(semconv.SPAN_FAILURE, INTERNAL, is_error=True)
_ROOT: Final = Shape(semconv.SPAN_ROLLOUT, INTERNAL)


class SpanFactory(Generic[ShapeT, TraceT, AttributesT, SpanT_co]):
    """Builds the spans of a record, in the form that a builder gives them.

    What exchanges of one route, status and outcome have in common is built once and
    kept, and so it is for the calls of one model, and for the spans of one rollout.

    Args:
        builder: Makes the spans.
    """

    def __init__(
        self, builder: SpanBuilder[ShapeT, TraceT, AttributesT, SpanT_co]
    ) -> None:
        self._builder = builder
        self._span = builder.span
        self._exchange_shapes = Cache[ExchangeKey, ShapeT](
            lambda key: builder.shape(exchange_shape(key)), _MAX_SHAPES
        )
        self._call_shapes = Cache[CallKey, ShapeT](
            lambda key: builder.shape(call_shape(key)), _MAX_SHAPES
        )
        self._traces = Cache(self._new_traces, _MAX_TRACES)
        self._indexes = Cache[int, AttributesT](
            lambda index: builder.attributes(((semconv.EXCHANGE_INDEX, index),)),
            _MAX_SHAPES,
        )
        # Equal requests have values of equal types: each key has one.
        self._requests = Cache[Attributes, AttributesT](
            builder.attributes, _MAX_REQUESTS
        )
        self._nothing = builder.attributes(())

    def spans_of(self, record: Record) -> list[SpanT_co]:
        """Return the record's spans, its main span first; none for a rejected exchange.

        Whether the rollout is sampled is for the caller to see to. Raises what the
        builder raises.
        """
        match record:
            case ExchangeEnded():
                return self._exchange(record)
            case RolloutStarted():
                return [self._marker(record)]
            case RolloutEnded():
                return [self._root(record)]
            case FailureSeen():
                return [self._failure(record)]
            case ExchangeRejected():
                return []

    def _exchange(self, record: ExchangeEnded) -> list[SpanT_co]:
        # The hot path: what is read more than once is looked up once.
        rollout, span_id, waits = record.rollout, record.span_id, record.waits
        http, asked, response = record.request, record.asked, record.response
        facts, failure, failure_ns = record.facts, record.failure, record.failure_ns
        spoken, model, request = http.dialect, asked.model, asked.attributes
        end_ns, stream = record.end_ns, record.stream
        retry_count, link = http.retry_count, http.link
        trace, call_trace = self._traces[rollout.rollout_id, rollout.trace_id]
        values: Attributes = () if facts is None else stream_attributes(facts)
        if record.replayed:
            values = (*values, (semconv.EXCHANGE_REPLAYED, True))
        if retry_count is not None:
            values = (*values, (semconv.EXCHANGE_RETRY_COUNT, retry_count))
        if stream:
            request = streamed(request)
        if not waits:
            conversation = (semconv.GEN_AI_CONVERSATION_ID, rollout.rollout_id)
            values = (*values, conversation, *request, *response)
        error_type = None if failure is None else failure.error_type
        called = None if waits else (model,)
        shape = self._exchange_shapes[
            http.method, http.route, http.scheme, spoken, stream, record.status,
            record.outcome, error_type, called,
        ]  # fmt: skip
        spans = [
            self._span(
                shape, trace, self._indexes[record.exchange_index], span_id,
                rollout.span_id, record.start_ns, end_ns, values,
                () if failure is None else _events(failure, failure_ns or end_ns),
                () if link is None else (SpanLink(*link, is_remote=True),),
            )
        ]  # fmt: skip
        answered = waits[0] if len(waits) == 1 else _last_success(waits)
        for wait in waits:
            error_type = wait.error_type
            spans.append(
                self._span(
                    self._call_shapes[spoken, model, error_type],
                    call_trace,
                    self._requests[request],
                    wait.span_id,
                    span_id,
                    wait.start_ns,
                    wait.end_ns,
                    response if wait is answered and error_type is None else (),
                )
            )
        return spans

    def _new_traces(self, named: tuple[str, int]) -> tuple[TraceT, TraceT]:
        trace, call_trace = traces_of(*named)
        return self._builder.trace(trace), self._builder.trace(call_trace)

    def _marker(self, record: RolloutStarted) -> SpanT_co:
        rollout = record.rollout
        return self._span(
            self._builder.shape(_STARTED),
            self._traces[rollout.rollout_id, rollout.trace_id][0],
            self._nothing,
            record.span_id,
            rollout.span_id,
            rollout.start_ns,
            rollout.start_ns,
            tuple(rollout_attributes(rollout).items()),
            (),
            _previous(rollout),
        )

    def _root(self, record: RolloutEnded) -> SpanT_co:
        rollout = record.rollout
        shape = _ROOT._replace(
            is_error=record.outcome is RolloutOutcome.FAILED,
            parent_is_remote=rollout.parent_span_id is not None,
        )
        attributes = rollout_attributes(rollout) | outcome_attributes(record)
        return self._span(
            self._builder.shape(shape),
            self._traces[rollout.rollout_id, rollout.trace_id][0],
            self._nothing,
            rollout.span_id,
            rollout.parent_span_id,
            rollout.start_ns,
            record.end_ns,
            tuple(attributes.items()),
            (),
            _previous(rollout),
        )

    def _failure(self, record: FailureSeen) -> SpanT_co:
        rollout, failure = record.rollout, record.failure
        links: tuple[SpanLink, ...] = ()
        if record.exchange_span_id is not None:
            link = SpanLink(rollout.trace_id, record.exchange_span_id, is_remote=False)
            links = (link,)
        return self._span(
            self._builder.shape(_FAILURE),
            self._traces[rollout.rollout_id, rollout.trace_id][0],
            self._nothing,
            record.span_id,
            rollout.span_id,
            record.at_ns,
            record.at_ns,
            ((semconv.ERROR_TYPE, failure.error_type.value),),
            _events(failure, record.at_ns),
            links,
        )


def span_context_of(record: Record) -> SpanContext | None:
    """Return the context of the record's main span, or None when it makes none."""
    match record:
        case ExchangeRejected():
            return None
        case RolloutEnded():
            span_id = record.rollout.span_id
        case _:
            span_id = record.span_id
    rollout = record.rollout
    if not rollout.sampled:
        return None
    return SpanContext(rollout.trace_id, span_id, is_remote=False, trace_flags=_SAMPLED)


def _last_success(waits: tuple[UpstreamWait, ...]) -> UpstreamWait | None:
    answered = None
    for wait in waits:
        if wait.error_type is None:
            answered = wait
    return answered


def _previous(rollout: RolloutRef) -> tuple[SpanLink, ...]:
    previous = rollout.previous
    return () if previous is None else (SpanLink(*previous, is_remote=True),)


def _events(failure: Failure, at_ns: int) -> tuple[ExceptionEvent, ...]:
    attributes = tuple(exception_attributes(failure).items())
    return (ExceptionEvent(at_ns, attributes),)
