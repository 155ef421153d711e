"""Start the helper process, and hold the two pipes to it."""

import contextlib
import fcntl
import os
import subprocess
import sys
from typing import Final

from otel_intercept.process.framing import Frame, FrameReader, OutOfStepError
from otel_intercept.process.outlet import Outlet

HELPER_MODULE: Final = "otel_intercept.sdk.helper"

_PIPE_BYTES: Final = 1 << 20
_READ_BYTES: Final = 1 << 16
# What Python needs to start as the server did; settings go through the pipe, since
# every user of the machine may be able to see an environment.
_INHERITED: Final = (
    "DYLD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "LD_LIBRARY_PATH",
    "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONHOME", "PYTHONPLATLIBDIR",
    "PYTHONPYCACHEPREFIX", "PYTHONUTF8", "TMPDIR", "TZ",
)  # fmt: skip
_AUTO_INSTRUMENTATION: Final = "auto_instrumentation"


class Child:
    """A helper process and its pipes, from its start to `end`.

    It is spawned, not forked, in a session of its own, so that no signal to the
    server's process group reaches it. It has no output: what it has to say comes
    through the pipe.

    Args:
        directory: Its working directory, where relative paths start.

    Raises:
        OSError: It could not be started.
    """

    def __init__(self, directory: str) -> None:
        if not sys.executable:
            raise FileNotFoundError("this process does not know its interpreter")
        data_out, data_in = os.pipe()
        answers_out, answers_in = os.pipe()
        self._fds = [data_in, answers_out]
        try:
            _enlarge(data_in)
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [
                    sys.executable, "-P", "-W", "ignore", "-m", HELPER_MODULE,
                    f"{answers_in}",
                ],
                stdin=data_out,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(answers_in,),
                env=_environment(),
                cwd=directory,
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            self._close()
            raise
        finally:
            os.close(data_out)
            os.close(answers_in)
        os.set_blocking(answers_out, False)
        self.outlet = Outlet(data_in)
        self.data_fd = data_in
        self.answers_fd = answers_out
        self._reader = FrameReader()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def read(self) -> tuple[list[Frame], bool]:
        """Return the answers that have come, and whether more may come."""
        frames: list[Frame] = []
        try:
            while data := os.read(self.answers_fd, _READ_BYTES):
                frames.extend(self._reader.feed(data))
        except BlockingIOError:
            return frames, True
        except (OSError, OutOfStepError):
            pass
        return frames, False

    def end(self, grace_s: float = 0.0) -> None:
        """Close the pipes and kill the process if it does not end by itself in time."""
        self._close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace_s)
        if self._process.poll() is None:
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)

    def disown(self) -> None:
        """Let go in a fork of the server: the process is the server's own."""
        self._close()
        self._process.returncode = 0

    def _close(self) -> None:
        while self._fds:
            with contextlib.suppress(OSError):
                os.close(self._fds.pop())


def _enlarge(fd: int) -> None:
    # What is in the pipe outlives the server, so the more the better.
    size = getattr(fcntl, "F_SETPIPE_SZ", None)
    if isinstance(size, int):
        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, size, _PIPE_BYTES)


def _environment() -> dict[str, str]:
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    # As the server finds its modules; but nothing may instrument the helper.
    paths = [path or os.getcwd() for path in sys.path]  # noqa: PTH109 - a string
    environment["PYTHONPATH"] = os.pathsep.join(
        path for path in paths if not path.endswith(_AUTO_INSTRUMENTATION)
    )
    return environment
