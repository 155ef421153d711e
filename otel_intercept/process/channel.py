"""The way of records to the helper: at once while it is clear, else through a queue."""

import logging
import threading
from collections.abc import Callable
from typing import Final

from otel_intercept.exchange import Exchange
from otel_intercept.process.framing import Framer, Kind
from otel_intercept.process.messages import (
    Fates,
    SpanRecord,
    Totals,
    WireRollout,
    to_begun,
    to_ref,
    to_wire,
)
from otel_intercept.process.open_work import OpenRollout, OpenWork
from otel_intercept.process.outlet import Outlet
from otel_intercept.record import (
    ExchangeEnded,
    ExchangeRejected,
    FailureSeen,
    Record,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
)
from otel_intercept.recorder import CounterKey, Recorder
from otel_intercept.translate.complaints import Complaints

_AT_ONCE: Final = 8
"""Things that the event loop sends itself, at most, before the keeper takes over."""

_NOTHING: Final = Fates(0, 0, 0, 0)
_RECORDS: Final = (ExchangeEnded, RolloutStarted, RolloutEnded, FailureSeen)

_logger: Final = logging.getLogger("otel_intercept.process")


class Channel:
    """Sends records to the helper that lives now, in the order in which they were put.

    ``begin`` and ``put`` belong to the event loop's thread, the rest to the keeper's.
    Whoever holds the lock may write; the event loop only tries it, and leaves what it
    cannot send to the other side, which looks again when it has let go.

    Args:
        recorder: Where records wait, and where their fate is counted.
        limit: Most open things that may wait to be told.
        wake: Called when the keeper has to take over. Must not block or raise.
    """

    def __init__(
        self, recorder: Recorder, *, limit: int, wake: Callable[[], None]
    ) -> None:
        self._recorder = recorder
        self._wake = wake
        self._work = OpenWork(limit)
        self._way = threading.Lock()
        self._framer = Framer()
        self._outlet: Outlet | None = None
        # Taken from the queue, and not accepted by the pipe yet.
        self._current: SpanRecord | OpenRollout | Exchange | None = None
        self._life = 0
        self._sent = 0
        self._settled = _NOTHING
        self._unsendable = 0
        self._unsendable_settled = 0
        self._tally_before: dict[CounterKey, int] = {}
        self._tally_told: dict[CounterKey, int] = {}
        self._totals: Totals | None = None
        self._keys: tuple[str, ...] = ()
        self._told_keys: tuple[str, ...] = ()
        self._complaints = Complaints(_logger)
        self._abandoned = False
        self.congested = True

    @property
    def blocked(self) -> bool:
        """Whether the pipe is full."""
        return self._outlet is not None and self._outlet.blocked

    @property
    def broken(self) -> bool:
        """Whether nobody reads from the pipe any more."""
        return self._outlet is not None and self._outlet.broken

    def begin(self, exchange: Exchange) -> None:
        """Tell of an exchange that starts. O(1), never blocks, never raises."""
        self._work.exchange_begins(exchange)
        self._pump()

    def put(self, record: Record) -> None:
        """Send an ended record, or queue it. O(1), never blocks, never raises."""
        recorder = self._recorder
        if isinstance(record, ExchangeRejected):
            recorder.put(record)
            return
        self._work.record_comes(record)
        if self.congested:
            waiting = len(recorder)
            recorder.put(record)
            # The keeper may have taken one meanwhile: then nothing was dropped, and
            # what is said of it is only said twice.
            if len(recorder) <= waiting:
                self._dropped(record)
        else:
            recorder.put(record)
            self._pump()
        self._work.record_is_through(record)

    def allow(self, keys: frozenset[str]) -> None:
        """Have the helper let these attribute keys out, before what is put next."""
        if not keys <= {*self._keys}:
            self._keys = tuple(sorted({*self._keys, *keys}))

    def connect(self, outlet: Outlet) -> None:
        """Begin with a new helper, which is to be told of all that is open."""
        with self._way:
            self._outlet = outlet
            self._life += 1
            self._sent = 0
            self._settled = _NOTHING
            self._tally_before = self._tally_told
            self._totals = None
            self._told_keys = ()
            self._work.start_again()

    def disconnect(self) -> int:
        """Give up the helper; return how many records were lost with it."""
        with self._way:
            self._outlet = None
            self.congested = True
            sent, self._sent = self._sent, 0
        lost = max(sent - sum(self._settled[:3]), 0)
        self._settled = _NOTHING
        self._recorder.settle(failed=lost)
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
            if self.congested or self._outlet is None:
                return False
            self.congested = not self._drain(_AT_ONCE)
            sent = not self.congested and self._write(kind, message)
        self._pump()
        return sent

    def tell_totals(self) -> bool:
        """Tell what this helper could not know, if it has changed; False: later."""
        self._settle_unsendable()
        balance, tally = self._recorder.balance(), dict(self._recorder.tally())
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

    def settle(self, fates: Fates) -> None:
        """Count what this helper says has become of its records."""
        before, self._settled = self._settled, fates
        self._recorder.settle(
            exported=fates.exported - before.exported,
            failed=fates.failed - before.failed,
            dropped=fates.dropped - before.dropped,
        )

    def abandon(self) -> None:
        """Send nothing any more: for a fork of the process, which has no helper."""
        self._abandoned = True
        self._outlet = None
        self.congested = True
        self._recorder.close()

    def _settle_unsendable(self) -> None:
        # Counted by whoever sends, settled by one thread alone.
        number = self._unsendable - self._unsendable_settled
        self._unsendable_settled += number
        self._recorder.settle(dropped=number)

    def _pump(self) -> None:
        while not self.congested and (len(self._recorder) or self._work.untold):
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
        outlet = self._outlet
        if outlet is None or not outlet.finish():
            return False
        if self._keys is not self._told_keys:
            keys = self._keys
            if not self._write(Kind.DECLARE, keys):
                return False
            self._told_keys = keys
        for _ in range(limit):
            if self._current is None:
                self._current = self._next()
            if self._current is None:
                return True
            if not self._send(self._current):
                return False
            self._current = None
            if outlet.blocked:
                return False
        return not (len(self._recorder) or self._work.untold)

    def _next(self) -> SpanRecord | OpenRollout | Exchange | None:
        for record in self._recorder.take(1):
            if isinstance(record, _RECORDS):
                return record
        return self._work.untold.popleft() if self._work.untold else None

    def _send(self, item: SpanRecord | OpenRollout | Exchange) -> bool:
        if isinstance(item, _RECORDS):
            return self._send_record(item)
        if not self._work.is_open(item):
            return True
        if isinstance(item, OpenRollout):
            sent = self._write(Kind.ROLLOUT_RESUMED, item.resumed())
            if sent:
                item.life = self._life
            return sent
        rollout = self._rollout_of(item.rollout.ref)
        return self._write(
            Kind.EXCHANGE_STARTED,
            to_begun(rollout, item.span_id, item.index, item.start_ns, item.request),
        )

    def _send_record(self, record: SpanRecord) -> bool:
        counts = self._recorder.has_span(record)
        if isinstance(record, RolloutStarted):
            kind, message = to_wire(record, to_ref(record.rollout))
        else:
            kind, message = to_wire(record, self._rollout_of(record.rollout))
        if not self._write(kind, message, counts=counts):
            return False
        self._sent += counts
        if kind is Kind.ROLLOUT_STARTED:
            rollout = self._work.rollouts.get(record.rollout.span_id)
            if rollout is not None:
                rollout.life = self._life
        return True

    def _rollout_of(self, ref: RolloutRef) -> WireRollout:
        rollout = self._work.rollouts.get(ref.span_id)
        if rollout is not None and rollout.life == self._life:
            return ref.span_id
        return to_ref(ref)

    def _write(self, kind: Kind, message: object, *, counts: bool = False) -> bool:
        if self._outlet is None:
            return False
        try:
            frame = self._framer.frame(kind, message, counts=counts)
        except Exception:  # noqa: BLE001 - an operator's attribute that nothing can send
            self._complaints.warn("a record could not be told to the helper")
            if counts:
                self._unsendable += 1
                self._sent -= 1
            return True
        return self._outlet.write(frame)

    def _dropped(self, record: SpanRecord) -> None:
        if self._abandoned:
            self._complaints.warn(
                "telemetry was made before this process was forked and has no helper "
                "here: make it after the fork"
            )
        # A helper that is yet to come is told of all that is open then.
        if self._outlet is not None:
            self._work.record_was_dropped(record)
