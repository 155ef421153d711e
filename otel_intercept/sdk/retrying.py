"""Repeat an export as OTLP says, until it is taken, refused, or out of time."""

import logging
import secrets
import threading
import time
from collections.abc import Callable
from typing import Final, Literal, NamedTuple, TypeAlias

from otel_intercept.translate.bounded import seconds_until
from otel_intercept.translate.complaints import RepeatLimit

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 5.0
# Not the global one, which training code seeds.
_RANDOM: Final = secrets.SystemRandom()

_logger: Final = logging.getLogger("otel_intercept.sdk")


Content: TypeAlias = Literal["spans", "metrics"]


class Attempt(NamedTuple):
    """What came of sending a request once.

    Args:
        taken: Whether the collector took all of it.
        facts: Why not, in words of closed sets, for the log.
        again: Whether the same request may be taken later.
        after_s: Seconds that the collector asks to wait before, or None.
    """

    taken: bool
    facts: str = ""
    again: bool = False
    after_s: float | None = None


class Retries:
    """Sends requests, each again and again for a bounded time.

    The pauses grow from about 0.1 to about 5 seconds, unless the collector says how
    long; one that would last beyond the time that is left ends the attempts. Each
    distinct reason is logged once a minute. May be used by several threads.

    Args:
        timeout_s: Seconds that one request may take with its repetitions.
        what: What is in a request, for the log.
    """

    def __init__(self, timeout_s: float, what: Content = "spans") -> None:
        self._timeout_s = timeout_s
        self._what = what
        self._limit = RepeatLimit()
        self._stopped = threading.Event()

    def send(self, attempt: Callable[[float], Attempt]) -> bool:
        """Make attempts until one is taken, and tell whether one was.

        Args:
            attempt: Sends the request once; is given the seconds that it may take.
        """
        deadline = time.monotonic() + self._timeout_s
        pause_s = _FIRST_PAUSE_S
        while not self._stopped.is_set():
            came = attempt(max(seconds_until(deadline), 0.001))
            if came.taken:
                return True
            wait_s = came.after_s
            if wait_s is None:
                wait_s = pause_s * _RANDOM.uniform(0.5, 1.5)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            if not came.again or wait_s >= seconds_until(deadline):
                self._warn("%s were not exported (%s)", came.facts)
                return False
            self._warn("%s are not exported yet (%s)", came.facts)
            self._stopped.wait(wait_s)
        return False

    def stop(self) -> None:
        """Wake who waits, and let nobody try again. Idempotent."""
        self._stopped.set()

    def _warn(self, message: str, facts: str) -> None:
        if self._limit.passes((message, facts)):
            _logger.warning(message, self._what, facts)
