"""Hold ended records between the event loop and the translator: bounded, lock-free.

There is one producer, the event loop, and one consumer, the translator. Neither waits
for the other: the line of records needs no lock, every counter has a single writer, and
a reader takes the counters in the order that keeps the balance true while they move.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from otel_intercept.counters import CounterKey, counter_keys, keepalives_of
from otel_intercept.record import (
    ExchangeEnded,
    ExchangeRejected,
    FailureSeen,
    Record,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
)
from otel_intercept.timings import Timings
from otel_intercept.waiting import Waiting

if TYPE_CHECKING:
    from otel_intercept.exchange import Exchange

SpanRecord: TypeAlias = RolloutStarted | RolloutEnded | ExchangeEnded | FailureSeen

_RESERVE_DIVISOR: Final = 4


class Balance(NamedTuple):
    """What became of every record that began.

    ``started == ended + open`` and ``ended == exported + failed + dropped + queued``
    hold in every balance. Records on their way to the exporter count as queued.

    Args:
        started: Records begun: rollouts, their markers, exchanges, failures.
        ended: Records handed over.
        open: Records begun that have not ended.
        exported: Records that the exporter confirmed.
        failed: Records that the exporter refused or lost.
        dropped: Records that never reached the exporter.
        queued: Records that wait for export.
    """

    started: int
    ended: int
    open: int
    exported: int
    failed: int
    dropped: int
    queued: int


class Recorder(Waiting[SpanRecord]):
    """A bounded queue of ended records that knows what became of each.

    ``begin`` and ``put`` belong to one thread, the event loop's; ``take``, ``settle``
    and ``close`` to the translator's. ``balance``, ``tally`` and the lengths may be
    read anywhere.

    Failures and ended rollouts come first: they have places of their own, and where
    those are taken too, the oldest ordinary record gives way.

    Args:
        queue_size: Records that may wait. Failures may use a reserve of a quarter on
            top, and ended rollouts in addition one place for each of the most rollouts
            that were ever open at once, so that a burst of rollout ends loses nothing.
        spans: Whether records become spans. Without, none counts in the balance.

    Attributes:
        on_drop: Called with each record that is dropped, by who puts.
        timings: Takes what unsampled exchanges have measured in place of their records;
            None where each has to make one.
    """

    __slots__ = (
        "_closed", "_dropped", "_ended", "_exported", "_failed", "_most_open_rollouts",
        "_open", "_queue_size", "_refused", "_spans", "_started", "_tally", "on_drop",
        "timings",
    )  # fmt: skip

    def __init__(self, queue_size: int, *, spans: bool = True) -> None:
        super().__init__()
        self.on_drop: Callable[[Record], None] | None = None
        self.timings: Timings | None = None
        self._queue_size = queue_size
        self._spans = spans
        self._tally: dict[CounterKey, int] = {}
        self._started = 0
        self._ended = 0
        self._dropped = 0
        self._exported = 0
        self._failed = 0
        self._refused = 0
        # Root span id and start of each open rollout, in the order of opening.
        self._open: dict[int, int] = {}
        self._most_open_rollouts = 0
        self._closed = False

    @property
    def open_rollouts(self) -> int:
        """Rollouts started and not ended, sampled or not, dropped or not."""
        return len(self._open)

    def oldest_open_ns(self) -> int | None:
        """Return when the rollout that is open for longest began; None without any.

        Unix nanoseconds. Sampled or not, dropped or not; any thread may ask.
        """
        while True:
            try:
                return next(iter(self._open.values()), None)
            except RuntimeError:
                # The event loop has opened or closed a rollout in between.
                continue

    @property
    def has_spans(self) -> bool:
        """Whether records become spans."""
        return self._spans

    def reopen(self, rollout: RolloutRef) -> None:
        """Take a rollout for open; for one whose start another recorder was given."""
        self._open[rollout.span_id] = rollout.start_ns
        self._most_open_rollouts = max(self._most_open_rollouts, len(self._open))

    def forget(self, root: int) -> None:
        """Take a rollout for ended by its root's span id; for one whose end is lost."""
        self._open.pop(root, None)

    def has_span(self, record: Record) -> bool:
        """Tell whether the record becomes a span, and so counts in the balance."""
        if isinstance(record, ExchangeRejected):
            return False
        return self._spans and record.rollout.sampled

    def begin(self, sampled: bool, _exchange: "Exchange | None" = None) -> None:  # noqa: FBT001 - the hot path is positional
        """Count a record that has begun and will be put when it ends.

        Args:
            sampled: Whether its rollout is sampled; if not, it is not counted.
        """
        if sampled and self._spans:
            self._started += 1

    def put(self, record: Record) -> None:
        """Hand over an ended record, or drop and count it when there is no room.

        O(1); takes no lock, never blocks, never raises.
        """
        if isinstance(record, ExchangeEnded):
            self.put_exchange(record)
        elif isinstance(record, ExchangeRejected):
            # It has nothing but its count, so a flood of these takes no room.
            self._count(record)
        else:
            self._put_rare(record)

    def put_exchange(self, exchange: ExchangeEnded) -> None:
        """Hand over an ended exchange, as `put` does: this is the hot path."""
        if exchange.failure is not None:
            self._put_rare(exchange)
            return
        if self._spans and exchange.rollout.sampled:
            self._ended += 1
        # What `add` does.
        ordinary = self._ordinary
        if len(ordinary) + len(self._urgent) < self._queue_size:
            self._added += 1
            ordinary.append(exchange)
        else:
            self._drop(exchange)

    def hold_timings(self) -> None:
        """Have unsampled exchanges that went well make no record from now on."""
        self.timings = Timings(self._queue_size)

    def settle(self, *, exported: int = 0, failed: int = 0, dropped: int = 0) -> None:
        """Count what became of records that were taken."""
        self._exported += exported
        self._failed += failed
        self._refused += dropped

    def close(self) -> None:
        """Drop what still waits and everything put from now on. Idempotent."""
        self._closed = True
        self._queue_size = 0
        self.clear()
        if self.timings is not None:
            self.timings.close()

    def tally(self) -> Mapping[CounterKey, int]:
        """Return a copy of how often each counter missed a record that took no place.

        The counts only grow, so that a reader can keep its own last copy and add the
        difference: nothing is reset across threads, and nothing is counted twice.
        """
        return self._tally.copy()

    def balance(self) -> Balance:
        """Return one consistent view of the counters."""
        # Consumer first, producer last: a counter read later can only have grown, so
        # no difference below is ever negative.
        exported = self._exported
        failed = self._failed
        dropped = self._refused + self._dropped
        ended = self._ended
        started = self._started
        queued = ended - exported - failed - dropped
        if self._closed:
            dropped, queued = dropped + queued, 0
        return Balance(
            started, ended, started - ended, exported, failed, dropped, queued
        )

    def _put_rare(self, record: SpanRecord) -> None:
        if self.has_span(record):
            self._ended += 1
        if isinstance(record, RolloutStarted):
            self.reopen(record.rollout)
            if not self.add(record, most=self._queue_size):
                self._drop(record)
            return
        places = self._queue_size + self._queue_size // _RESERVE_DIVISOR
        if isinstance(record, RolloutEnded):
            self.forget(record.rollout.span_id)
            # Not those open now: an ended rollout still needs the place of its end.
            places += self._most_open_rollouts
        if self._closed or not (len(self) < places or self._make_room()):
            self._drop(record)
        else:
            self.add_urgent(record)

    def _make_room(self) -> bool:
        oldest = self.push_out()
        if oldest is not None:
            self._drop(oldest)
        return oldest is not None

    def _drop(self, record: Record) -> None:
        if self.has_span(record):
            self._dropped += 1
        self._count(record)
        if self.on_drop is not None:
            self.on_drop(record)

    def _count(self, record: Record) -> None:
        for key in counter_keys(record):
            self._tally[key] = self._tally.get(key, 0) + 1
        if (keepalives := keepalives_of(record)) is not None:
            key, number = keepalives
            self._tally[key] = self._tally.get(key, 0) + number
