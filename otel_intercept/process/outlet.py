"""The writing end of a pipe that must never make its writer wait."""

import os


class Outlet:
    """Takes a frame wholly or not at all, and never blocks or raises.

    What the pipe took in part is completed first, so that no frame is ever mixed with
    another. The writer sees to it that one thread at a time is in here.

    Args:
        fd: The writing end, which is made non-blocking. The caller closes it.
    """

    __slots__ = ("_fd", "_rest", "blocked", "broken")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._rest = b""
        self.blocked = False
        self.broken = False

    def write(self, frame: bytes) -> bool:
        """Write a frame; False when nothing of it was taken."""
        if self._rest and not self.finish():
            return False
        # Where SIGPIPE is not ignored, as Python has it, any lost agent ends asyncio.
        try:
            taken = os.write(self._fd, frame)
        except BlockingIOError:
            taken = 0
        except OSError:
            self.broken = True
            return False
        if taken == len(frame):
            return True
        self.blocked = True
        if taken:
            self._rest = frame[taken:]
        return taken > 0

    def finish(self) -> bool:
        """Write what is left of the last frame; True when nothing is left."""
        if self._rest:
            try:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
            except BlockingIOError:
                return False
            except OSError:
                self.broken = True
                return False
        self.blocked = bool(self._rest)
        return not self._rest
