"""Note what goes wrong in an exchange: the first cause in time, and what came late."""

from asyncio import BaseTransport
from collections.abc import Callable
from typing import Final, TypeAlias

from otel_intercept import failure as failures
from otel_intercept.failure import Failure
from otel_intercept.outcome import NO_CAUSE, Cause, Facts, decide
from otel_intercept.owner import Owner
from otel_intercept.record import RequestFacts
from otel_intercept.semconv import ExchangeOutcome, Phase
from otel_intercept.shield import confess
from otel_intercept.stream import StreamMeter
from otel_intercept.trouble import Trouble, describe, fail_separately
from otel_intercept.upstream import UpstreamCalls

_AGENT_LOST: Final = frozenset({Cause.WRITE_FAILED, Cause.AGENT_LEFT})
_TAIL_NOISE_AFTER: Final = frozenset(
    {ExchangeOutcome.CANCELLED, ExchangeOutcome.CLEAN_STOP}
)

AgentPresent: TypeAlias = Callable[[BaseTransport | None], bool]
"""Tells whether an agent's connection still stands."""


class Causes(UpstreamCalls):
    """The trouble of an exchange, if it has any, and where it comes from."""

    __slots__ = (
        "_agent_present",
        "_asked",
        "_connection",
        "_outcome",
        "_owner",
        "span_id",
    )

    _agent_present: AgentPresent
    _asked: RequestFacts
    _connection: BaseTransport | None
    _outcome: ExchangeOutcome | None
    _owner: Owner
    span_id: int

    @property
    def _streamed(self) -> bool:
        return self._meter is not None or self._asked.stream

    def _is_agent_present(self) -> bool:
        return self._agent_present(self._connection)

    def _find_trouble(self) -> Trouble:
        """Return what keeps the trouble. Most exchanges never need one."""
        if self._trouble is None:
            self._trouble = Trouble(self._owner)
        return self._trouble

    def _note(
        self, cause: Cause, failure: Failure | None = None, *, final: bool = True
    ) -> None:
        self._hear()
        if self._outcome is None:
            self._find_trouble().note(
                cause, failure, self._answer, final=final, now_ns=self._now_ns()
            )

    def _conclude(self, *, ended: bool) -> ExchangeOutcome:
        trouble = self._find_trouble()
        body = self._body_facts(stream_asked=self._asked.stream)
        if trouble.cause is NO_CAUSE:
            trouble.stopped = self._owner.stopped
        outcome = decide(
            Facts(
                trouble.cause,
                trouble.begun,
                self._answer,
                *body,
                ended=ended,
                upstream_cancelled=trouble.upstream_cancelled,
                stopped=trouble.stopped,
            )
        )
        trouble.conclude(
            outcome,
            self._answer,
            self._status,
            unreadable=body.unreadable,
            now_ns=self._now_ns(),
        )
        return outcome

    def _error_frame_written(self, meter: StreamMeter) -> None:
        trouble = self._trouble
        if meter.error is None or (trouble and trouble.cause is not NO_CAUSE):
            return
        key = self._owner.fingerprint_key
        self._note(Cause.ERROR_FRAME, failures.from_error_frame(*meter.error, key=key))

    def _upstream_ended(
        self, started: int, exc: BaseException | None, phase: Phase
    ) -> None:
        try:
            failed: Failure | None = None
            if exc is not None:
                failed = self._upstream_raised(exc, phase)
            elif self._trouble is not None:
                self._trouble.recover()
            if self._outcome is None:
                self._waited(started, failed)
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("Exchange._upstream_ended")

    def _upstream_raised(self, exc: BaseException, phase: Phase) -> Failure | None:
        if self._trouble is not None and exc is self._trouble.write_error:
            return None  # the agent's failure, on its way through the upstream's block
        if failures.is_cancellation(exc):
            self._upstream_was_cancelled()
            return None
        if failures.is_agents(exc):
            # So is this: a request is read as it is sent on.
            self._upstream_was_left()
            return None
        if self._outcome is not None:
            self._fail_late(exc)
            return None
        failure = describe(self._owner, exc, phase)
        self._upstream_failed(failure, final=phase is not Phase.UPSTREAM_CALL)
        return failure

    def _upstream_failed(self, failure: Failure, *, final: bool) -> None:
        trouble = self._trouble
        if trouble is not None and trouble.cause in _AGENT_LOST:
            fail_separately(self._owner, failure, self.span_id, streamed=self._streamed)
        else:
            self._note(Cause.UPSTREAM_FAILED, failure, final=final)

    def _upstream_was_cancelled(self) -> None:
        # A handler's own deadline cancels the future too; only teardown and a lost
        # agent are certain causes.
        self._find_trouble().upstream_cancelled = True
        if self._owner.closed:
            self._note(Cause.CANCELLED)
        else:
            self._upstream_was_left()

    def _upstream_was_left(self) -> None:
        if not (self._has_terminal or self._ended or self._is_agent_present()):
            self._note(Cause.AGENT_LEFT)

    def _fail_late(self, exc: BaseException) -> None:
        if self._outcome not in _TAIL_NOISE_AFTER:
            failure = describe(self._owner, exc, Phase.LATE)
            fail_separately(self._owner, failure, self.span_id, streamed=self._streamed)
