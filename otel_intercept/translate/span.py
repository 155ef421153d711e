"""A span as this library makes it: light, immutable, and far from any SDK.

Times are Unix nanoseconds, ids are integers. There is no status text, no trace state,
no attribute on a link, and no event but ``exception``: what cannot be said cannot leak.
"""

from typing import Final, NamedTuple, Protocol, TypeVar

from otel_intercept.record import Attributes

INTERNAL: Final = 1
SERVER: Final = 2
CLIENT: Final = 3
"""Span kinds, by their numbers in OTLP."""


class ExceptionEvent(NamedTuple):
    """An event named ``exception``."""

    at_ns: int
    attributes: Attributes


class SpanLink(NamedTuple):
    """A link to another span."""

    trace_id: int
    span_id: int
    is_remote: bool


class Shape(NamedTuple):
    """What spans of equal facts have in common, in whichever rollout.

    Args:
        name: The name.
        kind: The kind, by its number in OTLP.
        attributes: Their common attributes.
        is_error: Whether the status is ERROR; else it is UNSET.
        parent_is_remote: Whether another process has the parent.
    """

    name: str
    kind: int
    attributes: Attributes = ()
    is_error: bool = False
    parent_is_remote: bool = False


class Trace(NamedTuple):
    """What spans of one rollout have in common: the trace's id, and attributes."""

    trace_id: int
    attributes: Attributes


class Span(NamedTuple):
    """A finished span. No attribute has the key of another, in whichever part.

    Args:
        shape: Name, kind, status, and attributes of many spans.
        trace: Trace id, and attributes of all spans of the rollout.
        attributes: Attributes that some other spans have as well.
        span_id: The span.
        parent_id: The parent; None for a root.
        start_ns: The start.
        end_ns: The end.
        values: Attributes that hardly another span has.
        events: Its exceptions.
        links: Its links.
    """

    shape: Shape
    trace: Trace
    attributes: Attributes
    span_id: int
    parent_id: int | None
    start_ns: int
    end_ns: int
    values: Attributes = ()
    events: tuple[ExceptionEvent, ...] = ()
    links: tuple[SpanLink, ...] = ()


ShapeT = TypeVar("ShapeT")
TraceT = TypeVar("TraceT")
AttributesT = TypeVar("AttributesT")
SpanT_co = TypeVar("SpanT_co", covariant=True)


class SpanBuilder(Protocol[ShapeT, TraceT, AttributesT, SpanT_co]):
    """Makes spans, and their common parts, in one form or another.

    Common parts are made once and used for many spans. The arguments are those of
    `Shape`, `Trace` and `Span`.
    """

    def shape(self, shape: Shape, /) -> ShapeT:
        """Return the common part of spans of equal facts."""

    def trace(self, trace: Trace, /) -> TraceT:
        """Return the common part of the spans of one rollout."""

    def attributes(self, attributes: Attributes, /) -> AttributesT:
        """Return attributes that some spans have in common."""

    def span(
        self,
        shape: ShapeT,
        trace: TraceT,
        attributes: AttributesT,
        span_id: int,
        parent_id: int | None,
        start_ns: int,
        end_ns: int,
        values: Attributes = (),
        events: tuple[ExceptionEvent, ...] = (),
        links: tuple[SpanLink, ...] = (),
        /,
    ) -> SpanT_co:
        """Return a span."""


class LightSpans:
    """Makes spans as plain values."""

    def shape(self, shape: Shape, /) -> Shape:
        """Return the shape."""
        return shape

    def trace(self, trace: Trace, /) -> Trace:
        """Return the trace."""
        return trace

    def attributes(self, attributes: Attributes, /) -> Attributes:
        """Return the attributes."""
        return attributes

    span = Span
