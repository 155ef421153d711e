"""Let the event loop have the interpreter lock during a long piece of work."""

import asyncio
import time
from typing import Final

from otel_intercept.turns import nap

_BUSY_S: Final = 0.001
"""How late the event loop may be at most, about, because somebody else works."""


class Naps:
    """Sleeps for a moment within each millisecond, unless a loop runs in this thread.

    By the clock, since each nap makes two threads change places, which costs more than
    what a short step does. One for each piece of work; of one thread.
    """

    def __init__(self) -> None:
        self._stepped_s = time.monotonic()
        self._until_s = self._stepped_s + _BUSY_S

    def step(self) -> None:
        """Be at the end of a step that takes a fraction of a millisecond.

        The nap comes before a step that would end too late, if it takes as long as
        this one did.
        """
        now_s = time.monotonic()
        took_s, self._stepped_s = now_s - self._stepped_s, now_s
        if now_s + took_s >= self._until_s and not _has_running_loop():
            nap()
            self._stepped_s = time.monotonic()
            self._until_s = self._stepped_s + _BUSY_S


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
