"""Keep the rollouts that are open in this process, by id."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, MutableMapping
from contextlib import asynccontextmanager
from typing import Final

from opentelemetry.trace import SpanContext

from otel_intercept.attributes import accept_attributes
from otel_intercept.errors import ConfigurationError, RolloutExistsError
from otel_intercept.ids import new_span_id, new_trace_id
from otel_intercept.record import ExchangeRejected, RolloutRef, RolloutStarted
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Dialect, Phase, RolloutOutcome
from otel_intercept.telemetry import Telemetry
from otel_intercept.trace_context import TraceParent, parse_trace_id, parse_traceparent
from otel_intercept.turns import note_loop

MAX_ID_LENGTH: Final = 256


class RolloutRegistry:
    """The open rollouts of one process, by id.

    Confined to the event loop's thread. At the shutdown of its telemetry it ends what
    is still open as ``aborted``.
    """

    __slots__ = ("__weakref__", "_leaving", "_rollouts", "telemetry")

    def __init__(self, telemetry: Telemetry) -> None:
        self.telemetry = telemetry
        self._rollouts: dict[str, Rollout] = {}
        self._leaving: set[Rollout] = set()
        telemetry.add_shutdown_callback(self.close_all)

    def __len__(self) -> int:
        """Return how many rollouts are open."""
        return len(self._rollouts)

    def open(
        self,
        rollout_id: str,
        *,
        state: MutableMapping[str, object] | None = None,
        attributes: Mapping[str, object] | None = None,
        trace_id: str | None = None,
        parent: str | SpanContext | None = None,
        previous: str | SpanContext | None = None,
    ) -> Rollout:
        """Open a rollout; its trace can be seen in any backend at once.

        Args:
            rollout_id: 1 to 256 characters; stands on every span.
            state: The training loop's mapping; ``state["error"]`` is set on failure.
            attributes: Own attributes of the root span: keys of lower-case letters,
                digits, ``.`` and ``_``, outside the namespaces ``error``,
                ``exception``, ``http``, ``intercept``, ``otel`` and ``url``; values of
                str, bool, int or float. What is neither is left out, and a warning says
                how many.
            trace_id: 32 hex digits to use as the trace id, such as a trajectory id.
            parent: The ``traceparent``, or span context, of what started the rollout;
                the rollout joins its trace and its sampling.
            previous: The ``traceparent`` of the attempt that this one repeats. Each
                attempt keeps a trace of its own, and its root links to the one before.

        Raises:
            RolloutExistsError: A rollout with this id is open.
            ConfigurationError: The id, trace id, parent or previous attempt is
                malformed, or trace id and parent contradict each other.
        """
        _check_rollout_id(rollout_id)
        if rollout_id in self._rollouts:
            raise RolloutExistsError(
                "a rollout with this id is open: close it first, or use another id"
            )
        telemetry = self.telemetry
        joined = _parse(parent, "parent")
        repeated = _parse(previous, "previous")
        own_trace_id = _choose_trace_id(trace_id, joined)
        sampled = joined.sampled if joined else telemetry.sample(own_trace_id)
        ref = RolloutRef(
            rollout_id=rollout_id,
            trace_id=own_trace_id,
            span_id=new_span_id(),
            parent_span_id=joined.span_id if joined else None,
            sampled=sampled,
            start_ns=time.time_ns(),
            attributes=accept_attributes(telemetry, attributes),
            previous=(repeated.trace_id, repeated.span_id) if repeated else None,
        )
        rollout = Rollout(telemetry, ref, state, self._leaving)
        self._rollouts[rollout_id] = rollout
        note_loop()
        telemetry.begin(sampled)
        rollout.emit(RolloutStarted(ref, new_span_id()), begun=False)
        return rollout

    def get(self, rollout_id: str) -> Rollout | None:
        """Return the open rollout with this id, or None."""
        return self._rollouts.get(rollout_id)

    def close(
        self,
        rollout_id: str,
        *,
        outcome: RolloutOutcome | None = None,
        unless_failed: RolloutOutcome | None = None,
    ) -> Rollout | None:
        """End a rollout. Idempotent.

        Exchanges that still run end by themselves, in the same trace.

        Args:
            rollout_id: Which one.
            outcome: How it ended; by default ``failed`` if it has an error, else
                ``stopped`` or ``completed``.
            unless_failed: How it ended if no failure shows that it failed.

        Returns:
            The rollout, or None if none is open under this id.
        """
        rollout = self._rollouts.pop(rollout_id, None)
        if rollout is not None:
            rollout.close(outcome, unless_failed=unless_failed)
        return rollout

    @asynccontextmanager
    async def rollout(
        self,
        rollout_id: str,
        *,
        state: MutableMapping[str, object] | None = None,
        attributes: Mapping[str, object] | None = None,
        trace_id: str | None = None,
        parent: str | SpanContext | None = None,
        previous: str | SpanContext | None = None,
    ) -> AsyncIterator[Rollout]:
        """Open a rollout for the length of a block, and close it as the block earned.

        Takes and raises what `open` does. What the block raises is recorded as a
        failure, or as ``cancelled`` if it is a cancellation, and re-raised unchanged.
        """
        rollout = self.open(
            rollout_id,
            state=state,
            attributes=attributes,
            trace_id=trace_id,
            parent=parent,
            previous=previous,
        )
        outcome: RolloutOutcome | None = RolloutOutcome.ABORTED
        try:
            yield rollout
            outcome = None
        except asyncio.CancelledError:
            outcome = RolloutOutcome.CANCELLED
            raise
        except Exception as exc:
            rollout.fail(exc, phase=Phase.HANDLER)
            outcome = RolloutOutcome.FAILED
            raise
        finally:
            if self._rollouts.get(rollout_id) is rollout:
                self.close(rollout_id, outcome=outcome)

    def close_all(self, outcome: RolloutOutcome = RolloutOutcome.ABORTED) -> None:
        """End every rollout and every exchange that is still open. Idempotent."""
        self.end_exchanges()
        for rollout_id in list(self._rollouts):
            self.close(rollout_id, outcome=outcome)

    def end_exchanges(self) -> None:
        """End the exchanges that still run, as when their server has stopped."""
        for rollout in [*self._rollouts.values(), *self._leaving]:
            rollout.end_exchanges()

    def reject(self, dialect: Dialect) -> None:
        """Count a request for a rollout that is not open. It makes no span."""
        self.telemetry.put(ExchangeRejected(dialect))


def is_rollout_id(given: object) -> bool:
    """Whether a rollout can have this id."""
    return isinstance(given, str) and 0 < len(given) <= MAX_ID_LENGTH


def _check_rollout_id(rollout_id: object) -> None:
    if not is_rollout_id(rollout_id):
        raise ConfigurationError(
            f"a rollout id must be a string of 1 to {MAX_ID_LENGTH} characters"
        )


def _parse(given: str | SpanContext | None, name: str) -> TraceParent | None:
    return None if given is None else parse_traceparent(given, name)


def _choose_trace_id(trace_id: str | None, joined: TraceParent | None) -> int:
    own = parse_trace_id(trace_id) if trace_id is not None else None
    if joined is None:
        return own if own is not None else new_trace_id()
    if own is not None and own != joined.trace_id:
        raise ConfigurationError(
            "trace_id and parent name different traces: give one of them"
        )
    return joined.trace_id
