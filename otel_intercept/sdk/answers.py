"""What a helper tells its server: what it could export, and lines for the log."""

import contextlib
import logging
import os
import select
import threading
from typing import Final

from otel_intercept.process.framing import Framer, Kind
from otel_intercept.process.orders import Logged

_PATIENCE_MS: Final = 1000
_MAX_TEXT: Final = 512


class Answers:
    """The helper's end of the pipe back. Never raises; may be used by all threads.

    A server that does not listen costs a second for an answer, which is then lost: the
    next one says more.

    Args:
        fd: The writing end.
    """

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._framer = Framer()
        self._lock = threading.Lock()

    def send(self, kind: Kind, message: object = None) -> None:
        """Send an answer of less than 4096 bytes, which a pipe takes wholly or not."""
        with self._lock:
            frame = self._framer.frame(kind, message)
            try:
                os.write(self._fd, frame)
            except BlockingIOError:
                self._send_later(frame)
            except OSError:
                pass

    def _send_later(self, frame: bytes) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll(_PATIENCE_MS)
        with contextlib.suppress(OSError):
            os.write(self._fd, frame)


class LogRelay(logging.Handler):
    """Sends warnings to the server's log: constant texts with safe facts.

    Args:
        answers: The way to the server.
    """

    def __init__(self, answers: Answers) -> None:
        super().__init__(logging.WARNING)
        self._answers = answers

    def emit(self, record: logging.LogRecord) -> None:
        """Send the message alone: no exception, no place in the code."""
        text = record.getMessage()[:_MAX_TEXT]
        self._answers.send(Kind.LOGGED, Logged(record.name, record.levelno, text))
