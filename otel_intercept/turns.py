"""Take turns at the interpreter lock: our threads nap, and a busy loop pauses for them.

CPython takes the lock from a thread that has held it for 5 ms while another waits. But
the wait begins anew whenever the lock was free for an instant, as it is in each system
call: beside an event loop that reads and writes all the time a thread waits for up to a
second each time, and every such instant wakes it in vain, which makes the loop late.
"""

import asyncio
import time
import weakref
from typing import Final

_NAP_S: Final = 0.0002
"""Long enough for the event loop to take the lock."""

_STARVED_S: Final = 0.005
"""A nap that took so long has not got the lock back when it asked for it."""

_PAUSE_S: Final = 0.00005
"""Long enough for a thread that waits for the lock to take it."""

_FIRST_S: Final = 0.002
_LONGEST_S: Final = 0.016
"""Between two pauses: doubled each time, as long as no thread naps."""

_WANTED_S: Final = 1.0
"""A thread that has napped may need the lock for so long, for what it sends then."""

_BUSY: Final = 0.5
"""A loop whose thread works less of the time leaves the lock free often enough."""


class Pauses:
    """Has one event loop let go of the lock for a moment, now and then.

    Only while a thread of ours has to wait too long, and the loop is busy. ``want`` may
    be called in any thread; all else happens on the loop.

    Args:
        loop: The loop; not kept alive.

    Raises:
        TypeError: No weak reference to the loop can be made.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._running = False
        self._wanted_s = 0.0
        self._period_s = _FIRST_S
        self._looked_s = 0.0
        self._worked_s = 0.0
        self._needed = False

    def is_of(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Tell whether these are the pauses of that loop."""
        return self._loop() is loop

    @property
    def needed(self) -> bool:
        """Whether a thread has waited too long, beside a loop that has been busy since.

        Not once the loop is closed.
        """
        loop = self._loop()
        return self._needed and loop is not None and not loop.is_closed()

    def want(self) -> None:
        """Have the loop pause within the next second. Any number of times."""
        self._needed = True
        self._wanted_s = time.monotonic()
        self._period_s = _FIRST_S
        loop = self._loop()
        if self._running or loop is None:
            return
        self._running = True
        try:
            loop.call_soon_threadsafe(self._begin)
        except RuntimeError:
            # It is closed.
            self._running = False

    def stop(self) -> None:
        """End the pauses. Idempotent."""
        self._needed = False

    def _begin(self) -> None:
        self._look()
        self._pause()

    def _look(self) -> bool:
        looked_s, worked_s = self._looked_s, self._worked_s
        self._looked_s, self._worked_s = time.monotonic(), time.thread_time()
        passed_s = self._looked_s - looked_s
        return self._worked_s - worked_s >= passed_s * _BUSY

    def _again(self) -> None:
        if not self._look():
            self._needed = False
        if self._needed and self._looked_s - self._wanted_s < _WANTED_S:
            self._pause()
        else:
            self._running = False

    def _pause(self) -> None:
        loop = self._loop()
        if loop is None:
            return
        time.sleep(_PAUSE_S)
        loop.call_later(self._period_s, self._again)
        self._period_s = min(2 * self._period_s, _LONGEST_S)


class Turns:
    """Knows whose pauses to want: the lock is one for the whole process."""

    def __init__(self) -> None:
        self.pauses: Pauses | None = None


TURNS: Final = Turns()


def note_loop() -> None:
    """Note that the loop which runs here is watched; the last one noted counts.

    Nothing happens where none runs.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    pauses = TURNS.pauses
    if pauses is not None:
        if pauses.is_of(loop):
            return
        pauses.stop()
    try:
        TURNS.pauses = Pauses(loop)
    except TypeError:
        TURNS.pauses = None


def starves() -> bool:
    """Tell whether our threads have to wait too long for the lock."""
    return TURNS.pauses is not None and TURNS.pauses.needed


def nap() -> None:
    """Let other threads work for a moment. Not for the thread of an event loop."""
    pauses = TURNS.pauses
    if pauses is not None and pauses.needed:
        pauses.want()
    began_s = time.monotonic()
    time.sleep(_NAP_S)
    if pauses is not None and time.monotonic() - began_s > _STARVED_S:
        pauses.want()
