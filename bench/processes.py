"""Start a server or the sink as a child process, and read what it has used."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
_END_S: Final = 30.0
_PROC: Final = Path("/proc")
_UTIME: Final = 11
_STIME: Final = 12
"""Fields of /proc/PID/stat after the name, which may itself hold spaces."""


class BenchError(Exception):
    """Something needed for measuring is missing or went wrong; the text says what."""


@dataclass(frozen=True, slots=True)
class Child:
    """A process that listens on a port of this machine.

    Args:
        pid: Its process id; also the thread id of its event loop.
        port: Where it listens.
    """

    pid: int
    port: int

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def family(self) -> list[int]:
        """Return its process id and those of its descendants."""
        family = [self.pid]
        for pid in family:
            family += _children(pid)
        return family

    def cpu_s(self) -> float:
        """Return the CPU seconds that its own threads have used so far."""
        return _cpu_s(self.pid)

    def helpers_cpu_s(self) -> float:
        """Return the CPU seconds that its descendants have used so far."""
        return sum(_cpu_s(pid) for pid in self.family()[1:])


@contextmanager
def start(
    arguments: Sequence[str],
    *,
    python: Path = Path(sys.executable),
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    log: Path | None = None,
) -> Iterator[Child]:
    """Run ``python -m ARGUMENTS`` for the length of a block, then end it with SIGTERM.

    Args:
        arguments: Module and arguments; the module says its port in a line of JSON.
        python: The interpreter, which decides the environment.
        environ: Variables besides a few of our own environment.
        prefix: A program that runs the interpreter, such as valgrind, with arguments.
        log: Where its standard error goes; nowhere by default.

    Raises:
        BenchError: It did not start.
    """
    with (log or Path(os.devnull)).open("ab") as errors:
        process = subprocess.Popen(
            [*_die_with_us(), *prefix, str(python), "-m", *arguments],
            cwd=ROOT,
            env=_environment() | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    try:
        if process.stdout is None:
            raise BenchError("a child has no output")
        line = process.stdout.readline()
        if not line:
            raise BenchError(f"python -m {' '.join(arguments[:2])} did not start")
        yield Child(process.pid, json.loads(line)["port"])
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def run(
    arguments: Sequence[str], *, environ: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Run ``python -m ARGUMENTS`` to its end and return the figures that it printed.

    Raises:
        BenchError: It failed, or ran longer than ten minutes.
    """
    try:
        done = subprocess.run(
            [*_die_with_us(), sys.executable, "-m", *arguments],
            cwd=ROOT,
            env=_environment() | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=600,
            check=True,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        raise BenchError(f"python -m {' '.join(arguments[:2])} failed") from None
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def _environment() -> dict[str, str]:
    # Nothing of the operator's telemetry may change what is measured.
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return kept | {
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
    }


def _die_with_us() -> list[str]:
    # util-linux: the kernel ends the child when we are ended by force.
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]


def _children(pid: int) -> list[int]:
    try:
        tasks = list((_PROC / str(pid) / "task").iterdir())
        return [
            int(child)
            for task in tasks
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []


def _cpu_s(pid: int) -> float:
    # The sum over live threads would forget those that have ended.
    try:
        stat = (_PROC / str(pid) / "stat").read_text(encoding="utf-8")
    except OSError:
        return 0.0
    fields = stat.rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_STIME])) / os.sysconf("SC_CLK_TCK")
