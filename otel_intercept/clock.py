"""Tell times of one exchange: monotonic in between, Unix time at the outside."""

import time


class Clock:
    """What an exchange knows of time.

    The slots here and in the classes between this one and `Exchange` are filled in one
    go by `Exchange`: an object for each job would cost more than the job.
    """

    __slots__ = ("_start", "_start_ns")

    _start: int
    """``time.perf_counter_ns()`` at the start."""

    _start_ns: int
    """The start in Unix nanoseconds."""

    def _now_ns(self) -> int:
        """Return the current time in Unix nanoseconds, never before the start."""
        return self._start_ns + time.perf_counter_ns() - self._start

    def _at_ns(self, moment: int) -> int:
        """Return a ``time.perf_counter_ns()`` in Unix nanoseconds."""
        return self._start_ns + moment - self._start

    def _moment_of(self, at_ns: int) -> int:
        """Return Unix nanoseconds as a ``time.perf_counter_ns()``: undoes `_at_ns`."""
        return self._start + at_ns - self._start_ns
