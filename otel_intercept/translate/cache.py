"""A bounded cache that costs one dictionary look-up where it knows the answer."""

from collections.abc import Callable
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(dict[K, V]):
    """Remembers what a function returned: ``cache[key]``.

    Starts anew when it is full, which is cheaper than keeping an order of use. Equal
    keys share a value. What the function raises is raised, and not remembered. Several
    threads may use it; at worst, a value is made twice.

    Args:
        make: The function.
        size: How many values are kept at most.
    """

    def __init__(self, make: Callable[[K], V], size: int) -> None:
        super().__init__()
        self._make = make
        self._size = size

    def __missing__(self, key: K) -> V:
        value = self._make(key)
        if len(self) >= self._size:
            self.clear()
        self[key] = value
        return value
