"""Let the event loop have the interpreter lock during a long piece of work."""

import asyncio
import time
from typing import Final

_STEPS: Final = 32
_NAP_S: Final = 0.0002
"""Long enough for the event loop to take the interpreter lock."""


class Naps:
    """Sleeps for a moment after so many steps, unless a loop runs in this thread.

    One for each piece of work; of one thread.
    """

    def __init__(self) -> None:
        self._left = _STEPS
        self._asleep = not _has_running_loop()

    def step(self) -> None:
        """Count a step of some microseconds."""
        self._left -= 1
        if not self._left:
            self._left = _STEPS
            if self._asleep:
                time.sleep(_NAP_S)


def _has_running_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
