"""What server and helper tell each other, and how records look on the way.

A rollout is told once and named by the span id of its root after that. Ids of 128 bits
travel as bytes. Decoding checks every type and every closed value: what does not fit
raises ``msgspec.DecodeError``.
"""

from typing import Final, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import astuple

from otel_intercept.failure import Failure
from otel_intercept.process.framing import Kind
from otel_intercept.record import (
    Attributes,
    AttributeValue,
    ExchangeEnded,
    FailureSeen,
    Request,
    RequestFacts,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
    StreamFacts,
    UpstreamWait,
)
from otel_intercept.semconv import Dialect, ExchangeOutcome, RolloutOutcome

SpanRecord: TypeAlias = RolloutStarted | RolloutEnded | ExchangeEnded | FailureSeen
WireLink: TypeAlias = tuple[bytes, int]

_TRACE_BYTES: Final = 16


class WireRef(NamedTuple):
    """A rollout as it is told; the fields of `RolloutRef`."""

    rollout_id: str
    trace_id: bytes
    span_id: int
    parent_span_id: int | None
    sampled: bool
    start_ns: int
    attributes: Attributes
    previous: WireLink | None


WireRollout: TypeAlias = int | WireRef


class Started(NamedTuple):
    """A rollout opened."""

    rollout: WireRef
    span_id: int


class Resumed(NamedTuple):
    """A rollout is open, and this helper has not been told of its start."""

    rollout: WireRef
    exchanges: int
    failures: int
    failure: Failure | None


class Ended(NamedTuple):
    """A rollout closed; the fields of `RolloutEnded`."""

    rollout: WireRollout
    end_ns: int
    outcome: RolloutOutcome
    exchanges: int
    failures: int
    failure: Failure | None


class WireRequest(NamedTuple):
    """A request as it is told; the fields of `Request`."""

    method: str
    route: str
    scheme: str
    dialect: Dialect
    retry_count: int | None
    link: WireLink | None


class Begun(NamedTuple):
    """An exchange started."""

    rollout: WireRollout
    span_id: int
    exchange_index: int
    start_ns: int
    request: WireRequest


class Done(NamedTuple):
    """An exchange ended; the fields of `ExchangeEnded`."""

    rollout: WireRollout
    span_id: int
    exchange_index: int
    start_ns: int
    end_ns: int
    request: WireRequest
    asked: RequestFacts
    stream: bool
    status: int | None
    outcome: ExchangeOutcome
    response: Attributes
    waits: tuple[UpstreamWait, ...]
    facts: StreamFacts | None
    failure: Failure | None
    failure_ns: int | None
    replayed: bool


class Seen(NamedTuple):
    """A failure outside any open exchange; the fields of `FailureSeen`."""

    rollout: WireRollout
    span_id: int
    at_ns: int
    failure: Failure
    exchange_span_id: int | None


class Totals(NamedTuple):
    """What the server knows of records that this helper never got.

    Args:
        exported: Records that earlier helpers exported.
        failed: Records that earlier helpers lost.
        dropped: Records that earlier helpers, or the server, dropped.
        tally: What each counter missed: name, label values, number. Only grows.
        gone: Span ids of roots and exchanges whose end was dropped.
    """

    exported: int
    failed: int
    dropped: int
    tally: tuple[tuple[str, tuple[str | bool, ...], int], ...]
    gone: tuple[int, ...]


class Configure(NamedTuple):
    """How the helper has to export.

    Args:
        environ: The variables of OpenTelemetry and of our own.
        process: Variables that libraries read from the process: proxies and TLS.
        resource: The attributes of the server's resource.
    """

    environ: dict[str, str]
    process: dict[str, str]
    resource: dict[str, AttributeValue]


class Flush(NamedTuple):
    """Export all that came before."""

    number: int
    timeout_s: float


class Fates(NamedTuple):
    """What became of the records that this helper got, as far as it is settled."""

    exported: int
    failed: int
    dropped: int
    held_back: int


class Flushed(NamedTuple):
    """A flush has ended, well or not."""

    number: int
    confirmed: bool


class Logged(NamedTuple):
    """A line for the server's log: a constant text with safe facts."""

    logger: str
    level: int
    text: str


