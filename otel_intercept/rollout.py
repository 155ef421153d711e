"""One agent run: its trace, its exchanges, and at most one error, the first."""

import logging
import time
from asyncio import BaseTransport
from collections.abc import Callable, Mapping, MutableMapping

from otel_intercept import failure as failures
from otel_intercept.causes import AgentPresent
from otel_intercept.errors import InterceptionError, RolloutError, StreamInterrupted
from otel_intercept.exchange import Exchange
from otel_intercept.failure import Failure
from otel_intercept.ids import new_span_id
from otel_intercept.record import (
    FailureSeen,
    Record,
    Request,
    RolloutEnded,
    RolloutRef,
)
from otel_intercept.semconv import ErrorType, Phase, RolloutOutcome
from otel_intercept.telemetry import Telemetry

_logger = logging.getLogger("otel_intercept.rollout")


class Rollout:
    """One agent run: one trace, and at most one error.

    Made by `RolloutRegistry.open`. Confined to the event loop's thread. No method
    raises. While it has ended, and exchanges of it still run, it is in the set of those
    that are leaving, so that these can be found.
    """

    __slots__ = (
        "_closed_callback",
        "_error",
        "_exchanges",
        "_failures",
        "_idle_since_ns",
        "_intake",
        "_leaving",
        "_opened_ns",
        "_outcome",
        "_running",
        "_stop_reason",
        "_stopped",
        "_telemetry",
        "_timings",
        "ref",
        "state",
    )

    def __init__(
        self,
        telemetry: Telemetry,
        ref: RolloutRef,
        state: MutableMapping[str, object] | None,
        leaving: "set[Rollout]",
    ) -> None:
        self._telemetry = telemetry
        self._intake = intake = telemetry.intake
        self._timings = None if intake is None or ref.sampled else intake.timings
        self._leaving = leaving
        self.ref = ref
        self.state = state
        self._closed_callback: Callable[[Rollout], None] | None = None
        self._error: RolloutError | None = None
        self._exchanges = 0
        self._failures = 0
        self._idle_since_ns = self._opened_ns = time.perf_counter_ns()
        self._outcome: RolloutOutcome | None = None
        self._running: tuple[Exchange, ...] = ()
        self._stop_reason: str | None = None
        self._stopped = False

    @property
    def rollout_id(self) -> str:
        """The id that it was opened with."""
        return self.ref.rollout_id

    @property
    def trace_id(self) -> str:
        """The trace id, 32 lower-case hex digits."""
        return f"{self.ref.trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """The W3C header value under which others join this rollout's trace."""
        flags = 1 if self.ref.sampled else 0
        return f"00-{self.ref.trace_id:032x}-{self.ref.span_id:016x}-{flags:02x}"

    @property
    def error(self) -> RolloutError | None:
        """The first failure as a typed error, also when the state had one already."""
        return self._error

    @property
    def outcome(self) -> RolloutOutcome | None:
        """How it ended, or None while it is open."""
        return self._outcome

    @property
    def exchanges(self) -> int:
        """How many exchanges have started."""
        return self._exchanges

    @property
    def failures(self) -> int:
        """How many failures were counted, the first one included."""
        return self._failures

    @property
    def stopped(self) -> bool:
        """Whether it has stopped cleanly: by `stop` or ``state["prompt_too_long"]``."""
        return self._stopped or _is_set(self.state, "prompt_too_long")

    @property
    def stop_reason(self) -> str | None:
        """What `stop` was called with. Stays in the process: it may be any text."""
        return self._stop_reason

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._outcome is not None

    @property
    def running(self) -> int:
        """How many exchanges run."""
        return len(self._running)

    @property
    def idle_since_ns(self) -> int | None:
        """When the last exchange ended (``perf_counter_ns``); None while one runs."""
        return None if self._running else self._idle_since_ns

    @property
    def fingerprint_key(self) -> bytes:
        """The key that makes fingerprints comparable."""
        return self._telemetry.settings.fingerprint_key

    def fail(
        self, exc: BaseException, *, phase: Phase, streaming: bool = False
    ) -> RolloutError:
        """Record a failure that no exchange saw, and fail the rollout.

        The first failure wins: later ones are counted and exported, but do not touch
        the state. Nothing is written on a state that has an error or that has stopped
        cleanly. A cancellation is returned as an error but counts as nothing.

        Args:
            exc: What was raised. It is described here and not kept.
            phase: Where it broke.
            streaming: Whether the agent was being sent a stream.

        Returns:
            A new error that is safe to store, log and send. Do not raise it while
            handling ``exc``: Python would attach that as its ``__context__``.
        """
        default = ErrorType.HANDLER_ERROR if phase is Phase.HANDLER else ErrorType.OTHER
        failure = failures.describe(
            exc, phase=phase, key=self.fingerprint_key, default=default
        )
        error = StreamInterrupted if streaming else InterceptionError
        stopped = self.stopped
        if not (stopped or failures.is_cancellation(exc)):
            seen = FailureSeen(self.ref, new_span_id(), time.time_ns(), failure, None)
            self.emit(seen, begun=False)
            self.record_failure(failure, error, stopped=stopped)
        return error(failure)

    def stop(self, reason: str) -> None:
        """Note a clean stop: what fails from now on is tail noise, no error.

        Args:
            reason: For the caller's own use; it is never exported.
        """
        self._hear_upstream()
        self._stopped = True
        self._stop_reason = reason

    def start_exchange(
        self,
        request: Request,
        agent_present: AgentPresent,
        connection: BaseTransport | None = None,
    ) -> Exchange:
        """Start an exchange. For adapters, such as the middleware.

        Args:
            request: What is known of the request.
            agent_present: Tells whether the agent's connection still stands.
            connection: What it is asked about.
        """
        intake, index = self._intake, self._exchanges
        exchange = Exchange(
            self, request, index, agent_present, connection, intake, self._timings
        )
        self._exchanges = index + 1
        running = self._running
        # Agents ask for one thing after the other, so hardly ever do two run.
        self._running = (*running, exchange) if running else (exchange,)
        if self._outcome is not None:
            self._leaving.add(self)
        if intake is not None:
            intake.begin(self.ref.sampled, exchange)
        return exchange

    def exchange_ended(self, exchange: object, at: int) -> None:
        """Let go of an exchange that has ended, and has handed over its record.

        Args:
            exchange: The exchange.
            at: When, in ``perf_counter_ns``.
        """
        if len(self._running) > 1:
            self._running = tuple(one for one in self._running if one is not exchange)
            return
        self._running = ()
        self._idle_since_ns = at
        if self._outcome is not None:
            self._leaving.discard(self)

    def end_exchanges(self) -> None:
        """End the exchanges that still run. For `RolloutRegistry.end_exchanges`."""
        for exchange in self._running:
            exchange.handler_cancelled()
            exchange.finish()

    def record_failure(
        self, failure: Failure, error: type[RolloutError], *, stopped: bool
    ) -> None:
        """Count a failure, and set the error if it is the first one that counts.

        Args:
            failure: What happened.
            error: The class that the state gets.
            stopped: Whether the rollout had stopped cleanly before it happened.
        """
        if stopped:
            return
        self._failures += 1
        if self._error is not None or self._outcome is not None:
            return
        self._error = error(failure)
        if self.state is None or _is_set(self.state, "error"):
            return
        try:
            self.state["error"] = self._error
        except Exception:  # noqa: BLE001 - a host's mapping may refuse; traffic goes on
            _logger.warning("the state of a rollout refused its error")

    def emit(self, record: Record, *, begun: bool) -> None:
        """Hand a record to telemetry, and count it as begun unless it was."""
        if self._intake is not None:
            if not begun:
                self._intake.begin(self.ref.sampled)
            self._intake.put(record)

    def close(
        self,
        outcome: RolloutOutcome | None,
        *,
        unless_failed: RolloutOutcome | None = None,
    ) -> None:
        """End it. For `RolloutRegistry.close`. Idempotent."""
        if self._outcome is not None:
            return
        for exchange in self._running:
            exchange.rollout_closes()
        held = _held_error(self.state)
        if held is not None and self._error is None:
            # Nobody reported it, but the host fails the rollout for it.
            self.fail(held, phase=Phase.LATE)
        self._outcome = outcome or self._earned(unless_failed)
        if self._running:
            self._leaving.add(self)
        took_ns = time.perf_counter_ns() - self._opened_ns
        ended = RolloutEnded(
            self.ref,
            # The clock may have been set back since.
            max(time.time_ns(), self.ref.start_ns + took_ns),
            self._outcome,
            self._exchanges,
            self._failures,
            None if self._error is None else self._error.failure,
        )
        self.emit(ended, begun=True)
        if self._closed_callback is not None:
            self._closed_callback(self)

    def on_close(self, callback: "Callable[[Rollout], None]") -> None:
        """Have a callback called with it at its end. For who opened it: there is one.

        One that holds the rollout would make a cycle, for the garbage collector to
        find: it is given the rollout instead.
        """
        self._closed_callback = callback

    def _hear_upstream(self) -> None:
        for exchange in self._running:
            exchange.hear_upstream()

    def _earned(self, unless_failed: RolloutOutcome | None) -> RolloutOutcome:
        if self._error is not None or _is_set(self.state, "error"):
            return RolloutOutcome.FAILED
        if unless_failed is not None:
            return unless_failed
        return RolloutOutcome.STOPPED if self.stopped else RolloutOutcome.COMPLETED


def _held_error(state: Mapping[str, object] | None) -> BaseException | None:
    try:
        held = None if state is None else state.get("error")
    except Exception:  # noqa: BLE001 - as below
        return None
    return held if isinstance(held, BaseException) else None


def _is_set(state: Mapping[str, object] | None, key: str) -> bool:
    if state is None:
        return False
    try:
        return bool(state.get(key))
    except Exception:  # noqa: BLE001 - a host's mapping may misbehave; traffic goes on
        return False
