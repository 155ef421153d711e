"""The way of records to the helper: at once while it is clear, else through a queue."""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from otel_intercept.exchange import Exchange
from otel_intercept.process.framing import Kind
from otel_intercept.process.messages import SpanRecord
from otel_intercept.process.open_work import YOUNG_NS, OpenRollout, OpenWork
from otel_intercept.process.orders import Fates, Totals
from otel_intercept.process.outlet import Outlet
from otel_intercept.process.sender import RECORDS, Sender
from otel_intercept.record import ExchangeEnded, ExchangeRejected, Record
from otel_intercept.recorder import Recorder
from otel_intercept.translate.complaints import Complaints

if TYPE_CHECKING:
    from otel_intercept.counters import CounterKey

_AT_ONCE: Final = 8
"""Things that the event loop sends at a stroke, at most."""

_NOTHING: Final = Fates(0, 0, 0, 0)

_logger: Final = logging.getLogger("otel_intercept.process")


class Channel(Recorder):
    """Sends records to the helper that lives now, in the order in which they were put.

    They wait here only while they cannot be sent.

    ``begin`` and ``put`` belong to the event loop's thread, the rest to the keeper's.
    Whoever holds the lock may write. The event loop only tries it, and leaves what it
    cannot send to the other side, which looks again when it has let go. While the way
    is congested, the keeper alone sends.

    Args:
        queue_size: Most records, and most open things, that may wait to be told.
        spans: Whether records become spans.
        wake: Called when the keeper has to take over. Must not block or raise.
    """

    def __init__(
        self, queue_size: int, *, spans: bool, wake: Callable[[], None]
    ) -> None:
        super().__init__(queue_size, spans=spans)
        self.on_drop = self._note_drop
        self._limit = queue_size
        self._wake = wake
        self._work = OpenWork(queue_size)
        self._sender = Sender(self, self._work)
        # Found here, and not two steps away, for each exchange that begins.
        self._young = self._work.young
        self._way = threading.Lock()
        # Taken from where it waited, and not accepted by the pipe yet.
        self._current: SpanRecord | OpenRollout | Exchange | None = None
        # Whether the event loop has left something in the queue.
        self._behind = False
        self._look_at_ns = 0
        self._keys: tuple[str, ...] = ()
        self._settled = _NOTHING
        self._unsendable = 0
        self._tally_before: dict[CounterKey, int] = {}
        self._tally_told: dict[CounterKey, int] = {}
        self._totals: Totals | None = None
        self._complaints = Complaints(_logger)
        self._abandoned = False
        self.congested = True

    @property
    def blocked(self) -> bool:
        """Whether the pipe is full."""
        outlet = self._sender.outlet
        return outlet is not None and outlet.blocked

    @property
    def broken(self) -> bool:
        """Whether nobody reads from the pipe any more."""
        outlet = self._sender.outlet
        return outlet is not None and outlet.broken

    def begin(self, sampled: bool, exchange: Exchange | None = None) -> None:  # noqa: FBT001 - the hot path is positional
        """Count a record that has begun; of an exchange that lasts the helper is told.

        O(1), takes no lock, never blocks, never raises.
        """
        # What `Recorder.begin` does: a call would take longer.
        if sampled and self._spans:
            self._started += 1
        if exchange is not None:
            self._young[exchange.span_id] = exchange

    def put(self, record: Record) -> None:
        """Send an ended record, or queue it. O(1), never blocks, never raises."""
        if isinstance(record, ExchangeEnded):
            self.put_exchange(record)
        elif isinstance(record, ExchangeRejected):
            super().put(record)
        else:
            self._put_in_line(record)

    def put_exchange(self, exchange: ExchangeEnded) -> None:
        """Send an ended exchange, as `put` does: this is the hot path."""
        # By its name the argument of `acquire` takes four times as long.
        if self.congested or self._behind or not self._way.acquire(False):  # noqa: FBT003
            self._put_in_line(exchange)
            return
        try:
            counts = self._spans and exchange.rollout.sampled
            if counts:
                self._ended += 1
            sender = self._sender
            outlet = sender.outlet
            if not sender.send_exchange(exchange, counts):
                self._current = exchange
                self.congested = True
            elif outlet is None or outlet.blocked:
                self.congested = True
            elif exchange.end_ns >= self._look_at_ns:
                self._look(exchange.end_ns, _AT_ONCE)
        finally:
            self._way.release()
        if self.congested:
            self._wake()

    def allow(self, keys: frozenset[str]) -> None:
        """Have the helper let these attribute keys out, before what is put next."""
        if not keys <= {*self._keys}:
            self._keys = tuple(sorted({*self._keys, *keys}))

    def connect(self, outlet: Outlet) -> None:
        """Begin with a new helper, which is to be told of all that is open."""
        with self._way:
            self._sender.connect(outlet)
            self._settled = _NOTHING
            self._tally_before = self._tally_told
            self._totals = None
            self._work.start_again()

    def disconnect(self) -> int:
        """Give up the helper; return how many records were lost with it."""
        with self._way:
            self._sender.outlet = None
            self.congested = True
            sent, self._sender.sent = self._sender.sent, 0
        lost = max(sent - sum(self._settled[:3]), 0)
        self._settled = _NOTHING
        self.settle(failed=lost)
        self._settle_unsendable()
        return lost

    def drain(self, limit: int) -> None:
        """Send at most ``limit`` things, and clear the way if that was all."""
        with self._way:
            if self._drain(limit):
                self.congested = False
        # What came while the lock was held, and was left to this thread.
        self._pump()

    def send(self, kind: Kind, message: object) -> bool:
        """Send a message after all that was put; False when it has to wait."""
        with self._way:
            clear = not self.congested and self._drain(_AT_ONCE)
            self.congested = not clear
            sent = clear and self._sender.send(kind, message)
        self._pump()
        return sent

    def tell_open(self) -> None:
        """Tell of exchanges that last, where the event loop has nothing to do."""
        now_ns = time.time_ns()
        if now_ns >= self._look_at_ns and not self.congested:
            with self._way:
                self._look(now_ns, self._limit)
            self._pump()

    def tell_totals(self) -> bool:
        """Tell what this helper could not know, if it has changed; False: later."""
        self._settle_unsendable()
        balance, tally = self.balance(), dict(self.tally())
        totals = Totals(
            balance.exported - self._settled.exported,
            balance.failed - self._settled.failed,
            balance.dropped - self._settled.dropped,
            tuple(
                (*key, number - self._tally_before.get(key, 0))
                for key, number in tally.items()
            ),
            (),
        )
        gone = self._work.take_gone()
        if totals == self._totals and not gone:
            return True
        if not self.send(Kind.TOTALS, totals._replace(gone=gone)):
            self._work.gone.extendleft(reversed(gone))
            return False
        self._totals, self._tally_told = totals, tally
        return True

    def hear(self, fates: Fates) -> None:
        """Count what this helper says has become of its records."""
        before, self._settled = self._settled, fates
        self.settle(
            exported=fates.exported - before.exported,
            failed=fates.failed - before.failed,
            dropped=fates.dropped - before.dropped,
        )

    def abandon(self) -> None:
        """Send nothing any more: for a fork of the process, which has no helper."""
        self._abandoned = True
        self._sender.outlet = None
        self.congested = True
        self.close()

    def _put_in_line(self, record: SpanRecord) -> None:
        self._work.record_comes(record)
        self._behind = True
        if isinstance(record, ExchangeEnded):
            super().put_exchange(record)
        else:
            super().put(record)
        if not self.congested:
            self._pump()
            self._behind = len(self) > 0
        self._work.record_is_through(record)

    def _pump(self) -> None:
        """Send what waits, unless another thread does; it looks again afterwards."""
        while not self.congested and len(self):
            if not self._way.acquire(blocking=False):
                return
            try:
                self.congested = not self._drain(_AT_ONCE)
            finally:
                self._way.release()
            if self.congested:
                self._wake()

    def _drain(self, limit: int) -> bool:
        """Send at most so many things; True when none is left. Holds the lock."""
        outlet = self._sender.outlet
        if outlet is None or not outlet.finish():
            return False
        if not self._sender.send_keys(self._keys):
            return False
        for _ in range(limit):
            item = self._current = self._current or self._next()
            if item is None:
                return True
            if isinstance(item, RECORDS):
                sent = self._sender.send_record(item)
            else:
                sent = self._sender.send_open(item)
            if not sent:
                return False
            self._current = None
            if outlet.blocked:
                return False
        return not (len(self) or self._work.untold)

    def _next(self) -> SpanRecord | OpenRollout | Exchange | None:
        for record in self.take(1):
            if isinstance(record, RECORDS):
                return record
        return self._work.untold.popleft() if self._work.untold else None

    def _look(self, now_ns: int, most: int) -> None:
        """Tell of exchanges that are young no more. Holds the lock."""
        told = 0
        for exchange in self._work.grown(now_ns, most):
            told += 1
            if self.congested or not self._sender.send_open(exchange):
                self._work.untold.append(exchange)
                self.congested = True
        # Those that are left over are told with the next record.
        self._look_at_ns = now_ns if told == most else now_ns + YOUNG_NS // 2

    def _settle_unsendable(self) -> None:
        # Counted by whoever sends, settled by one thread alone.
        number = self._sender.unsendable - self._unsendable
        self._unsendable += number
        self.settle(dropped=number)

    def _note_drop(self, record: Record) -> None:
        if not (self.congested and isinstance(record, RECORDS)):
            return
        if self._abandoned:
            self._complaints.warn(
                "telemetry was made before this process was forked and has no helper "
                "here: make it after the fork"
            )
        # A helper that is yet to come is told of all that is open then.
        if self._sender.outlet is not None:
            self._work.record_was_dropped(record)
