"""A bounded cache in which what it knows is found by one look-up in a dictionary."""

from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Remembers what a function returned: ``cache[key]``.

    Starts anew when it is full, which is cheaper than keeping an order of use. Equal
    keys share a value. What the function raises is raised, and not remembered. Several
    threads may use it; at worst, a value is made twice.

    Not a dictionary of its own class: such a one takes three times as long to look up.

    Args:
        make: The function; never returns None.
        size: How many values are kept at most.

    Attributes:
        known: What is remembered. Where every instruction counts, this is asked first,
            by its ``get``.
    """

    __slots__ = ("_make", "_size", "known")

    def __init__(self, make: Callable[[K], V], size: int) -> None:
        self.known: dict[K, V] = {}
        self._make = make
        self._size = size

    def __getitem__(self, key: K) -> V:
        """Return the value of a key, which is made if it is not known."""
        value = self.known.get(key)
        if value is None:
            value = self._make(key)
            if len(self.known) >= self._size:
                self.known.clear()
            self.known[key] = value
        return value
