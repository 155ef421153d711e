"""Read the state of a legacy rollout, and never write to it."""

import re
from collections.abc import Iterator, Mapping, MutableMapping
from typing import Final

from otel_intercept.semconv import RolloutOutcome

_TRACE_ID: Final = re.compile(r"(?!0{32})[0-9a-f]{32}")


class SeenState(MutableMapping[str, object]):
    """Their state as our rollout sees it: what we would write on it goes nowhere.

    Args:
        state: Theirs, which may change at any time.
    """

    def __init__(self, state: Mapping[str, object]) -> None:
        self._state = state

    def __getitem__(self, key: str) -> object:
        return self._state[key]

    def __setitem__(self, key: str, value: object) -> None:
        """Write nothing: their own rules decide what stands on their state."""

    def __delitem__(self, key: str) -> None:
        """Delete nothing."""

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)


def trace_id_of(state: object) -> str | None:
    """Return the trajectory's id if it can be a trace id."""
    given = _read(state, "trajectory_id")
    return given if isinstance(given, str) and _TRACE_ID.fullmatch(given) else None


def outcome_unless_failed(state: object) -> RolloutOutcome | None:
    """Return how a rollout without a failure ended, or None for the usual way.

    Their loop says of itself when it ran out of time, and is not through when it was
    cancelled from outside.
    """
    if _read(state, "timed_out") or _read(state, "is_completed") is False:
        return RolloutOutcome.CANCELLED
    return None


def _read(state: object, key: str) -> object:
    return state.get(key) if isinstance(state, Mapping) else None
