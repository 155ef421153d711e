"""Turn what a server tells into records, and end what was open when it has died."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import msgspec

from otel_intercept.failure import Failure
from otel_intercept.process.framing import Kind, Run
from otel_intercept.process.messages import (
    Begun,
    Common,
    Done,
    Shared,
    WireRollout,
    decode_begun,
    decode_done,
    decode_dones,
    decode_ended,
    decode_numbered,
    decode_resumed,
    decode_seen,
    decode_started,
    from_common,
    from_done,
    from_ended,
    from_ref,
    from_request,
    from_seen,
)
from otel_intercept.process.orders import decode_totals
from otel_intercept.record import (
    ExchangeEnded,
    FailureSeen,
    RequestFacts,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
)
from otel_intercept.sdk.mirror import MirrorRecorder
from otel_intercept.semconv import ExchangeOutcome, RolloutOutcome

# An attribute of an enum class takes as long as a call.
_EXCHANGE_ENDED: Final = Kind.EXCHANGE_ENDED
_TOLD: Final = frozenset(
    {
        Kind.ROLLOUT_STARTED, Kind.ROLLOUT_RESUMED, Kind.ROLLOUT_ENDED,
        Kind.COMMON, Kind.EXCHANGE_STARTED, Kind.EXCHANGE_ENDED, Kind.FAILURE_SEEN,
        Kind.TOTALS,
    }
)  # fmt: skip


class _OpenRollout:
    __slots__ = ("exchanges", "failure", "failures", "ref")

    def __init__(self, ref: RolloutRef) -> None:
        self.ref = ref
        self.exchanges = 0
        self.failures = 0
        self.failure: Failure | None = None

    def saw(self, exchange_index: int) -> None:
        if exchange_index >= self.exchanges:
            self.exchanges = exchange_index + 1

    def count(self, failure: Failure) -> None:
        self.failures += 1
        self.failure = self.failure or failure


class _OpenExchange(NamedTuple):
    rollout: RolloutRef
    begun: Begun


class BlackBox:
    """Knows what is open in the server, and puts its records where they are exported.

    Trusts nothing that it is told: what cannot be decoded, or belongs to a rollout
    that was never told, is counted as dropped.

    Args:
        recorder: Where the records go.
    """

    def __init__(self, recorder: MirrorRecorder) -> None:
        self._recorder = recorder
        self._rollouts: dict[int, _OpenRollout] = {}
        self._exchanges: dict[int, _OpenExchange] = {}
        # What exchanges have in common, by its number.
        self._shared: dict[int, Shared] = {}

    def take(self, run: Run) -> bool:
        """Take frames about records; False if they are about something else."""
        if run.kind not in _TOLD:
            return False
        with self._recorder.lock:
            # Nearly all are, so they are not asked what else they might be.
            if run.kind == _EXCHANGE_ENDED:
                self._take_ended(run)
                return True
            kind = Kind(run.kind)
            for payload in run.payloads:
                try:
                    self._take(kind, payload)
                except (msgspec.DecodeError, LookupError):
                    self._recorder.malformed += run.counts
        return True

    def end_all(self, now_ns: int) -> tuple[int, int]:
        """End every exchange as cancelled and every rollout as aborted.

        Args:
            now_ns: When the server was found dead, in Unix nanoseconds.

        Returns:
            How many rollouts and how many exchanges.
        """
        with self._recorder.lock:
            exchanges, rollouts = [*self._exchanges.values()], [*self._rollouts]
            for exchange in exchanges:
                self._put_exchange(_cancelled(exchange, now_ns))
            for root in rollouts:
                rollout = self._rollouts[root]
                self._put(
                    RolloutEnded(
                        rollout.ref,
                        max(now_ns, rollout.ref.start_ns),
                        RolloutOutcome.ABORTED,
                        rollout.exchanges,
                        rollout.failures,
                        rollout.failure,
                    )
                )
            return len(rollouts), len(exchanges)

    def _take_ended(self, run: Run) -> None:
        try:
            dones = decode_dones(run.payloads)
        except msgspec.DecodeError:
            # What makes no sense costs itself alone.
            dones = list(_sensible(run.payloads))
            self._recorder.malformed += run.counts * (len(run.payloads) - len(dones))
        for done in dones:
            try:
                ref, shared = self._ref(done.rollout), self._share(done.common)
            except (msgspec.DecodeError, LookupError):
                self._recorder.malformed += run.counts
            else:
                self._put_exchange(from_done(done, ref, shared))

    def _take(self, kind: Kind, payload: bytes) -> None:
        match kind:
            case Kind.EXCHANGE_STARTED:
                self._begin(decode_begun(payload))
            case Kind.COMMON:
                number, common = decode_numbered(payload)
                self._shared[number] = from_common(common)
            case Kind.ROLLOUT_STARTED:
                started = decode_started(payload)
                ref = from_ref(started.rollout)
                self._open(ref)
                self._put(RolloutStarted(ref, started.span_id))
            case Kind.ROLLOUT_ENDED:
                ended = decode_ended(payload)
                self._put(from_ended(ended, self._ref(ended.rollout)))
            case Kind.FAILURE_SEEN:
                seen = decode_seen(payload)
                self._put(from_seen(seen, self._ref(seen.rollout)))
            case Kind.ROLLOUT_RESUMED:
                resumed = decode_resumed(payload)
                rollout = self._open(from_ref(resumed.rollout))
                self._recorder.reopen(rollout.ref)
                rollout.exchanges, rollout.failures, rollout.failure = resumed[1:]
            case _:
                totals = decode_totals(payload)
                self._recorder.tell(totals)
                for span_id in totals.gone:
                    self._forget(span_id)

    def _ref(self, rollout: WireRollout) -> RolloutRef:
        """Return the rollout. Raises KeyError when it was never told."""
        if isinstance(rollout, int):
            return self._rollouts[rollout].ref
        return from_ref(rollout)

    def _share(self, common: int | Common) -> Shared:
        """Return what is shared. Raises KeyError when its number was never told."""
        if isinstance(common, int):
            return self._shared[common]
        return from_common(common)

    def _open(self, ref: RolloutRef) -> _OpenRollout:
        self._close(ref.span_id)
        self._rollouts[ref.span_id] = rollout = _OpenRollout(ref)
        self._count_open(ref, 1)
        return rollout

    def _begin(self, begun: Begun) -> None:
        ref = self._ref(begun.rollout)
        if begun.span_id in self._exchanges:
            return
        self._exchanges[begun.span_id] = _OpenExchange(ref, begun)
        self._count_open(ref, 1)
        rollout = self._rollouts.get(ref.span_id)
        if rollout is not None:
            rollout.saw(begun.exchange_index)

    def _put_exchange(self, record: ExchangeEnded) -> None:
        # Most are over before anything was told of their start.
        if self._exchanges:
            self._end(record.span_id)
        rollout = self._rollouts.get(record.rollout.span_id)
        if rollout is not None:
            rollout.saw(record.exchange_index)
            if record.failure is not None and not record.replayed:
                rollout.count(record.failure)
        self._recorder.put_exchange(record)

    def _put(self, record: RolloutStarted | RolloutEnded | FailureSeen) -> None:
        if isinstance(record, RolloutEnded):
            self._close(record.rollout.span_id)
        elif isinstance(record, FailureSeen):
            rollout = self._rollouts.get(record.rollout.span_id)
            if rollout is not None:
                rollout.count(record.failure)
        self._recorder.put(record)

    def _end(self, span_id: int) -> bool:
        exchange = self._exchanges.pop(span_id, None)
        if exchange is not None:
            self._count_open(exchange.rollout, -1)
        return exchange is not None

    def _close(self, root: int) -> None:
        rollout = self._rollouts.pop(root, None)
        if rollout is not None:
            self._count_open(rollout.ref, -1)

    def _forget(self, span_id: int) -> None:
        if not self._end(span_id):
            self._close(span_id)
            self._recorder.forget(span_id)

    def _count_open(self, ref: RolloutRef, number: int) -> None:
        if self._recorder.has_spans and ref.sampled:
            self._recorder.open_spans += number


def _sensible(payloads: Iterable[bytes]) -> Iterator[Done]:
    for payload in payloads:
        with contextlib.suppress(msgspec.DecodeError):
            yield decode_done(payload)


def _cancelled(exchange: _OpenExchange, now_ns: int) -> ExchangeEnded:
    rollout, begun = exchange
    return ExchangeEnded(
        rollout=rollout,
        span_id=begun.span_id,
        exchange_index=begun.exchange_index,
        start_ns=begun.start_ns,
        end_ns=max(now_ns, begun.start_ns),
        request=from_request(begun.request),
        asked=RequestFacts(model=None, stream=False, attributes=()),
        stream=False,
        status=None,
        outcome=ExchangeOutcome.CANCELLED,
        response=(),
        waits=(),
    )
