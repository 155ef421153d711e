"""Parse what names a trace: W3C ``traceparent``, span contexts, hex trace ids.

Source: W3C Trace Context, section 3.2. Future versions are read as version 00.
"""

import re
from typing import Final, NamedTuple

from opentelemetry.trace import SpanContext

from otel_intercept.errors import ConfigurationError

_TRACEPARENT: Final = re.compile(
    r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
_TRACE_ID: Final = re.compile(r"[0-9a-fA-F]{32}")
_SAMPLED: Final = 0x01


class TraceParent(NamedTuple):
    """A span in another process: what a trace is joined by or linked to."""

    trace_id: int
    span_id: int
    sampled: bool


def read_traceparent(header: str | None) -> TraceParent | None:
    """Parse a header that came from outside; None when absent or malformed."""
    match = _TRACEPARENT.fullmatch(header) if header else None
    if match is None:
        return None
    trace_id, span_id = int(match[1], 16), int(match[2], 16)
    if not (trace_id and span_id):
        return None
    return TraceParent(trace_id, span_id, bool(int(match[3], 16) & _SAMPLED))


def parse_traceparent(parent: object, name: str = "parent") -> TraceParent:
    """Parse a parent that the operator gave.

    Args:
        parent: A ``traceparent`` or a span context.
        name: What the argument is called where it was given.

    Raises:
        ConfigurationError: It is neither, or is invalid.
    """
    if isinstance(parent, SpanContext):
        if parent.is_valid:
            sampled = bool(parent.trace_flags & _SAMPLED)
            return TraceParent(parent.trace_id, parent.span_id, sampled)
        raise ConfigurationError(f"{name} is an invalid span context: its ids are zero")
    parsed = read_traceparent(parent) if isinstance(parent, str) else None
    if parsed is None:
        raise ConfigurationError(
            f"{name} is not a W3C traceparent: expected 00-<32 hex>-<16 hex>-<2 hex>"
        )
    return parsed


def parse_trace_id(trace_id: object) -> int:
    """Parse a trace id that the operator gave.

    Raises:
        ConfigurationError: It is not 32 hex digits, or all of them are zero.
    """
    if isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id):
        value = int(trace_id, 16)
        if value:
            return value
    raise ConfigurationError("trace_id must be 32 hex digits that are not all zero")
