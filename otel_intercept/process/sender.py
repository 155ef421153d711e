"""Say records, and what is open, to the helper that lives now."""

import logging
from typing import Final

from otel_intercept.exchange import Exchange
from otel_intercept.process.framing import Framer, Kind
from otel_intercept.process.messages import (
    SpanRecord,
    WireRollout,
    to_begun,
    to_done,
    to_ref,
    to_wire,
)
from otel_intercept.process.open_work import OpenRollout, OpenWork
from otel_intercept.process.outlet import Outlet
from otel_intercept.record import (
    ExchangeEnded,
    FailureSeen,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
)
from otel_intercept.recorder import Recorder
from otel_intercept.translate.complaints import Complaints

RECORDS: Final = (ExchangeEnded, RolloutStarted, RolloutEnded, FailureSeen)
"""What is told as a record, as opposed to what is open."""

# An attribute of an enum class takes as long as a call.
_EXCHANGE_ENDED: Final = Kind.EXCHANGE_ENDED

_logger: Final = logging.getLogger("otel_intercept.process")


class Sender:
    """Writes to the pipe of one helper after the other. Nothing blocks or raises.

    What returns False has not sent anything: the pipe is full, or there is no helper.
    One thread at a time is in here; the caller sees to that.

    Attributes:
        outlet: The pipe, or None without a helper.
        sent: Records that count in the balance and were sent to this helper.
        unsendable: Such records that can be sent to none, so far.

    Args:
        recorder: Tells which records count in the balance.
        work: What is open, and whether this helper knows of it.
    """

    def __init__(self, recorder: Recorder, work: OpenWork) -> None:
        self._recorder = recorder
        self._spans = recorder.has_spans
        self._work = work
        self._framer = Framer()
        self._complaints = Complaints(_logger)
        self._life = 0
        self._keys: tuple[str, ...] = ()
        self.outlet: Outlet | None = None
        self.sent = 0
        self.unsendable = 0

    def connect(self, outlet: Outlet) -> None:
        """Begin with a new helper, which knows nothing."""
        self.outlet = outlet
        self.sent = 0
        self._life += 1
        self._keys = ()

    def send_keys(self, keys: tuple[str, ...]) -> bool:
        """Let the helper let these attribute keys out, if it does not yet."""
        if keys is not self._keys:
            if not self.send(Kind.DECLARE, keys):
                return False
            self._keys = keys
        return True

    def send_exchange(self, record: ExchangeEnded, rollout: OpenRollout | None) -> bool:
        """Send an ended exchange, as `send_record` does: this is the hot path.

        Args:
            record: The exchange.
            rollout: Its rollout, if that is open.
        """
        ref = record.rollout
        if rollout is not None and rollout.life == self._life:
            message = to_done(record, ref.span_id)
        else:
            message = to_done(record, to_ref(ref))
        return self.send(_EXCHANGE_ENDED, message, counts=self._spans and ref.sampled)

    def send_record(self, record: SpanRecord) -> bool:
        """Send a record; its rollout in full where this helper does not know it."""
        root = record.rollout.span_id
        rollout = self._work.rollouts.get(root)
        if isinstance(record, RolloutStarted):
            wire: WireRollout = to_ref(record.rollout)
        elif rollout is not None and rollout.life == self._life:
            wire = root
        else:
            wire = to_ref(record.rollout)
        kind, message = to_wire(record, wire)
        if not self.send(kind, message, counts=self._recorder.has_span(record)):
            return False
        if rollout is not None and isinstance(record, RolloutStarted):
            rollout.life = self._life
        return True

    def send_open(self, item: OpenRollout | Exchange) -> bool:
        """Tell of something that is open, if it still is."""
        if not self._work.is_open(item):
            return True
        if isinstance(item, OpenRollout):
            sent = self.send(Kind.ROLLOUT_RESUMED, item.resumed())
            if sent:
                item.life = self._life
            return sent
        rollout = self._rollout_of(item.rollout.ref)
        return self.send(
            Kind.EXCHANGE_STARTED,
            to_begun(rollout, item.span_id, item.index, item.start_ns, item.request),
        )

    def send(self, kind: Kind, message: object, *, counts: bool = False) -> bool:
        """Send a message. One that cannot be encoded is counted, and taken for sent."""
        if self.outlet is None:
            return False
        try:
            frame = self._framer.frame(kind, message, counts=counts)
        except Exception:  # noqa: BLE001 - such as an operator's lone surrogate
            self._complaints.warn("a record could not be told to the helper")
            self.unsendable += counts
            return True
        sent = self.outlet.write(frame)
        self.sent += counts and sent
        return sent

    def _rollout_of(self, ref: RolloutRef) -> WireRollout:
        rollout = self._work.rollouts.get(ref.span_id)
        if rollout is not None and rollout.life == self._life:
            return ref.span_id
        return to_ref(ref)
