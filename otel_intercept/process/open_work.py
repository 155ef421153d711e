"""Know what is open in the server, so that a helper can end it when that dies."""

from collections import deque
from itertools import islice
from typing import Final

from otel_intercept.exchange import Exchange
from otel_intercept.failure import Failure
from otel_intercept.process.messages import Resumed, SpanRecord, to_ref
from otel_intercept.record import (
    ExchangeEnded,
    FailureSeen,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
)

_MAX_GONE: Final = 4096


class OpenRollout:
    """A rollout that has not ended, and what its records have shown so far.

    ``life`` is the number of the helper that was told of it, 0 for none.
    """

    __slots__ = ("ended", "exchanges", "failure", "failures", "life", "ref")

    def __init__(self, ref: RolloutRef) -> None:
        self.ref = ref
        self.exchanges = 0
        self.failures = 0
        self.failure: Failure | None = None
        self.life = 0
        self.ended = False

    def resumed(self) -> Resumed:
        """Return what a helper is told that did not see it start."""
        return Resumed(to_ref(self.ref), self.exchanges, self.failures, self.failure)

    def count(self, failure: Failure | None) -> None:
        """Count a failure of an exchange, or beside one."""
        if failure is not None:
            self.failures += 1
            self.failure = self.failure or failure


class OpenWork:
    """The open rollouts and exchanges, by span id, and what a helper is still to learn.

    Written by the event loop's thread. The keeper reads copies, which the interpreter
    takes at one stroke, and takes from ``untold`` and ``gone``.

    Args:
        limit: Most things that may wait to be told. Beyond, they are not told: should
            the server die, the helper cannot end them.
    """

    __slots__ = ("_limit", "exchanges", "gone", "rollouts", "untold")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.rollouts: dict[int, OpenRollout] = {}
        self.exchanges: dict[int, Exchange] = {}
        self.untold: deque[OpenRollout | Exchange] = deque()
        self.gone: deque[int] = deque()

    def exchange_begins(self, exchange: Exchange) -> None:
        """Note an exchange that is to be told."""
        self.exchanges[exchange.span_id] = exchange
        rollout = self.rollouts.get(exchange.rollout.ref.span_id)
        if rollout is not None:
            rollout.exchanges = exchange.index + 1
        self._tell(exchange)

    def record_comes(self, record: SpanRecord) -> None:
        """Note what a record opens or ends, before it can be sent."""
        root = record.rollout.span_id
        if isinstance(record, ExchangeEnded):
            self.exchanges.pop(record.span_id, None)
            if record.failure is not None and not record.replayed:
                self._count(root, record.failure)
        elif isinstance(record, RolloutStarted):
            self.rollouts[root] = OpenRollout(record.rollout)
        elif isinstance(record, FailureSeen):
            self._count(root, record.failure)
        elif (rollout := self.rollouts.get(root)) is not None:
            rollout.ended = True

    def record_is_through(self, record: SpanRecord) -> None:
        """Forget a rollout whose end was sent, or waits."""
        if isinstance(record, RolloutEnded):
            self.rollouts.pop(record.rollout.span_id, None)

    def record_was_dropped(self, record: SpanRecord) -> None:
        """Have the helper told in another way what a record would have said."""
        root = record.rollout.span_id
        if isinstance(record, ExchangeEnded):
            self.gone.append(record.span_id)
        elif isinstance(record, RolloutEnded):
            self.gone.append(root)
        elif isinstance(record, RolloutStarted) and root in self.rollouts:
            self._tell(self.rollouts[root])

    def start_again(self) -> None:
        """Have a new helper told of all that is open, rollouts first."""
        self.gone.clear()
        self.untold.clear()
        self.untold.extend(list(self.rollouts.values()))
        self.untold.extend(list(self.exchanges.values()))

    def is_open(self, item: OpenRollout | Exchange) -> bool:
        """Tell whether something that waited to be told is still open."""
        if isinstance(item, OpenRollout):
            return not item.ended
        return item.span_id in self.exchanges

    def take_gone(self) -> tuple[int, ...]:
        """Remove and return span ids whose end was dropped, some thousand at most."""
        taken = tuple(islice(self.gone, _MAX_GONE))
        for _ in taken:
            self.gone.popleft()
        return taken

    def _tell(self, item: OpenRollout | Exchange) -> None:
        if len(self.untold) < self._limit:
            self.untold.append(item)

    def _count(self, root: int, failure: Failure) -> None:
        rollout = self.rollouts.get(root)
        if rollout is not None:
            rollout.count(failure)
