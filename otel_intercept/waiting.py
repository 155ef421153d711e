"""A line, first in, first out, in which ordinary ones can be made to leave."""

from collections import deque
from itertools import repeat, starmap
from typing import Generic, TypeVar

T = TypeVar("T")


class Waiting(Generic[T]):
    """What waits, in the order in which it came. Nothing takes a lock.

    One thread adds and pushes out, another takes; any may ask for the length.
    """

    __slots__ = ("_added", "_ordinary", "_pushed_out", "_taken", "_urgent")

    def __init__(self) -> None:
        self._ordinary: deque[T] = deque()
        # With the number of ordinary ones that came before it.
        self._urgent: deque[tuple[int, T]] = deque()
        self._added = 0
        self._pushed_out = 0
        self._taken = 0

    def __len__(self) -> int:
        return len(self._ordinary) + len(self._urgent)

    def add(self, one: T, *, most: int) -> bool:
        """Add an ordinary one, unless so many wait; tell whether it was added."""
        if len(self._ordinary) + len(self._urgent) >= most:
            return False
        self._added += 1
        self._ordinary.append(one)
        return True

    def add_urgent(self, one: T) -> None:
        """Add one that cannot be pushed out."""
        self._urgent.append((self._added, one))

    def push_out(self) -> T | None:
        """Remove and return the oldest ordinary one; None if there is none."""
        try:
            oldest = self._ordinary.popleft()
        except IndexError:
            return None
        self._pushed_out += 1
        return oldest

    def take(self, limit: int) -> list[T]:
        """Remove and return at most so many, those that came first first."""
        taken: list[T] = []
        while len(taken) < limit:
            # Asked first: what is added from now on comes behind all of these.
            number = min(len(self._ordinary), limit - len(taken))
            if self._urgent:
                before, one = self._urgent[0]
                ahead = before - self._taken - self._pushed_out
                if ahead <= 0 or not self._ordinary:
                    self._urgent.popleft()
                    taken.append(one)
                    continue
                number = min(number, ahead)
            elif not number:
                break
            self._take_ordinary(number, taken)
        return taken

    def clear(self) -> None:
        """Remove all."""
        self._ordinary.clear()
        self._urgent.clear()

    def _take_ordinary(self, number: int, taken: list[T]) -> None:
        known = len(taken)
        try:
            # No bytecode runs for each.
            taken.extend(starmap(self._ordinary.popleft, repeat((), number)))
        except IndexError:
            # The other thread has pushed some of them out; those before are here.
            number = len(taken) - known
        self._taken += number
