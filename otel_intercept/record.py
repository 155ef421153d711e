"""The immutable facts that the event loop hands over to telemetry.

Times are Unix nanoseconds; ids are integers as in the OTel API; durations are seconds.
A record holds no body, no header and no exception, so keeping one keeps nothing else.

What is here is not tracked by the garbage collector (``gc=False``): thousands of
records may wait, and a collection would look at all of them. It can be so because they
hold values and one another, are made after what they hold, and are never written to:
no cycle can go through one.
"""

from typing import TypeAlias

import msgspec

from otel_intercept.failure import Failure
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    RolloutOutcome,
)

AttributeValue: TypeAlias = str | bool | int | float | tuple[str, ...]
Attributes: TypeAlias = tuple[tuple[str, AttributeValue], ...]


class RolloutRef(msgspec.Struct, frozen=True, gc=False, cache_hash=True):
    """What every record says about its rollout; made once when the rollout opens.

    ``span_id`` is the root span's. ``parent_span_id`` is set when the rollout joined a
    trace that another process had started. ``previous`` is the (trace id, span id) of
    the root of the attempt before this one, which the root links to.
    """

    rollout_id: str
    trace_id: int
    span_id: int
    parent_span_id: int | None
    sampled: bool
    start_ns: int
    attributes: Attributes
    previous: tuple[int, int] | None = None


class RolloutStarted(msgspec.Struct, frozen=True, gc=False):
    """A rollout opened: becomes the ``rollout.started`` marker span."""

    rollout: RolloutRef
    span_id: int


class RolloutEnded(msgspec.Struct, frozen=True, gc=False):
    """A rollout closed: becomes the root span."""

    rollout: RolloutRef
    end_ns: int
    outcome: RolloutOutcome
    exchanges: int
    failures: int
    failure: Failure | None


class Request(msgspec.Struct, frozen=True, gc=False, array_like=True, cache_hash=True):
    """What is known when a request comes in; nothing in it is the agent's text.

    Args:
        method: HTTP method, or ``_OTHER``.
        route: The route's template, never the path.
        scheme: ``http`` or ``https``.
        dialect: The API shape that the route ends in.
        retry_count: The agent SDK's own count of this try, or None.
        link: Trace id and span id of the agent's ``traceparent``, or None.
    """

    method: str
    route: str
    scheme: str
    dialect: Dialect
    retry_count: int | None = None
    link: tuple[int, int] | None = None


class UpstreamWait(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One wait for the upstream: becomes a ``chat {model}`` span below the exchange.

    ``error_type`` is None when the call succeeded or was cancelled.
    """

    span_id: int
    start_ns: int
    end_ns: int
    error_type: ErrorType | None


class StreamFacts(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What was written of an SSE body. Gaps are between chunks, not keepalives."""

    chunks: int
    bytes: int
    keepalives: int
    max_gap_s: float
    time_to_first_chunk_s: float | None


class RequestFacts(
    msgspec.Struct, frozen=True, gc=False, array_like=True, cache_hash=True
):
    """What a request body says that is safe to keep.

    ``model`` is not among ``attributes``, the allow-listed GenAI attributes: telemetry
    narrows and caps it first. ``stream`` is whether an event stream was asked for.
    """

    model: str | None
    stream: bool
    attributes: Attributes


class ExchangeEnded(msgspec.Struct, frozen=True, gc=False):
    """An exchange ended: becomes a SERVER span, its event and its upstream waits.

    ``stream`` is whether an event stream was asked for or sent.
    ``response`` are the allow-listed GenAI attributes of the answer.
    ``facts`` are there when an event stream was sent.
    ``failure_ns`` is when the failure was seen; set exactly when ``failure`` is.
    ``replayed``: the answer is that of an earlier exchange, which made the call.
    """

    rollout: RolloutRef
    span_id: int
    exchange_index: int
    start_ns: int
    end_ns: int
    request: Request
    asked: RequestFacts
    stream: bool
    status: int | None
    outcome: ExchangeOutcome
    response: Attributes
    waits: tuple[UpstreamWait, ...]
    facts: StreamFacts | None = None
    failure: Failure | None = None
    failure_ns: int | None = None
    replayed: bool = False


class FailureSeen(msgspec.Struct, frozen=True, gc=False):
    """A failure outside any open exchange: becomes a short span below the root.

    ``exchange_span_id`` links to the exchange that it came too late for.
    """

    rollout: RolloutRef
    span_id: int
    at_ns: int
    failure: Failure
    exchange_span_id: int | None


class ExchangeRejected(msgspec.Struct, frozen=True, gc=False):
    """A request for a rollout that is not open: counted, makes no span."""

    dialect: Dialect


Record: TypeAlias = (
    RolloutStarted | RolloutEnded | ExchangeEnded | FailureSeen | ExchangeRejected
)
