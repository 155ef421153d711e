"""How records look on their way from the server to the helper.

A rollout is told once and named by the span id of its root after that. What exchanges
have in common is told once as well, and named by a number. Ids of 128 bits travel as
bytes. Decoding checks every type and every closed value: what does not fit
raises ``msgspec.DecodeError``.
"""

from collections.abc import Sequence
from typing import Annotated, Final, NamedTuple, TypeAlias

import msgspec
from msgspec.structs import astuple

from otel_intercept.failure import Failure
from otel_intercept.process.framing import Kind
from otel_intercept.record import (
    Attributes,
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

MAX_NUMBERS: Final = 256
"""How many kinds of exchanges a helper keeps in mind."""

_TRACE_BYTES: Final = 16
_ARRAY: Final = b"\xdd"
"""What MessagePack has before the length of an array, in 4 bytes, and its items."""

_SURROGATES: Final = "surrogatepass"
_TAKEN_FOR_GRANTED: Final = (None, None, None, False)


class WireRef(NamedTuple):
    """A rollout as it is told; the fields of `RolloutRef`.

    Its id goes as bytes: one with a lone surrogate is no text of this encoding.
    """

    rollout_id: bytes
    trace_id: bytes
    span_id: int
    parent_span_id: int | None
    sampled: bool
    start_ns: int
    attributes: Attributes
    previous: WireLink | None


WireRollout: TypeAlias = int | WireRef
Shared: TypeAlias = tuple[Request, RequestFacts, bool, int | None, ExchangeOutcome]


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


class Common(NamedTuple):
    """What an exchange that ended has in common with others of its kind."""

    request: WireRequest
    asked: RequestFacts
    stream: bool
    status: int | None
    outcome: ExchangeOutcome


class Numbered(NamedTuple):
    """What is meant by a number from now on."""

    number: Annotated[int, msgspec.Meta(ge=0, lt=MAX_NUMBERS)]
    common: Common


class Done(NamedTuple):
    """An exchange ended; the fields of `ExchangeEnded`, some of them as `Common`."""

    rollout: WireRollout
    span_id: int
    exchange_index: int
    start_ns: int
    end_ns: int
    common: int | Common
    response: Attributes
    waits: tuple[UpstreamWait, ...]
    facts: StreamFacts | None = None
    failure: Failure | None = None
    failure_ns: int | None = None
    replayed: bool = False


class Seen(NamedTuple):
    """A failure outside any open exchange; the fields of `FailureSeen`."""

    rollout: WireRollout
    span_id: int
    at_ns: int
    failure: Failure
    exchange_span_id: int | None


decode_started = msgspec.msgpack.Decoder(Started).decode
decode_resumed = msgspec.msgpack.Decoder(Resumed).decode
decode_ended = msgspec.msgpack.Decoder(Ended).decode
decode_begun = msgspec.msgpack.Decoder(Begun).decode
decode_numbered = msgspec.msgpack.Decoder(Numbered).decode
decode_done = msgspec.msgpack.Decoder(Done).decode
_decode_dones = msgspec.msgpack.Decoder(list[Done]).decode
decode_seen = msgspec.msgpack.Decoder(Seen).decode


def decode_dones(payloads: Sequence[bytes]) -> list[Done]:
    """Decode exchanges that ended one after the other, in one go.

    Raises:
        msgspec.DecodeError: One of them makes no sense.
    """
    head = _ARRAY + len(payloads).to_bytes(4)
    return _decode_dones(head + b"".join(payloads))


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
        ref.rollout_id.encode(errors=_SURROGATES),
        trace_id,
        ref.span_id,
        ref.parent_span_id,
        ref.sampled,
        ref.start_ns,
        ref.attributes,
        previous,
    )


def from_ref(wire: WireRef) -> RolloutRef:
    """Undo `to_ref`.

    Raises:
        msgspec.DecodeError: The id makes no sense.
    """
    trace_id, previous = int.from_bytes(wire.trace_id), from_link(wire.previous)
    try:
        rollout_id = wire.rollout_id.decode(errors=_SURROGATES)
    except UnicodeDecodeError:
        raise msgspec.DecodeError from None
    return RolloutRef(rollout_id, trace_id, *wire[2:7], previous)


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
        return Kind.EXCHANGE_ENDED, to_done(record, rollout, to_common(record))
    message = (rollout, *astuple(record)[1:])
    if isinstance(record, RolloutStarted):
        return Kind.ROLLOUT_STARTED, message
    if isinstance(record, RolloutEnded):
        return Kind.ROLLOUT_ENDED, message
    return Kind.FAILURE_SEEN, message


def to_common(
    record: ExchangeEnded,
) -> tuple[Request | WireRequest, RequestFacts, bool, int | None, ExchangeOutcome]:
    """Return what an exchange has in common with others, as it travels."""
    request = to_request(record.request)
    return request, record.asked, record.stream, record.status, record.outcome


def to_done(
    record: ExchangeEnded, rollout: WireRollout, common: object
) -> tuple[object, ...]:
    """Return an ended exchange as it travels."""
    done = (
        rollout,
        record.span_id,
        record.exchange_index,
        record.start_ns,
        record.end_ns,
        common,
        record.response,
        record.waits,
    )
    rest = (record.facts, record.failure, record.failure_ns, record.replayed)
    return done if rest == _TAKEN_FOR_GRANTED else done + rest


def to_begun(
    rollout: WireRollout, span_id: int, index: int, start_ns: int, request: Request
) -> tuple[object, ...]:
    """Return the start of an exchange as it travels."""
    return (rollout, span_id, index, start_ns, to_request(request))


def from_common(common: Common) -> Shared:
    """Undo `to_common`."""
    return from_request(common.request), *common[1:]


def from_done(done: Done, rollout: RolloutRef, shared: Shared) -> ExchangeEnded:
    """Return the exchange that was told."""
    (
        _, span_id, index, start_ns, end_ns, _, response, waits, facts, failure,
        failure_ns, replayed,
    ) = done  # fmt: skip
    request, asked, stream, status, outcome = shared
    return ExchangeEnded(
        rollout, span_id, index, start_ns, end_ns, request, asked, stream, status,
        outcome, response, waits, facts, failure, failure_ns, replayed,
    )  # fmt: skip


def from_ended(ended: Ended, rollout: RolloutRef) -> RolloutEnded:
    """Return the end of a rollout that was told."""
    return RolloutEnded(rollout, *ended[1:])


def from_seen(seen: Seen, rollout: RolloutRef) -> FailureSeen:
    """Return the failure that was told."""
    return FailureSeen(rollout, *seen[1:])
