"""Say records, and what is open, to the helper that lives now."""

import logging
from functools import partial
from typing import Final

from otel_intercept.exchange import Exchange
from otel_intercept.process.commons import Commons
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
        self._rollouts = work.rollouts
        self._young = work.young
        self._framer = Framer()
        self._encode = self._framer.encode
        self._heads = self._framer.heads(_EXCHANGE_ENDED, counts=True)
        self._other_heads = self._framer.heads(_EXCHANGE_ENDED, counts=False)
        self._complaints = Complaints(_logger)
        self._commons = Commons(partial(self.send, Kind.COMMON))
        self._keys: tuple[str, ...] = ()
        self.outlet: Outlet | None = None
        self.sent = 0
        self.unsendable = 0

    def connect(self, outlet: Outlet) -> None:
        """Begin with a new helper, which knows nothing."""
        self.outlet = outlet
        self.sent = 0
        self._commons.start_again()
        self._keys = ()

    def send_keys(self, keys: tuple[str, ...]) -> bool:
        """Let the helper let these attribute keys out, if it does not yet."""
        if keys is not self._keys:
            if not self.send(Kind.DECLARE, keys):
                return False
            self._keys = keys
        return True

    def send_exchange(self, record: ExchangeEnded, counts: bool) -> bool:  # noqa: FBT001 - the hot path is positional
        """Note and send an ended exchange, as `send_record` does: the hot path.

        Nearly all are plain ones, like the one before, of a rollout that this helper
        knows. They take no call that can be done without.

        Args:
            record: The exchange.
            counts: Whether it counts in the balance.
        """
        ref, outlet, alike = record.rollout, self.outlet, self._commons.last
        rollout = self._rollouts.get(ref.span_id)
        if (
            outlet is None
            or rollout is None
            or rollout.told is not outlet
            or alike.request is not record.request
            or alike.asked is not record.asked
            or alike.outcome is not record.outcome
            or alike.status != record.status
            or alike.stream is not record.stream
            or record.facts is not None
            or record.failure is not None
            or record.replayed
        ):
            self._work.exchange_ends(record)
            return self.send_record(record)
        span_id, index = record.span_id, record.exchange_index
        # What `OpenWork.exchange_ends` does.
        if self._young.pop(span_id, None) is None:
            self._work.told.pop(span_id, None)
        if index >= rollout.exchanges:
            rollout.exchanges = index + 1
        # What `to_done` says.
        message = (
            ref.span_id,
            span_id,
            index,
            record.start_ns,
            record.end_ns,
            alike.number,
            record.response,
            record.waits,
        )
        encode, heads = self._encode, self._heads if counts else self._other_heads
        try:
            data = encode(message)
            frame = heads[len(data)] + data
        except Exception:  # noqa: BLE001 - what is wrong is found out there
            return self.send(_EXCHANGE_ENDED, message, counts=counts)
        if not outlet.write(frame):
            return False
        if counts:
            self.sent += 1
        return True

    def send_record(self, record: SpanRecord) -> bool:
        """Send a record; its rollout in full where this helper does not know it."""
        rollout = self._work.rollouts.get(record.rollout.span_id)
        starts = isinstance(record, RolloutStarted)
        name = to_ref(record.rollout) if starts else self._name(record.rollout)
        counts = self._recorder.has_span(record)
        if isinstance(record, ExchangeEnded):
            message: object = to_done(record, name, self._commons.of(record))
            return self.send(_EXCHANGE_ENDED, message, counts=counts)
        kind, message = to_wire(record, name)
        if not self.send(kind, message, counts=counts):
            return False
        if rollout is not None and starts:
            rollout.told = self.outlet
        return True

    def send_open(self, item: OpenRollout | Exchange) -> bool:
        """Tell of something that is open, if it still is."""
        if not self._work.is_open(item):
            return True
        if isinstance(item, OpenRollout):
            sent = self.send(Kind.ROLLOUT_RESUMED, item.resumed())
            if sent:
                item.told = self.outlet
            return sent
        rollout = self._name(item.rollout.ref)
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

    def _name(self, ref: RolloutRef) -> WireRollout:
        """Return a rollout's number, or all of it where this helper knows none."""
        rollout = self._rollouts.get(ref.span_id)
        if rollout is not None and rollout.told is self.outlet:
            return ref.span_id
        return to_ref(ref)
