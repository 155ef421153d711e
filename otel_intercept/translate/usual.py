"""Encode usual exchanges in one go: those of one model call, in which nothing failed.

It says what `SpanFactory` and `SpanEncoder` say of them between them. But all that many
have in common is looked up at once, and one call joins what is left with it. Nearly
every exchange is a usual one, so this is where translating must be cheap.
"""

import struct
from typing import Final, TypeAlias

from otel_intercept import semconv
from otel_intercept.record import (
    ExchangeEnded,
    Record,
    Request,
    RequestFacts,
    RolloutRef,
)
from otel_intercept.semconv import ExchangeOutcome
from otel_intercept.translate.attributes import stream_attributes, streamed
from otel_intercept.translate.batch import Spans
from otel_intercept.translate.cache import Cache
from otel_intercept.translate.encoder import (
    END,
    ID_SIZE,
    PARENT_ID,
    START,
    TIMES,
    SpanEncoder,
    span_head,
)
from otel_intercept.translate.pairs import NotAllowed
from otel_intercept.translate.shapes import call_shape, exchange_shape, traces_of

_MAX_KINDS: Final = 1024
_MAX_ROLLOUTS: Final = 4096

_MAX_INDEXES: Final = 4096
_SHORT: Final = 1024
"""Nearly all spans are shorter: their heads are prepared."""

_HEADS: Final = tuple(map(span_head, range(_SHORT)))

# A method that has been looked up is called in half the time.
_pack_times: Final = TIMES.pack

_Kind: TypeAlias = tuple[Request, RequestFacts, bool, int | None, ExchangeOutcome]
"""What was asked, whether an event stream, the status and the outcome."""

_Parts: TypeAlias = tuple[bytes, bytes, int, int]
"""A part of the exchange's span and one of the call's; and how long they make each."""


class UsualExchanges:
    """Turns usual exchanges into bytes. Used by one thread at a time.

    Args:
        encoder: Encodes their parts, and refuses what the export guard would change.
    """

    def __init__(self, encoder: SpanEncoder) -> None:
        self._encoder = encoder
        self._pairs = encoder.pairs
        self._kinds = Cache(self._new_kind, _MAX_KINDS)
        self._known_kinds = self._kinds.known
        self._rollouts = Cache(self._new_rollout, _MAX_ROLLOUTS)
        self._known_rollouts = self._rollouts.known
        self._indexes = Cache(self._new_index, _MAX_INDEXES)
        self._known_indexes = self._indexes.known

    def spans_of(self, record: Record) -> Spans | None:
        """Return the spans of a usual exchange.

        Returns:
            None if the record is none, or has something in it for the export guard to
            cut or to hold back.
        """
        if not isinstance(record, ExchangeEnded):
            return None
        waits, facts, request = record.waits, record.facts, record.request
        if (
            len(waits) != 1
            or record.failure is not None
            or record.replayed
            or request.link is not None
        ):
            return None
        (wait,) = waits
        span_id, call_id = record.span_id, wait.span_id
        if wait.error_type is not None or not span_id or not call_id:
            return None
        kind = (request, record.asked, record.stream, record.status, record.outcome)
        rollout, number = record.rollout, record.exchange_index
        try:
            exchange, call, size, call_size = (
                self._known_kinds.get(kind) or self._kinds[kind]
            )
            trace, call_trace, trace_size, call_trace_size = (
                self._known_rollouts.get(rollout) or self._rollouts[rollout]
            )
            index = self._known_indexes.get(number) or self._indexes[number]
            size += trace_size + len(index)
            call_size += call_trace_size
            if facts is not None:
                values = self._pairs.values(stream_attributes(facts))
                exchange += values
                size += len(values)
            if record.response:
                values = self._pairs.values(record.response)
                call_trace = values + call_trace
                call_size += len(values)
            own_id = span_id.to_bytes(ID_SIZE)
            frames = (
                _HEADS[size] if size < _SHORT else span_head(size),
                exchange,
                index,
                _pack_times(START, record.start_ns, END, record.end_ns),
                trace,
                own_id,
                _HEADS[call_size] if call_size < _SHORT else span_head(call_size),
                _pack_times(START, wait.start_ns, END, wait.end_ns),
                call,
                own_id,
                call_trace,
                call_id.to_bytes(ID_SIZE),
            )
        except (NotAllowed, OverflowError, TypeError, struct.error):
            return None
        return b"".join(frames), 2, ()

    def _new_kind(self, kind: _Kind) -> _Parts:
        http, asked, stream, status, ended = kind
        encoder, spoken, request = self._encoder, http.dialect, asked.attributes
        exchange = encoder.shape(
            exchange_shape(
                (
                    http.method, http.route, http.scheme, spoken, stream, status, ended,
                    None, None,
                )
            )
        )  # fmt: skip
        if http.retry_count is not None:
            retry_count = (semconv.EXCHANGE_RETRY_COUNT, http.retry_count)
            exchange += self._pairs.values((retry_count,))
        call = encoder.shape(call_shape((spoken, asked.model, None)))
        call += encoder.attributes(streamed(request) if stream else request)
        # Last comes the tag of what comes next: the exchange's id, as the parent's.
        call += PARENT_ID
        return exchange, call, len(exchange) + TIMES.size, len(call) + TIMES.size

    def _new_rollout(self, rollout: RolloutRef) -> _Parts:
        if not rollout.span_id:
            raise NotAllowed
        own, of_calls = traces_of(rollout.rollout_id, rollout.trace_id)
        root = PARENT_ID + rollout.span_id.to_bytes(ID_SIZE)
        # They end with the tag of the span's own id.
        trace, call_trace = (
            root + self._encoder.trace(own),
            self._encoder.trace(of_calls),
        )
        return trace, call_trace, len(trace) + ID_SIZE, len(call_trace) + 2 * ID_SIZE

    def _new_index(self, number: int) -> bytes:
        return self._pairs.values(((semconv.EXCHANGE_INDEX, number),))