decode_configure = msgspec.msgpack.Decoder(Configure).decode
decode_started = msgspec.msgpack.Decoder(Started).decode
decode_resumed = msgspec.msgpack.Decoder(Resumed).decode
decode_ended = msgspec.msgpack.Decoder(Ended).decode
decode_begun = msgspec.msgpack.Decoder(Begun).decode
decode_done = msgspec.msgpack.Decoder(Done).decode
decode_seen = msgspec.msgpack.Decoder(Seen).decode
decode_totals = msgspec.msgpack.Decoder(Totals).decode
decode_keys = msgspec.msgpack.Decoder(tuple[str, ...]).decode
decode_flush = msgspec.msgpack.Decoder(Flush).decode
decode_seconds = msgspec.msgpack.Decoder(float).decode
decode_fates = msgspec.msgpack.Decoder(Fates).decode
decode_flushed = msgspec.msgpack.Decoder(Flushed).decode
decode_logged = msgspec.msgpack.Decoder(Logged).decode


def to_link(link: tuple[int, int] | None) -> WireLink | None:
    """Return a link as it travels."""
    return None if link is None else (link[0].to_bytes(_TRACE_BYTES), link[1])


def from_link(link: WireLink | None) -> tuple[int, int] | None:
    """Undo `to_link`."""
    return None if link is None else (int.from_bytes(link[0]), link[1])


def to_ref(ref: RolloutRef) -> WireRef:
    """Return a rollout as it travels."""
    trace_id, previous = ref.trace_id.to_bytes(_TRACE_BYTES), to_link(ref.previous)
    return WireRef(
        ref.rollout_id,
        trace_id,
        ref.span_id,
        ref.parent_span_id,
        ref.sampled,
        ref.start_ns,
        ref.attributes,
        previous,
    )


def from_ref(wire: WireRef) -> RolloutRef:
    """Undo `to_ref`."""
    trace_id, previous = int.from_bytes(wire.trace_id), from_link(wire.previous)
    return RolloutRef(wire.rollout_id, trace_id, *wire[2:7], previous)


def to_request(request: Request) -> Request | WireRequest:
    """Return a request as it travels."""
    if request.link is None:
        return request
    return WireRequest(
        request.method,
        request.route,
        request.scheme,
        request.dialect,
        request.retry_count,
        to_link(request.link),
    )


def from_request(wire: WireRequest) -> Request:
    """Undo `to_request`."""
    return Request(*wire[:5], from_link(wire.link))


def to_wire(
    record: SpanRecord, rollout: WireRollout
) -> tuple[Kind, tuple[object, ...]]:
    """Return a record as it travels. Its rollout must not be a number when it starts.

    Plain tuples in the order of the fields, since making the named ones costs more.
    """
    if isinstance(record, ExchangeEnded):
        return Kind.EXCHANGE_ENDED, to_done(record, rollout)
    message = (rollout, *astuple(record)[1:])
    if isinstance(record, RolloutStarted):
        return Kind.ROLLOUT_STARTED, message
    if isinstance(record, RolloutEnded):
        return Kind.ROLLOUT_ENDED, message
    return Kind.FAILURE_SEEN, message


def to_done(record: ExchangeEnded, rollout: WireRollout) -> tuple[object, ...]:
    """Return an ended exchange as it travels."""
    request = record.request
    return (
        rollout,
        record.span_id,
        record.exchange_index,
        record.start_ns,
        record.end_ns,
        request if request.link is None else to_request(request),
        record.asked,
        record.stream,
        record.status,
        record.outcome,
        record.response,
        record.waits,
        record.facts,
        record.failure,
        record.failure_ns,
        record.replayed,
    )


def to_begun(
    rollout: WireRollout, span_id: int, index: int, start_ns: int, request: Request
) -> tuple[object, ...]:
    """Return the start of an exchange as it travels."""
    return (rollout, span_id, index, start_ns, to_request(request))


def from_done(done: Done, rollout: RolloutRef) -> ExchangeEnded:
    """Return the exchange that was told."""
    (
        _, span_id, index, start_ns, end_ns, request, asked, stream, status, outcome,
        response, waits, facts, failure, failure_ns, replayed,
    ) = done  # fmt: skip
    return ExchangeEnded(
        rollout, span_id, index, start_ns, end_ns, from_request(request), asked,
        stream, status, outcome, response, waits, facts, failure, failure_ns, replayed,
    )  # fmt: skip


def from_ended(ended: Ended, rollout: RolloutRef) -> RolloutEnded:
    """Return the end of a rollout that was told."""
    return RolloutEnded(rollout, *ended[1:])


def from_seen(seen: Seen, rollout: RolloutRef) -> FailureSeen:
    """Return the failure that was told."""
    return FailureSeen(rollout, *seen[1:])
