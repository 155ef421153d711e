"""Wake a thread that waits for file descriptors."""

import contextlib
import os


class Wake:
    """A pipe to oneself: `set` makes it readable, `clear` ends that."""

    def __init__(self) -> None:
        self.fd, self._in = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self._in, False)

    def set(self) -> None:
        """Wake the thread. Never blocks or raises; may be called by any thread."""
        with contextlib.suppress(OSError):
            os.write(self._in, b"\0")

    def clear(self) -> None:
        """Let the thread sleep again."""
        with contextlib.suppress(OSError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        """Close both ends. Idempotent."""
        fds = self.fd, self._in
        self.fd = self._in = -1
        for fd in fds:
            with contextlib.suppress(OSError):
                os.close(fd)
