"""Turn one record into finished OTel spans: pure, built directly, no tracer."""

from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
)

from otel_intercept import dialect, outcome, semconv
from otel_intercept.failure import Failure
from otel_intercept.record import (
    Attributes,
    AttributeValue,
    ExchangeEnded,
    ExchangeRejected,
    FailureSeen,
    Record,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
    UpstreamWait,
)
from otel_intercept.semconv import RolloutOutcome
from otel_intercept.translate.attributes import (
    exception_attributes,
    exchange_attributes,
    failure_attributes,
    request_attributes,
    rollout_attributes,
)

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_UNSET: Final = Status(StatusCode.UNSET)
_ERROR: Final = Status(StatusCode.ERROR)
_METHODS: Final = frozenset(
    {
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY",
        "TRACE",
    }
)  # fmt: skip


class SpanFactory:
    """Builds the spans of a record.

    Args:
        resource: Who the spans are from.
        scope: Which library made them.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = resource
        self._scope = scope

    def spans_of(self, record: Record) -> list[ReadableSpan]:
        """Return the record's spans, its main span first; none for a rejected exchange.

        Whether the rollout is sampled is for the caller to see to.
        """
        match record:
            case RolloutStarted():
                return [self._marker(record)]
            case RolloutEnded():
                return [self._root(record)]
            case ExchangeEnded():
                return self._exchange(record)
            case FailureSeen():
                return [self._failure(record)]
            case ExchangeRejected():
                return []

    def _marker(self, record: RolloutStarted) -> ReadableSpan:
        rollout = record.rollout
        return self._span(
            semconv.SPAN_ROLLOUT_STARTED,
            context_of(rollout, record.span_id),
            parent=context_of(rollout, rollout.span_id),
            start_ns=rollout.start_ns,
            end_ns=rollout.start_ns,
            attributes=rollout_attributes(rollout),
            links=_remote_links(rollout.previous),
        )

    def _root(self, record: RolloutEnded) -> ReadableSpan:
        rollout = record.rollout
        attributes = rollout_attributes(rollout)
        attributes[semconv.ROLLOUT_OUTCOME] = record.outcome.value
        attributes[semconv.ROLLOUT_EXCHANGES] = record.exchanges
        attributes[semconv.ROLLOUT_FAILURES] = record.failures
        if record.failure is not None:
            attributes.update(failure_attributes(record.failure))
        parent = None
        if rollout.parent_span_id is not None:
            parent = context_of(rollout, rollout.parent_span_id, is_remote=True)
        failed = record.outcome is RolloutOutcome.FAILED
        return self._span(
            semconv.SPAN_ROLLOUT,
            context_of(rollout, rollout.span_id),
            parent=parent,
            start_ns=rollout.start_ns,
            end_ns=record.end_ns,
            attributes=attributes,
            links=_remote_links(rollout.previous),
            status=_ERROR if failed else _UNSET,
        )

    def _exchange(self, record: ExchangeEnded) -> list[ReadableSpan]:
        rollout = record.rollout
        context = context_of(rollout, record.span_id)
        method = record.method if record.method in _METHODS else None
        attributes = exchange_attributes(record)
        attributes[semconv.HTTP_REQUEST_METHOD] = method or semconv.OTHER
        if not record.waits:
            attributes.update(request_attributes(record))
            attributes.update(record.response)
        span = self._span(
            f"{method or 'HTTP'} {record.route}",
            context,
            parent=context_of(rollout, rollout.span_id),
            start_ns=record.start_ns,
            end_ns=record.end_ns,
            attributes=attributes,
            kind=SpanKind.SERVER,
            events=_exchange_events(record),
            links=_remote_links(record.link),
            status=_ERROR if outcome.is_error(record.outcome) else _UNSET,
        )
        return [span, *self._waits(record, context)]

    def _waits(self, record: ExchangeEnded, parent: SpanContext) -> list[ReadableSpan]:
        answered = _last_success(record.waits)
        return [
            self._wait(
                record, wait, parent, record.response if wait is answered else ()
            )
            for wait in record.waits
        ]

    def _wait(
        self,
        record: ExchangeEnded,
        wait: UpstreamWait,
        parent: SpanContext,
        response: Attributes,
    ) -> ReadableSpan:
        attributes = request_attributes(record)
        attributes.update(response)
        attributes[semconv.ROLLOUT_ID] = record.rollout.rollout_id
        if wait.error_type is not None:
            attributes[semconv.ERROR_TYPE] = wait.error_type.value
        operation = dialect.operation_of(record.dialect)
        return self._span(
            operation if record.model is None else f"{operation} {record.model}",
            context_of(record.rollout, wait.span_id),
            parent=parent,
            start_ns=wait.start_ns,
            end_ns=wait.end_ns,
            attributes=attributes,
            kind=SpanKind.CLIENT,
            status=_UNSET if wait.error_type is None else _ERROR,
        )

    def _failure(self, record: FailureSeen) -> ReadableSpan:
        rollout = record.rollout
        links: tuple[Link, ...] = ()
        if record.exchange_span_id is not None:
            links = (Link(context_of(rollout, record.exchange_span_id)),)
        return self._span(
            semconv.SPAN_FAILURE,
            context_of(rollout, record.span_id),
            parent=context_of(rollout, rollout.span_id),
            start_ns=record.at_ns,
            end_ns=record.at_ns,
            attributes={
                semconv.ROLLOUT_ID: rollout.rollout_id,
                semconv.ERROR_TYPE: record.failure.error_type.value,
            },
            events=(_failure_event(record.failure, record.at_ns),),
            links=links,
            status=_ERROR,
        )

    def _span(
        self,
        name: str,
        context: SpanContext,
        *,
        parent: SpanContext | None,
        start_ns: int,
        end_ns: int,
        attributes: dict[str, AttributeValue],
        kind: SpanKind = SpanKind.INTERNAL,
        events: tuple[Event, ...] = (),
        links: tuple[Link, ...] = (),
        status: Status = _UNSET,
    ) -> ReadableSpan:
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=events,
            links=links,
            kind=kind,
            status=status,
            start_time=start_ns,
            end_time=end_ns,
            instrumentation_scope=self._scope,
        )


def context_of(
    rollout: RolloutRef, span_id: int, *, is_remote: bool = False
) -> SpanContext:
    """Return the sampled context of one span of the rollout's trace."""
    return SpanContext(rollout.trace_id, span_id, is_remote, _SAMPLED)


def span_context_of(record: Record) -> SpanContext | None:
    """Return the context of the record's main span, or None when it makes none."""
    match record:
        case ExchangeRejected():
            return None
        case RolloutEnded():
            span_id = record.rollout.span_id
        case _:
            span_id = record.span_id
    return context_of(record.rollout, span_id) if record.rollout.sampled else None


def _last_success(waits: tuple[UpstreamWait, ...]) -> UpstreamWait | None:
    return next((wait for wait in reversed(waits) if wait.error_type is None), None)


def _exchange_events(record: ExchangeEnded) -> tuple[Event, ...]:
    if record.failure is None:
        return ()
    at_ns = record.end_ns if record.failure_ns is None else record.failure_ns
    return (_failure_event(record.failure, at_ns),)


def _remote_links(link: tuple[int, int] | None) -> tuple[Link, ...]:
    if link is None:
        return ()
    trace_id, span_id = link
    return (Link(SpanContext(trace_id, span_id, is_remote=True, trace_flags=_SAMPLED)),)


def _failure_event(failure: Failure, at_ns: int) -> Event:
    attributes = exception_attributes(failure)
    return Event(semconv.EVENT_EXCEPTION, attributes, timestamp=at_ns)
