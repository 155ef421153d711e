"""Run one engine as a child process: start it, wait until it is ready, end it."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import requests

READY_S: Final = 60.0
"""A cold start on a busy machine; each takes about a second on an idle one."""

_POLL_S: Final = 0.1
_END_S: Final = 10.0
_TAIL_LINES: Final = 60


class EngineError(Exception):
    """An engine did not start, or ended by itself; the message ends with its log."""


@dataclass(slots=True)
class Engine:
    """One engine. Its process has a group of its own, and ends when we do.

    Args:
        name: What it is called here.
        command: The program and its arguments.
        ready: A URL that answers 200 once it is ready.
        log: Where its output is appended to.
        url: Where people find it; None if there is nothing to see.
        environment: Variables besides our own environment.
    """

    name: str
    command: Sequence[str]
    ready: str
    log: Path
    url: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready.

        Raises:
            EngineError: It runs already, ended at once, or was not ready in time.
        """
        if self.running:
            raise EngineError(f"{self.name} runs already")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_die_with_us(), *self.command],
                env=os.environ | dict(self.environment),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait()
        except BaseException:
            self.kill()
            raise

    def check(self) -> None:
        """See that it still runs.

        Raises:
            EngineError: It has ended by itself.
        """
        if not self.running:
            raise EngineError(f"{self.name} has ended:\n{self.tail()}")

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return self._process is not None and self._process.poll() is None

    def stop(self) -> None:
        """End it in order, or by force after 10 seconds. Idempotent."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, as a crash would. Idempotent."""
        self._end(signal.SIGKILL)

    def tail(self) -> str:
        """Return the end of its log."""
        if not self.log.exists():
            return ""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def _wait(self) -> None:
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if not self.running:
                raise EngineError(f"{self.name} ended at once:\n{self.tail()}")
            if _answers(self.ready):
                return
            time.sleep(_POLL_S)
        raise EngineError(
            f"{self.name} is not ready after {READY_S:g} s:\n{self.tail()}"
        )

    def _end(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        group = self._process.pid
        _signal_group(group, number)
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            _signal_group(group, signal.SIGKILL)
            self._process.wait()
        # What it may have started itself.
        _signal_group(group, signal.SIGKILL)
        self._process = None


def get(url: str, *, timeout_s: float = 10.0, **headers: str) -> requests.Response:
    """Get a URL on this machine, past any proxy of the environment."""
    with requests.Session() as session:
        session.trust_env = False
        return session.get(url, timeout=timeout_s, headers=headers)


def _answers(url: str) -> bool:
    try:
        return get(url, timeout_s=2.0).status_code == requests.codes.ok
    except requests.RequestException:
        return False


def _signal_group(group: int, number: signal.Signals) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _die_with_us() -> list[str]:
    # util-linux: the kernel ends the child when we are ended by force.
    setpriv = shutil.which("setpriv")
    return [] if setpriv is None else [setpriv, "--pdeathsig", "KILL", "--"]
