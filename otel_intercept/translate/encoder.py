"""Encode spans as an OTLP ``ExportTraceServiceRequest``, straight to bytes.

The encoder is strict: it takes only what the export guard lets through unchanged, so
that a part that it has encoded once has been checked for good, and is looked up from
then on. Everything else is for the guard to cut or hold back first.
"""

from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Final

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_intercept import semconv
from otel_intercept.record import Attributes
from otel_intercept.translate.guard import Guard, safe_value
from otel_intercept.translate.pairs import NotAllowed, Pairs
from otel_intercept.translate.protobuf import (
    field,
    key_values,
    tag,
    text,
    varint,
)
from otel_intercept.translate.span import (
    ExceptionEvent,
    Shape,
    Span,
    SpanLink,
    Trace,
)

_FIRST: Final = tag(1)
_SECOND: Final = tag(2)
_THIRD: Final = tag(3)
_NAME: Final = tag(5)
_EVENT: Final = tag(11)
_LINK: Final = tag(13)

# Tag and length of each id stand before it.
_ROOT_ID: Final = Struct(">2sQ")
_TRACE_ID: Final = b"\x0a\x10"
_SPAN_ID: Final = b"\x12\x08"
PARENT_ID: Final = b"\x22\x08"
ID_SIZE: Final = 8
TIMES: Final = Struct("<BQBQ")
START: Final = 0x39
END: Final = 0x41
_FLAGS: Final = Struct("<HI")
_FLAGS_TAG: Final = 0x0185
_LOCAL: Final = 0x100
_REMOTE: Final = 0x300
_EVENT_TIME: Final = Struct("<BQ")
_EVENT_TIME_TAG: Final = 0x09
_EVENT_NAME: Final = text(tag(2), semconv.EVENT_EXCEPTION)
_LINK_FLAGS: Final = Struct("<BI")
_LINK_FLAGS_TAG: Final = 0x35

_UNSET: Final = b"\x7a\x00"
_ERROR: Final = b"\x7a\x02\x18\x02"


class SpanEncoder:
    """Turns spans into bytes, and bytes into requests. A builder for `SpanFactory`.

    Used by one thread at a time.

    Args:
        resource: Who the spans are from.
        scope: Which library made them.
        guard: Says what may leave.

    Attributes:
        pairs: Encodes the attributes.
    """

    def __init__(
        self, resource: Resource, scope: InstrumentationScope, guard: Guard
    ) -> None:
        self._guard = guard
        self.pairs = Pairs(guard)
        safe_resource, safe_scope = guard.resource(resource), guard.scope(scope)
        self._resource = field(
            _FIRST, key_values(_FIRST, _plain(safe_resource.attributes))
        )
        self._resource_schema = text(_THIRD, safe_resource.schema_url)
        self._scope = field(
            _FIRST,
            text(_FIRST, safe_scope.name)
            + text(_SECOND, safe_scope.version or "")
            + key_values(_THIRD, _plain(safe_scope.attributes or {})),
        )
        self._scope_schema = text(_THIRD, safe_scope.schema_url or "")

    def shape(self, shape: Shape, /) -> bytes:
        """Return the common part of spans of equal facts.

        Raises:
            NotAllowed: The guard would change the name or an attribute.
        """
        name, kind, attributes, is_error, parent_is_remote = shape
        if not self._guard.allows_name(name):
            raise NotAllowed
        return b"".join(
            (
                text(_NAME, name),
                b"\x30" + varint(kind),
                _ERROR if is_error else _UNSET,
                _FLAGS.pack(_FLAGS_TAG, _REMOTE if parent_is_remote else _LOCAL),
                self.pairs.attributes(attributes),
            )
        )

    def trace(self, trace: Trace, /) -> bytes:
        """Return the common part of the spans of one rollout.

        Raises:
            NotAllowed: It has no valid id, or the guard would change an attribute.
        """
        trace_id, attributes = trace
        pairs = self.pairs.attributes(attributes)
        # The tag of the span's own id comes last, and its id next.
        return _trace_id(trace_id) + pairs + _SPAN_ID

    def attributes(self, attributes: Attributes, /) -> bytes:
        """Return attributes that some spans have in common.

        Raises:
            NotAllowed: The guard would change one.
        """
        return self.pairs.attributes(attributes)

    def span(
        self,
        shape: bytes,
        trace: bytes,
        shared: bytes,
        span_id: int,
        parent_id: int | None,
        start_ns: int,
        end_ns: int,
        values: Attributes = (),
        events: tuple[ExceptionEvent, ...] = (),
        links: tuple[SpanLink, ...] = (),
        /,
    ) -> bytes:
        """Return a span, to stand in a request.

        Raises:
            NotAllowed: It has no valid id, or the guard would change an attribute.
            OverflowError, struct.error, TypeError: It is no span.
        """
        if not span_id or parent_id == 0:
            raise NotAllowed
        times = TIMES.pack(START, start_ns, END, end_ns)
        own_id = span_id.to_bytes(ID_SIZE)
        if parent_id is None:
            parts = [shape, trace, own_id, shared, times]
        else:
            parent = parent_id.to_bytes(ID_SIZE)
            parts = [shape, trace, own_id, shared, times, PARENT_ID, parent]
        if values:
            parts.append(self.pairs.values(values))
        if events:
            parts.extend(map(self._event, events))
        if links:
            parts.extend(map(_link, links))
        message = b"".join(parts)
        return span_head(len(message)) + message

    def encode(self, span: Span) -> bytes:
        """Return a span that is a value, as `span` does; raises the same."""
        return self.span(
            self.shape(span.shape),
            self.trace(span.trace),
            self.attributes(span.attributes),
            *span[3:],
        )

    def request(self, spans: Sequence[bytes]) -> bytes:
        """Return one request with these spans in it; each may be several in a row."""
        scope_size = len(self._scope) + len(self._scope_schema) + sum(map(len, spans))
        before = self._resource + _SECOND + varint(scope_size)
        size = len(before) + scope_size + len(self._resource_schema)
        # One join, so that megabytes are copied only once.
        return b"".join(
            (
                _FIRST + varint(size) + before + self._scope,
                *spans,
                self._scope_schema + self._resource_schema,
            )
        )

    def _event(self, event: ExceptionEvent) -> bytes:
        at_ns, attributes = event
        parts = (
            _EVENT_TIME.pack(_EVENT_TIME_TAG, at_ns),
            _EVENT_NAME,
            self.pairs.of_event(attributes),
        )
        return field(_EVENT, b"".join(parts))


def _plain(attributes: Mapping[str, object]) -> Attributes:
    pairs = ((key, safe_value(value)) for key, value in attributes.items())
    return tuple((key, value) for key, value in pairs if value is not None)


def span_head(length: int) -> bytes:
    """Return what stands before a span of such a length in a request."""
    return _SECOND + varint(length)


def _trace_id(trace_id: int) -> bytes:
    if not trace_id:
        raise NotAllowed
    return _TRACE_ID + trace_id.to_bytes(16, "big")


def _link(link: SpanLink) -> bytes:
    trace_id, span_id, is_remote = link
    if not span_id:
        raise NotAllowed
    flags = _LINK_FLAGS.pack(_LINK_FLAGS_TAG, _REMOTE if is_remote else _LOCAL)
    ids = _trace_id(trace_id) + _ROOT_ID.pack(_SPAN_ID, span_id)
    return field(_LINK, ids + flags)
