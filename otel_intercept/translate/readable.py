"""Build the SDK's spans from ours, for exporters and providers that want those."""

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

from otel_intercept import semconv
from otel_intercept.translate.span import CLIENT, INTERNAL, SERVER, Span

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_STATUSES: Final = {False: Status(StatusCode.UNSET), True: Status(StatusCode.ERROR)}
_KINDS: Final = {
    INTERNAL: SpanKind.INTERNAL,
    SERVER: SpanKind.SERVER,
    CLIENT: SpanKind.CLIENT,
}


def readable_span(
    span: Span, resource: Resource, scope: InstrumentationScope
) -> ReadableSpan:
    """Return the span as the SDK knows it.

    Args:
        span: A span that has passed the guard.
        resource: Who it is from.
        scope: Which library made it.
    """
    shape, trace_id = span.shape, span.trace.trace_id
    parent = None
    if span.parent_id is not None:
        parent = _context(trace_id, span.parent_id, is_remote=shape.parent_is_remote)
    pairs = (
        *shape.attributes,
        *span.trace.attributes,
        *span.attributes,
        *span.values,
    )
    return ReadableSpan(
        name=shape.name,
        context=_context(trace_id, span.span_id),
        parent=parent,
        resource=resource,
        attributes=dict(pairs),
        events=tuple(
            Event(
                semconv.EVENT_EXCEPTION, dict(event.attributes), timestamp=event.at_ns
            )
            for event in span.events
        ),
        links=tuple(
            Link(_context(link.trace_id, link.span_id, is_remote=link.is_remote))
            for link in span.links
        ),
        kind=_KINDS[shape.kind],
        status=_STATUSES[shape.is_error],
        start_time=span.start_ns,
        end_time=span.end_ns,
        instrumentation_scope=scope,
    )


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, _SAMPLED)
