"""Open rollouts by their first request, and close them when idle too long."""

import asyncio
import logging
import math
import time
from collections.abc import Mapping
from typing import Final

from otel_intercept.errors import ConfigurationError
from otel_intercept.registry import RolloutRegistry
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import RolloutOutcome

MAX_OPEN: Final = 16_384
_NS_PER_S: Final = 1_000_000_000
"""Open rollouts beyond which a request opens none: an agent may invent ids.

Twice the largest number of rollouts that one job is known to keep in flight.
"""

_logger: Final = logging.getLogger("otel_intercept.idle")


class IdleRollouts:
    """Rollouts that end by themselves: nobody has to close them, but anybody may.

    A rollout that someone else has opened in the registry is used and left alone.
    Confined to the event loop's thread.

    Args:
        registry: Where the rollouts are open.
        idle_close_s: Seconds without a running exchange after which one is closed as
            ``abandoned``.
        max_open: How many may be open for `ensure` to open another.

    Raises:
        ConfigurationError: ``idle_close_s`` is not a finite number above 0.
    """

    def __init__(
        self,
        registry: RolloutRegistry,
        idle_close_s: float,
        *,
        max_open: int = MAX_OPEN,
    ) -> None:
        if not 0 < idle_close_s < math.inf:
            raise ConfigurationError("idle_close_s must be a number of seconds above 0")
        self.registry = registry
        self.idle_close_s = idle_close_s
        self._max_open = max_open
        self._timers: dict[Rollout, asyncio.TimerHandle] = {}
        self._has_warned = False

    def open(
        self,
        rollout_id: str,
        *,
        attributes: Mapping[str, object] | None = None,
        trace_id: str | None = None,
        parent: str | None = None,
    ) -> Rollout:
        """Open a rollout, however many are open.

        Raises:
            RolloutExistsError: It is open.
            ConfigurationError: The id, trace id or parent is malformed.
        """
        rollout = self.registry.open(
            rollout_id, attributes=attributes, trace_id=trace_id, parent=parent
        )
        self._arm(rollout, self.idle_close_s)
        rollout.on_close(self._forget)
        return rollout

    def ensure(self, rollout_id: str) -> Rollout | None:
        """Return the open rollout with this id, opened now if need be.

        Returns:
            None if the id is malformed, or if too many rollouts are open already.
        """
        rollout = self.registry.get(rollout_id)
        if rollout is not None:
            return rollout
        if len(self._timers) >= self._max_open:
            self._warn()
            return None
        try:
            return self.open(rollout_id)
        except ConfigurationError:
            return None

    def close_all(self) -> None:
        """End all rollouts that were opened here, as aborted. Idempotent."""
        for rollout in list(self._timers):
            self.registry.close(rollout.rollout_id, outcome=RolloutOutcome.ABORTED)

    def _arm(self, rollout: Rollout, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._timers[rollout] = loop.call_later(delay_s, self._check, rollout)

    def _check(self, rollout: Rollout) -> None:
        # A running exchange ends after now, so it cannot be too long ago next time.
        since_ns = rollout.idle_since_ns
        idle_ns = 0 if since_ns is None else time.perf_counter_ns() - since_ns
        idle_s = idle_ns / _NS_PER_S
        if idle_s < self.idle_close_s:
            self._arm(rollout, self.idle_close_s - idle_s)
            return
        self.registry.close(rollout.rollout_id, outcome=RolloutOutcome.ABANDONED)

    def _forget(self, rollout: Rollout) -> None:
        self._timers.pop(rollout).cancel()

    def _warn(self) -> None:
        if not self._has_warned:
            self._has_warned = True
            _logger.warning(
                "%d rollouts are open by their first request: requests of further ids "
                "are not observed, and count as rejected",
                self._max_open,
            )
