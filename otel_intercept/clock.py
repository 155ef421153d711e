"""Tell times of one exchange: monotonic in between, Unix time at the outside."""

import time


class Clock:
    """What an exchange knows of time.

    The slots here and in the classes between this one and `Exchange` are filled in one
    go by `Exchange`: an object for each job would cost more than the job.
    """

    __slots__ = ("_epoch_ns", "_start_ns")

    _epoch_ns: int
    """What to add to a ``time.perf_counter_ns()`` for Unix nanoseconds."""

    _start_ns: int
    """The start in Unix nanoseconds."""

    def _now_ns(self) -> int:
        """Return the current time in Unix nanoseconds, never before the start."""
        return self._epoch_ns + time.perf_counter_ns()

    def _moment_of(self, at_ns: int) -> int:
        """Return Unix nanoseconds as a ``time.perf_counter_ns()``."""
        return at_ns - self._epoch_ns
