"""Hold what exchanges without a span have measured, on its way to the metrics.

Of an exchange of an unsampled rollout that went well nobody will ask more than how long
it took, so it makes no record.
"""

from typing import Final, TypeAlias

from otel_intercept.record import Attributes, RequestFacts
from otel_intercept.semconv import Dialect

MAX_KINDS: Final = 64
"""Kinds that are held at a time: a model's name may be any text."""

Timing: TypeAlias = tuple[int, int | None, Attributes]
"""How long an exchange took and its upstream call, in nanoseconds, and what the answer
says. None without such a call; one that failed, or a second one, makes a record."""

Kind: TypeAlias = tuple[Dialect, RequestFacts]
"""All that the labels depend on of exchanges that went well and were no stream."""


class Timings:
    """What waits to be measured. Nothing takes a lock.

    One thread adds, another takes: the lists grow at their end only, and only one
    without an entry leaves the dictionary, by who adds.

    Args:
        most: How many may wait.
    """

    __slots__ = ("_added", "_most", "_of_kind", "_taken")

    def __init__(self, most: int) -> None:
        self._added = 0
        self._most = most
        self._of_kind: dict[Kind, list[Timing]] = {}
        self._taken = 0

    def __len__(self) -> int:
        # What is taken last cannot be more than was added.
        taken = self._taken
        return self._added - taken

    def add(self, dialect: Dialect, asked: RequestFacts, timing: Timing) -> bool:
        """Add one, unless so many or too many kinds wait; tell whether it was added.

        O(1), but for a new kind.
        """
        if self._added - self._taken >= self._most:
            return False
        kind = dialect, asked
        try:
            self._of_kind[kind].append(timing)
        except KeyError:
            if not self._has_place():
                return False
            self._of_kind[kind] = [timing]
        self._added += 1
        return True

    def take(self, limit: int) -> tuple[Kind, list[Timing]] | None:
        """Remove and return at most so many of one kind, oldest first; None if none."""
        # Of a copy, which is made in one piece: the other thread may add a kind.
        for kind, waiting in self._of_kind.copy().items():
            if waiting:
                taken = waiting[:limit]
                # What came in between stays.
                del waiting[: len(taken)]
                self._taken += len(taken)
                return kind, taken
        return None

    def close(self) -> None:
        """Add no more."""
        self._most = 0

    def _has_place(self) -> bool:
        if len(self._of_kind) < MAX_KINDS:
            return True
        for kind in [kind for kind, waiting in self._of_kind.items() if not waiting]:
            del self._of_kind[kind]
        return len(self._of_kind) < MAX_KINDS
