"""Open and close a rollout for each session that a v1 server registers."""

import asyncio
import logging
import weakref
from typing import Final, NamedTuple

from otel_intercept.errors import ConfigurationError
from otel_intercept.instrumentation.verifiers import attempts
from otel_intercept.instrumentation.verifiers.host import Host, Served
from otel_intercept.instrumentation.verifiers.v1_shapes import (
    errors_of,
    stop_condition_of,
    trace_id_of,
    trace_of,
)
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Phase, RolloutOutcome
from otel_intercept.shield import shielded
from otel_intercept.trace_context import parse_trace_id

MAX_ROOTS: Final = 4096
"""Traces whose root is remembered, so that whoever registers one again joins it."""

_ENDED_BY_ITSELF: Final = frozenset({"agent_completed", "user_closed"})
"""Stop conditions of a rollout that ran to its end."""

_logger: Final = logging.getLogger("otel_intercept.instrumentation")


class _Registered(NamedTuple):
    session: object
    rollout: Rollout


class SessionRollouts:
    """The rollouts of the sessions of all servers.

    A rollout's id and trace id are its ``Trace.id``. Where that trace is registered
    again, by another member of a pool or to go on after a pause, it joins the trace
    below its first root; a second time at the same server at once, it is the same
    rollout. Sessions are found by the secret that routes their requests, which stays
    here. Nothing raises.

    Args:
        host: The instrumented process.
    """

    def __init__(self, host: Host) -> None:
        self._host = host
        self._servers: weakref.WeakKeyDictionary[object, dict[str, _Registered]] = (
            weakref.WeakKeyDictionary()
        )
        self._by_trace: dict[str, Rollout] = {}
        self._told = False
        self._roots: dict[str, str] = {}

    @shielded
    def register(self, server: object, secret: str, session: object) -> None:
        """Open the rollout of a session."""
        served = self._host.served(server)
        trace_id = trace_id_of(trace_of(session))
        rollout = served.registry.get(trace_id)
        if rollout is None:
            rollout = self._open(served, trace_id)
            attempts.began(rollout)
        self._by_trace[rollout.rollout_id] = rollout
        registered = self._servers.setdefault(server, {})
        registered[secret] = _Registered(session, rollout)

    def find(self, server: object, secret: str, session: object) -> Rollout | None:
        """Return the rollout of a session; it is opened if nobody saw it registered."""
        known = self._servers.get(server, {}).get(secret)
        if known is None:
            self._tell_of_late_start()
            self.register(server, secret, session)
            known = self._servers.get(server, {}).get(secret)
        return None if known is None else known.rollout

    @shielded
    def unregister(self, server: object, secret: str) -> None:
        """Close the rollout of a session, as its trace says that it ended."""
        registered = self._servers.get(server, {})
        known = registered.pop(secret, None)
        if known is None or any(
            other.rollout is known.rollout for other in registered.values()
        ):
            return
        rollout, trace = known.rollout, trace_of(known.session)
        note_stop(rollout, known.session)
        outcome = None if rollout.error else _outcome_of(trace)
        self._host.served(server).registry.close(rollout.rollout_id, outcome=outcome)
        self._forget(rollout)

    @shielded
    def stopped(self, server: object) -> None:
        """Abort what a server that has stopped never unregistered."""
        for known in self._servers.pop(server, {}).values():
            self._forget(known.rollout)
        self._host.served(server).registry.close_all()

    @shielded
    def record_error(self, trace: object, error: BaseException) -> None:
        """Fail the rollout of a trace that records an error, unless it has failed.

        What verifiers records at the end is mostly the failure of an exchange again,
        or what that led to.
        """
        rollout = self._by_trace.get(trace_id_of(trace))
        if rollout is not None and rollout.error is None:
            rollout.fail(error, phase=Phase.HANDLER)

    def _open(self, served: Served, trace_id: str) -> Rollout:
        root = self._roots.get(trace_id)
        rollout = served.registry.open(
            trace_id,
            trace_id=trace_id if _is_trace_id(trace_id) else None,
            parent=root,
            previous=attempts.previous() if root is None else None,
        )
        if root is None:
            self._roots[trace_id] = rollout.traceparent
            if len(self._roots) > MAX_ROOTS:
                del self._roots[next(iter(self._roots))]
        return rollout

    def _tell_of_late_start(self) -> None:
        if not self._told:
            self._told = True
            _logger.warning(
                "rollouts that were registered before instrumentation are observed "
                "from their next request on"
            )

    def _forget(self, rollout: Rollout) -> None:
        if self._by_trace.get(rollout.rollout_id) is rollout:
            del self._by_trace[rollout.rollout_id]


@shielded
def note_stop(rollout: Rollout, session: object) -> None:
    """Stop the rollout if its trace has stopped by a limit, a ``@stop`` or a deadline.

    Not by an error, whose condition is not always told apart by its name.
    """
    trace = trace_of(session)
    condition = stop_condition_of(trace)
    if condition is None or condition in _ENDED_BY_ITSELF or errors_of(trace):
        return
    if not rollout.stopped:
        rollout.stop(condition)


def _outcome_of(trace: object) -> RolloutOutcome | None:
    if errors_of(trace):
        return RolloutOutcome.FAILED
    return RolloutOutcome.CANCELLED if _is_being_cancelled() else None


def _is_being_cancelled() -> bool:
    # A cancelled rollout unregisters on its way out, in the task that is cancelled.
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False
    return task is not None and task.cancelling() > 0


def _is_trace_id(trace_id: str) -> bool:
    try:
        parse_trace_id(trace_id)
    except ConfigurationError:
        return False
    return True
