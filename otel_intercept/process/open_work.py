"""Know what is open in the server, so that a helper can end it when that dies."""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Final

import msgspec

from otel_intercept.exchange import Exchange
from otel_intercept.failure import Failure
from otel_intercept.process.messages import Resumed, SpanRecord, to_ref
from otel_intercept.process.outlet import Outlet
from otel_intercept.record import (
    ExchangeEnded,
    FailureSeen,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
)

YOUNG_NS: Final = 100_000_000
"""How long an exchange runs before a helper is told of it: most are over sooner."""

_MAX_GONE: Final = 4096


class OpenRollout(msgspec.Struct, eq=False, gc=False):
    """A rollout that has not ended, and what its records have shown so far.

    ``told`` is the pipe to the helper that was told of it, or None. Like records, not
    tracked by the garbage collector: nothing that it ever holds leads back to it.
    """

    ref: RolloutRef
    exchanges: int = 0
    failures: int = 0
    failure: Failure | None = None
    told: Outlet | None = None
    ended: bool = False

    def resumed(self) -> Resumed:
        """Return what a helper is told that did not see it start."""
        return Resumed(to_ref(self.ref), self.exchanges, self.failures, self.failure)

    def count(self, failure: Failure) -> None:
        """Count a failure of an exchange, or beside one."""
        self.failures += 1
        self.failure = self.failure or failure


class OpenWork:
    """The open rollouts and exchanges, by span id, and what a helper is still to learn.

    Written by the event loop's thread. The keeper reads copies, which the interpreter
    takes at one stroke, and takes from ``untold`` and ``gone``. An exchange is young
    until a helper is told of it; whoever removes it from ``young`` decides whether that
    happens.

    Args:
        limit: Most things that may wait to be told, of each kind. Beyond, they are not
            told: should the server die, the helper cannot end what it does not know of,
            and ends what it does not know to be over.
    """

    __slots__ = ("_limit", "gone", "rollouts", "told", "untold", "young")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rollouts: dict[int, OpenRollout] = {}
        self.young: dict[int, Exchange] = {}
        self.told: dict[int, Exchange] = {}
        self.untold: deque[OpenRollout | Exchange] = deque()
        self.gone: deque[int] = deque(maxlen=limit)

    def exchange_ends(self, record: ExchangeEnded) -> OpenRollout | None:
        """Note the end of an exchange, before it can be sent; return its rollout."""
        # In this order: see `grown`.
        if self.young.pop(record.span_id, None) is None:
            self.told.pop(record.span_id, None)
        rollout = self.rollouts.get(record.rollout.span_id)
        if rollout is not None:
            index = record.exchange_index
            if index >= rollout.exchanges:
                rollout.exchanges = index + 1
            if record.failure is not None and not record.replayed:
                rollout.count(record.failure)
        return rollout

    def record_comes(self, record: SpanRecord) -> None:
        """Note what a record opens or ends, before it can be sent."""
        if isinstance(record, ExchangeEnded):
            self.exchange_ends(record)
        elif isinstance(record, RolloutStarted):
            ref = record.rollout
            self.rollouts[ref.span_id] = OpenRollout(ref)
        elif (rollout := self.rollouts.get(record.rollout.span_id)) is not None:
            if isinstance(record, FailureSeen):
                rollout.count(record.failure)
            else:
                rollout.ended = True

    def record_is_through(self, record: SpanRecord) -> None:
        """Forget a rollout whose end was sent, or waits."""
        if isinstance(record, RolloutEnded):
            self.rollouts.pop(record.rollout.span_id, None)

    def record_was_dropped(self, record: SpanRecord) -> None:
        """Have the helper told in another way what a record would have said."""
        root = record.rollout.span_id
        if isinstance(record, ExchangeEnded):
            # A younger one was told to nobody; half, as two clocks may not agree.
            if record.end_ns - record.start_ns >= YOUNG_NS // 2:
                self.gone.append(record.span_id)
        elif isinstance(record, RolloutEnded):
            self.gone.append(root)
        elif isinstance(record, RolloutStarted) and len(self.untold) < self._limit:
            self.untold.append(self.rollouts[root])

    def grown(self, now_ns: int, most: int) -> Iterator[Exchange]:
        """Take exchanges that are young no more, oldest first, to be told.

        Args:
            now_ns: The time, in Unix nanoseconds.
            most: How many to take.
        """
        for exchange in list(islice(self.young.values(), most)):
            if now_ns - exchange.start_ns < YOUNG_NS:
                return
            self.told[exchange.span_id] = exchange
            if self.young.pop(exchange.span_id, None) is None:
                # It has ended meanwhile, and its end may not have seen it here.
                self.told.pop(exchange.span_id, None)
            else:
                yield exchange

    def start_again(self) -> None:
        """Have a new helper told of all that is open, rollouts first."""
        self.gone.clear()
        self.untold.clear()
        self.untold.extend(list(self.rollouts.values()))
        self.untold.extend(list(self.told.values()))

    def is_open(self, item: OpenRollout | Exchange) -> bool:
        """Tell whether something that waited to be told is still open."""
        if isinstance(item, OpenRollout):
            return not item.ended
        return item.span_id in self.told

    def take_gone(self) -> tuple[int, ...]:
        """Remove and return span ids whose end was dropped, some thousand at most."""
        taken = tuple(islice(self.gone, _MAX_GONE))
        for _ in taken:
            self.gone.popleft()
        return taken
