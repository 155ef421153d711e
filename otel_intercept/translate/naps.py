"""Let the event loop have the interpreter lock during a long piece of work."""

import asyncio
import time
from typing import Final

_BUSY_S: Final = 0.001
"""How late the event loop may be at most, about, because somebody else works."""

_NAP_S: Final = 0.0002
"""Long enough for the event loop to take the interpreter lock."""


class Naps:
    """Sleeps for a moment after each millisecond, unless a loop runs in this thread.

    By the clock, since each nap makes two threads change places, which costs more than
    what a short step does. One for each piece of work; of one thread.
    """

    def __init__(self) -> None:
        self._until_s = time.monotonic() + _BUSY_S

    def step(self) -> None:
        """Be at the end of a step that takes a fraction of a millisecond."""
        if time.monotonic() >= self._until_s and not _has_running_loop():
            time.sleep(_NAP_S)
            self._until_s = time.monotonic() + _BUSY_S


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
