"""The export guard: only allow-listed keys, exact types and short texts get through.

It stands before every exporter and trusts nothing that comes from the translator or
from other instrumentation. What it does not know is dropped item by item and counted;
the rest of the span or point leaves.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, TraceFlags

from otel_intercept import catalogue, semconv
from otel_intercept.record import Attributes, AttributeValue
from otel_intercept.translate.foreign import BARE_METHODS, is_safe_abroad
from otel_intercept.translate.span import (
    ExceptionEvent,
    Shape,
    Span,
    SpanLink,
    Trace,
)

MAX_TEXT: Final = 256
MAX_DECLARED_KEYS: Final = 64
_MAX_ITEMS: Final = 128
_INT64: Final = 2**63


class Guard:
    """What may leave, and how much was held back.

    Used by the exporting threads; ``declare`` may be called from any one other.

    Attributes:
        dropped: Items held back so far: attributes, events, spans, labels, points.
    """

    def __init__(self) -> None:
        self._declared: frozenset[str] = frozenset()
        self._resource: tuple[Resource, Resource] | None = None
        self._scope: tuple[InstrumentationScope, InstrumentationScope] | None = None
        self.dropped = 0

    def declare(self, keys: Iterable[str]) -> frozenset[str]:
        """Allow more attribute keys, at most 64 distinct ones, none of ours.

        Returns:
            Those of ``keys`` that are allowed now. The others are counted as dropped.
        """
        asked = frozenset(keys)
        for key in sorted(asked - catalogue.SPAN_ATTRIBUTES):
            if len(self._declared) < MAX_DECLARED_KEYS:
                self._declared |= {key}
        accepted = asked & self._declared
        self.dropped += len(asked) - len(accepted)
        return accepted

    def allows_key(self, key: str) -> bool:
        """Tell whether an attribute of this key may stand on our own spans."""
        return key in catalogue.SPAN_ATTRIBUTES or key in self._declared

    def allows_name(self, name: str) -> bool:
        """Tell whether a span of our own may have this name, uncut."""
        return _is_text(name) and len(name) <= MAX_TEXT

    def own(self, span: Span) -> Span | None:
        """Return the safe form of a span of our own; None without valid ids."""
        trace_id = span.trace.trace_id
        if not (_is_trace_id(trace_id) and _is_span_id(span.span_id)):
            self.dropped += 1
            return None
        parent_id = span.parent_id if _is_span_id(span.parent_id) else None
        shape, trace = span.shape, span.trace
        pairs = (*shape.attributes, *trace.attributes, *span.attributes, *span.values)
        return span._replace(
            shape=Shape(
                self._name(shape.name, ours=True),
                shape.kind,
                is_error=shape.is_error,
                parent_is_remote=shape.parent_is_remote and parent_id is not None,
            ),
            trace=Trace(trace_id, ()),
            attributes=self._pairs(pairs),
            parent_id=parent_id,
            values=(),
            events=tuple(
                ExceptionEvent(event.at_ns, self._pairs(event.attributes))
                for event in span.events
            ),
            links=tuple(filter(self._is_link, span.links)),
        )

    def spans(self, spans: Iterable[ReadableSpan]) -> list[ReadableSpan]:
        """Return the safe form of the spans, without those that have no valid id."""
        return [safe for span in spans if (safe := self._span(span)) is not None]

    def resource(self, resource: Resource) -> Resource:
        """Return the resource without values that are no str, bool, int or float."""
        if self._resource is None or self._resource[0] is not resource:
            safe = Resource(
                self._plain(resource.attributes), self._text(resource.schema_url)
            )
            self._resource = (resource, safe)
        return self._resource[1]

    def scope(self, scope: InstrumentationScope) -> InstrumentationScope:
        """Return the scope without values that are no str, bool, int or float."""
        if self._scope is None or self._scope[0] is not scope:
            safe = InstrumentationScope(
                self._text(scope.name),
                self._text(scope.version),
                self._text(scope.schema_url),
                self._plain(scope.attributes),
            )
            self._scope = (scope, safe)
        return self._scope[1]

    def _span(self, span: ReadableSpan) -> ReadableSpan | None:
        context = _plain_context(span.get_span_context())
        if context is None:
            self.dropped += 1
            return None
        status = span.status
        if status.description:
            self.dropped += 1
            status = Status(status.status_code)
        scope = span.instrumentation_scope
        ours = scope is not None and scope.name == semconv.SCOPE_NAME
        return ReadableSpan(
            name=self._name(span.name, ours=ours),
            context=context,
            parent=_plain_context(span.parent),
            resource=self.resource(span.resource),
            attributes=self._attributes(span.attributes, ours=ours),
            events=self._events(span.events, ours=ours),
            links=self._links(span.links),
            kind=span.kind,
            status=status,
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=None if scope is None else self.scope(scope),
        )

    def _name(self, name: str, *, ours: bool) -> str:
        # Another library's span name may hold a path, so only a bare method is kept.
        if (ours and _is_text(name)) or name in BARE_METHODS:
            return name[:MAX_TEXT]
        self.dropped += 1
        return semconv.OTHER

    def _attributes(
        self, attributes: Mapping[str, object] | None, *, ours: bool
    ) -> dict[str, AttributeValue]:
        safe: dict[str, AttributeValue] = {}
        for key, value in (attributes or {}).items():
            known = key in catalogue.SPAN_ATTRIBUTES or (ours and key in self._declared)
            kept = safe_value(value) if known else None
            if kept is None or not (ours or is_safe_abroad(key, kept)):
                self.dropped += 1
            else:
                safe[key] = kept
        return safe

    def _pairs(self, pairs: Attributes) -> Attributes:
        return tuple(self._attributes(dict(pairs), ours=True).items())

    def _is_link(self, link: SpanLink) -> bool:
        valid = _is_trace_id(link.trace_id) and _is_span_id(link.span_id)
        self.dropped += not valid
        return valid

    def _events(self, events: Sequence[Event], *, ours: bool) -> tuple[Event, ...]:
        kept = [event for event in events if event.name == semconv.EVENT_EXCEPTION]
        self.dropped += len(events) - len(kept)
        return tuple(
            Event(
                semconv.EVENT_EXCEPTION,
                self._attributes(event.attributes, ours=ours),
                timestamp=event.timestamp,
            )
            for event in kept
        )

    def _links(self, links: Sequence[Link]) -> tuple[Link, ...]:
        safe = []
        for link in links:
            context = _plain_context(link.context)
            self.dropped += len(link.attributes or ())
            if context is None:
                self.dropped += 1
            else:
                safe.append(Link(context))
        return tuple(safe)

    def _plain(
        self, attributes: Mapping[str, object] | None
    ) -> dict[str, AttributeValue]:
        safe: dict[str, AttributeValue] = {}
        for key, value in (attributes or {}).items():
            kept = safe_value(value)
            if kept is None or isinstance(kept, tuple) or not _is_text(key):
                self.dropped += 1
            else:
                safe[key[:MAX_TEXT]] = kept
        return safe

    def _text(self, text: str | None) -> str:
        if text is None:
            return ""
        if not _is_text(text):
            self.dropped += 1
            return semconv.OTHER
        return text[:MAX_TEXT]


def safe_value(value: object) -> AttributeValue | None:
    """Return the value if it may leave, cut to size, or None.

    Only the exact types pass, since a subclass may print as anything; and only what
    OTLP can carry: 64-bit ints, finite floats, text that encodes as UTF-8.
    """
    kind = type(value)
    if isinstance(value, str) and kind is str:
        return value[:MAX_TEXT] if _is_text(value) else None
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and kind is int:
        return value if -_INT64 <= value < _INT64 else None
    if isinstance(value, float) and kind is float:
        return value if math.isfinite(value) else None
    if isinstance(value, tuple) and kind is tuple and all(map(_is_text, value)):
        return tuple(item[:MAX_TEXT] for item in value[:_MAX_ITEMS])
    return None


def _is_text(value: object) -> bool:
    if not isinstance(value, str) or type(value) is not str:
        return False
    if value.isascii():
        return True
    try:
        value[:MAX_TEXT].encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_trace_id(number: int) -> bool:
    return 0 < number < 2**128


def _is_span_id(number: int | None) -> bool:
    return number is not None and 0 < number < 2**64


def _plain_context(context: SpanContext | None) -> SpanContext | None:
    if context is None or not context.is_valid:
        return None
    return SpanContext(
        context.trace_id,
        context.span_id,
        context.is_remote,
        TraceFlags(context.trace_flags & TraceFlags.SAMPLED),
    )
