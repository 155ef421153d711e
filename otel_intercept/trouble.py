"""Keep the first cause of trouble in an exchange, and fail its rollout once."""

import time
from typing import Final

from otel_intercept import failure as failures
from otel_intercept.errors import InterceptionError, RolloutError, StreamInterrupted
from otel_intercept.failure import Failure
from otel_intercept.ids import new_span_id
from otel_intercept.outcome import (
    GOOD,
    NO_ANSWER,
    NO_CAUSE,
    Answer,
    Cause,
    error_class,
    error_class_so_far,
)
from otel_intercept.owner import Owner
from otel_intercept.record import FailureSeen
from otel_intercept.semconv import ErrorType, ExchangeOutcome, Origin, Phase

_PROXY_PHASES: Final = frozenset(
    {Phase.PREPARE, Phase.KEEPALIVE, Phase.CHUNK, Phase.EOF, Phase.HANDLER}
)

CAUSE_OF_PHASE: Final = {
    Phase.PREPARE: Cause.WRITE_FAILED,
    Phase.KEEPALIVE: Cause.WRITE_FAILED,
    Phase.CHUNK: Cause.WRITE_FAILED,
    Phase.EOF: Cause.WRITE_FAILED,
    Phase.HANDLER: Cause.HANDLER_RAISED,
    Phase.RESPONSE_FUTURE: Cause.UPSTREAM_FAILED,
    Phase.UPSTREAM_CALL: Cause.UPSTREAM_FAILED,
}
"""What a failure in each phase is the cause of; ``late`` has none of its own."""

_DERIVED: Final = {
    ExchangeOutcome.SILENT_EMPTY: (ErrorType.UPSTREAM_EMPTY, Origin.UPSTREAM),
    ExchangeOutcome.NO_TERMINAL: (ErrorType.UPSTREAM_TRUNCATED, Origin.UPSTREAM),
}


def describe(owner: Owner, exc: BaseException, phase: Phase) -> Failure:
    """Describe an exception; in the proxy's own phases the unknown is its own error."""
    default = ErrorType.HANDLER_ERROR if phase in _PROXY_PHASES else ErrorType.OTHER
    return failures.describe(
        exc, phase=phase, key=owner.fingerprint_key, default=default
    )


def fail_separately(
    owner: Owner, failure: Failure, exchange_span_id: int, *, streamed: bool
) -> None:
    """Record a failure beside its exchange: it came second, or after the end."""
    if owner.stopped:
        return
    seen = FailureSeen(
        owner.ref, new_span_id(), time.time_ns(), failure, exchange_span_id
    )
    owner.emit(seen, begun=False)
    error = StreamInterrupted if streamed else InterceptionError
    owner.record_failure(failure, error, stopped=False)


class Trouble:
    """The first cause in time, with what was true when it came.

    The rollout fails only when the cause is final: once the answer has begun, or, for
    an upstream call that the handler made and may make again, once it is through. A
    failure that is only ``replayed`` has counted in the exchange that met it.
    ``upstream_cancelled`` and ``write_error`` are no causes, but tell what others mean.
    """

    __slots__ = (
        "_owner",
        "_settled",
        "begun",
        "cause",
        "failure",
        "failure_ns",
        "final",
        "replayed",
        "stopped",
        "upstream_cancelled",
        "write_error",
    )

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._settled = False
        self.begun = False
        self.cause = NO_CAUSE
        self.failure: Failure | None = None
        self.failure_ns: int | None = None
        self.final = True
        self.replayed = False
        self.stopped = False
        self.upstream_cancelled = False
        self.write_error: BaseException | None = None

    def note(
        self,
        cause: Cause,
        failure: Failure | None,
        answer: Answer,
        *,
        final: bool,
        now_ns: int,
    ) -> None:
        """Take the cause if it is the first, and settle it if the answer has begun."""
        if self.cause is not NO_CAUSE:
            return
        self.cause = cause
        self.final = final
        self.begun = answer is not NO_ANSWER
        self.stopped = self._owner.stopped
        self._set_failure(failure, now_ns)
        if self.begun:
            self.answer_began(answer)

    def answer_began(self, answer: Answer) -> None:
        """Settle it, unless a retry within a good answer may still take it back."""
        if self.final or answer is not GOOD:
            self.settle(answer)

    def settle(
        self, answer: Answer, outcome_error: type[RolloutError] | None = None
    ) -> None:
        """Make the failure count for the rollout. Idempotent; no-op without one."""
        if self.failure is None or self._settled:
            return
        self._settled = True
        if self.replayed:
            return
        error = outcome_error or error_class_so_far(
            self.cause, answer, begun=self.begun
        )
        self._owner.record_failure(self.failure, error, stopped=self.stopped)

    def recover(self) -> None:
        """Take an upstream failure back that a later upstream call made good."""
        if self.cause is Cause.UPSTREAM_FAILED and not self._settled:
            self.cause = NO_CAUSE
            self._set_failure(None, 0)

    def conclude(
        self,
        outcome: ExchangeOutcome,
        answer: Answer,
        status: int | None,
        *,
        unreadable: bool,
        now_ns: int,
    ) -> None:
        """Bring the failure in line with the outcome: present exactly if it is one."""
        error = error_class(outcome)
        if error is None:
            self._set_failure(None, now_ns)
            return
        if self.failure is None:
            derived = self._derive(outcome, status, unreadable=unreadable)
            self._set_failure(derived, now_ns)
        self.settle(answer, error)

    def _set_failure(self, failure: Failure | None, now_ns: int) -> None:
        self.failure = failure
        self.failure_ns = None if failure is None else now_ns

    def _derive(
        self, outcome: ExchangeOutcome, status: int | None, *, unreadable: bool
    ) -> Failure:
        key = self._owner.fingerprint_key
        if outcome is ExchangeOutcome.UPSTREAM_FAILED and status is not None:
            return failures.from_status(status, phase=Phase.HANDLER, key=key)
        fallback = (ErrorType.HANDLER_ERROR, Origin.PROXY)
        error_type, origin = _DERIVED.get(outcome, fallback)
        if unreadable and outcome is ExchangeOutcome.NO_TERMINAL:
            error_type = ErrorType.UPSTREAM_BAD_RESPONSE
        return failures.without_exception(
            error_type, phase=Phase.EOF, origin=origin, status=status, key=key
        )
