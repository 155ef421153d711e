"""Tell whether the machine stood still while something was timed."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Final, Self

_TICK_S: Final = 0.05


class Lateness:
    """Watches how late the event loop is during an ``async with`` block.

    A machine that is too busy, or a process that is stopped, makes it late. What a
    deadline or a pause has come to meanwhile says nothing.
    """

    def __init__(self) -> None:
        self._due = 0.0
        self._worst_s = 0.0
        self._ticking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._due = time.monotonic() + _TICK_S
        self._ticking = asyncio.create_task(self._tick())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._look()
        if self._ticking is not None:
            self._ticking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._ticking

    @property
    def worst_s(self) -> float:
        """Seconds that the loop was late at worst, when the block has ended."""
        return self._worst_s

    def _look(self) -> None:
        self._worst_s = max(self._worst_s, time.monotonic() - self._due)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self._look()
            self._due = time.monotonic() + _TICK_S
