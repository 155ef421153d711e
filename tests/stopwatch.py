"""Measure how long something takes on a machine that may stand still meanwhile."""

import threading
from types import TracebackType
from typing import Final, Self

_TICK_S: Final = 0.01


class Stopwatch:
    """Counts the pauses that another thread of this process makes during a block.

    A machine that is busy, or stands still, holds up that thread as well, so that what
    the block itself has waited for remains.
    """

    def __init__(self) -> None:
        self._ticks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._count, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def took_s(self) -> float:
        """Seconds that the block took, at least; not more than a clock says."""
        return self._ticks * _TICK_S

    def _count(self) -> None:
        while not self._stop.wait(_TICK_S):
            self._ticks += 1
