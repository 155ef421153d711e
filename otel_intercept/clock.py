"""Tell times of one exchange: monotonic in between, Unix time at the outside."""

import time


class Clock:
    """Starts when it is made.

    Attributes:
        start: ``time.perf_counter_ns()`` at the start.
        start_ns: The start in Unix nanoseconds.
    """

    __slots__ = ("start", "start_ns")

    def __init__(self) -> None:
        self.start_ns = time.time_ns()
        self.start = time.perf_counter_ns()

    def now_ns(self) -> int:
        """Return the current time in Unix nanoseconds, never before the start."""
        return self.at_ns(time.perf_counter_ns())

    def at_ns(self, moment: int) -> int:
        """Return a ``time.perf_counter_ns()`` in Unix nanoseconds."""
        return self.start_ns + moment - self.start

    def moment_of(self, at_ns: int) -> int:
        """Return Unix nanoseconds as a ``time.perf_counter_ns()``: undoes `at_ns`."""
        return self.start + at_ns - self.start_ns
