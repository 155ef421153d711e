"""The relay's rollouts: opened by their first request, closed when idle too long."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from otel_intercept.registry import RolloutRegistry
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import RolloutOutcome


@dataclass(slots=True)
class _Entry:
    """A rollout that the relay has opened."""

    rollout: Rollout
    active_at: float
    running: int = 0
    timer: asyncio.TimerHandle | None = None


class RelayRollouts:
    """The rollouts that the relay has opened, with what runs in them.

    A rollout that someone else has opened in the registry is used and left alone.
    Confined to the event loop's thread.

    Args:
        registry: Where the rollouts are open.
        idle_close_s: Seconds without a running exchange after which one is abandoned.
    """

    def __init__(self, registry: RolloutRegistry, idle_close_s: float) -> None:
        self.registry = registry
        self._idle_close_s = idle_close_s
        self._entries: dict[str, _Entry] = {}

    def open(
        self,
        rollout_id: str,
        *,
        attributes: Mapping[str, object] | None = None,
        trace_id: str | None = None,
        parent: str | None = None,
    ) -> Rollout:
        """Open a rollout.

        Raises:
            RolloutExistsError: It is open.
            ConfigurationError: The id, trace id or parent is malformed.
        """
        rollout = self.registry.open(
            rollout_id, attributes=attributes, trace_id=trace_id, parent=parent
        )
        self._forget(rollout_id)
        entry = _Entry(rollout, asyncio.get_running_loop().time())
        self._entries[rollout_id] = entry
        self._arm(rollout_id, entry, self._idle_close_s)
        return rollout

    def ensure(self, rollout_id: str) -> None:
        """Open a rollout unless it is open.

        Raises:
            ConfigurationError: The id is malformed.
        """
        if self.registry.get(rollout_id) is None:
            self.open(rollout_id)

    def running(self, rollout_id: str) -> int:
        """Count the exchanges of a rollout that the relay is serving."""
        entry = self._entries.get(rollout_id)
        return 0 if entry is None else entry.running

    @contextmanager
    def busy(self, rollout_id: str) -> Iterator[None]:
        """Keep a rollout from being abandoned for the length of a block."""
        entry = self._entries.get(rollout_id)
        if entry is None:
            yield
            return
        entry.running += 1
        try:
            yield
        finally:
            entry.running -= 1
            entry.active_at = asyncio.get_running_loop().time()
            if entry.timer is None and self._entries.get(rollout_id) is entry:
                self._arm(rollout_id, entry, self._idle_close_s)

    def close(
        self, rollout_id: str, outcome: RolloutOutcome | None = None
    ) -> Rollout | None:
        """End a rollout, not the exchanges that run; None if it is not open."""
        self._forget(rollout_id)
        return self.registry.close(rollout_id, outcome=outcome)

    def close_all(self) -> None:
        """End all rollouts that the relay has opened, as aborted."""
        for rollout_id, entry in list(self._entries.items()):
            self._end(rollout_id, entry, RolloutOutcome.ABORTED)

    def _arm(self, rollout_id: str, entry: _Entry, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        entry.timer = loop.call_later(delay_s, self._check, rollout_id, entry)

    def _check(self, rollout_id: str, entry: _Entry) -> None:
        entry.timer = None
        if entry.running:
            # The end of the exchange sets the next timer.
            return
        idle_s = asyncio.get_running_loop().time() - entry.active_at
        if idle_s < self._idle_close_s:
            self._arm(rollout_id, entry, self._idle_close_s - idle_s)
            return
        self._end(rollout_id, entry, RolloutOutcome.ABANDONED)

    def _end(self, rollout_id: str, entry: _Entry, outcome: RolloutOutcome) -> None:
        self._forget(rollout_id)
        # It may have been closed in the registry, and its id opened anew.
        if self.registry.get(rollout_id) is entry.rollout:
            self.registry.close(rollout_id, outcome=outcome)

    def _forget(self, rollout_id: str) -> None:
        entry = self._entries.pop(rollout_id, None)
        if entry is not None and entry.timer is not None:
            entry.timer.cancel()
