"""Let each distinct problem be logged once a minute, however often it happens."""

import logging
import threading
import time
from collections.abc import Hashable
from typing import Final

REPEAT_AFTER_S: Final = 60.0


class RepeatLimit:
    """Lets each problem through once per interval. May be used by several threads.

    Args:
        interval_s: Seconds before the same problem passes again.
    """

    def __init__(self, interval_s: float = REPEAT_AFTER_S) -> None:
        self._interval_s = interval_s
        self._last: dict[Hashable, float] = {}
        self._lock = threading.Lock()

    def passes(self, problem: Hashable) -> bool:
        """Tell whether the problem may be logged now. The problems must be few."""
        now = time.monotonic()
        with self._lock:
            last = self._last.get(problem)
            if last is not None and now - last < self._interval_s:
                return False
            self._last[problem] = now
            return True


class Complaints:
    """Warnings of constant text, each once a minute.

    Args:
        logger: Where they go.
    """

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._limit = RepeatLimit()

    def warn(self, text: str) -> None:
        """Log a constant text as a warning, unless it was logged a moment ago."""
        if self._limit.passes(text):
            self._logger.warning(text)
