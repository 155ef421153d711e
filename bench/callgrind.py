"""Count the instructions of a server under load, with valgrind's callgrind.

The server starts and warms up uncounted. Then it gets two loads of different length;
the difference of their counts, divided, is the price of one request without what any
load costs once.
"""

import asyncio
import re
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.load import send
from bench.processes import BenchError, Child, start
from bench.scenes import SCENES

_CONCURRENCY: Final = 4
"""Of 4 connections, two runs agreed within 0.1 %; of 16, only within 2 %."""

_LOOP_THREAD: Final = 1
_SUMMARY: Final = re.compile(r"^summary: (\d+)", re.MULTILINE)
_SLOWNESS: Final = 20
"""How many times longer everything takes, about: so must a turn of the interpreter's
lock, or threads would hand it over more often per request than they do in life."""

_SWITCH_INTERVAL_S: Final = 0.005 * _SLOWNESS
_NEVER_MS: Final = 3_600_000
_QUIET_SHARE: Final = 0.25
_LOOK_S: Final = 0.4
_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How many requests a workload is counted over.

    Both loads are multiples of the batch, so that exporters that send full batches send
    the same share in each.

    Args:
        warm_up: Requests before counting.
        short: Requests of the first load.
        long: Requests of the second load.
        batch: Spans per export.
    """

    warm_up: int
    short: int
    long: int
    batch: int


_REQUESTS: Final = Plan(warm_up=2048, short=512, long=2560, batch=512)
_SHORT: Final = Plan(warm_up=128, short=128, long=256, batch=128)
_STREAMS: Final = Plan(warm_up=4, short=4, long=12, batch=4)


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions per request.

    Args:
        loop: Of the event loop's thread.
        server: Of all threads of the server's process.
        helpers: Of the processes that it has started.
    """

    loop: float
    server: float
    helpers: float

    @property
    def total(self) -> float:
        """Of everything."""
        return self.server + self.helpers


def count(
    variant: str, workload: str, *, python: Path, keep: Path | None = None
) -> Counts:
    """Count one variant under one workload.

    Args:
        variant: Which server.
        workload: Which of `bench.scenes.SCENES`.
        python: The interpreter of its environment.
        keep: Where callgrind's files stay, to be read with callgrind_annotate.

    Raises:
        BenchError: The server did not start, or valgrind did not answer.
    """
    with TemporaryDirectory() as scratch:
        folder = keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with start(["bench.sink"]) as sink:
            return _count(variant, workload, python, folder, sink)


def _count(
    variant: str, workload: str, python: Path, folder: Path, sink: Child
) -> Counts:
    plan = _plan(workload)
    server = start(
        [
            "bench.servers",
            variant,
            f"--sink={sink.url}",
            f"--switch-interval={_SWITCH_INTERVAL_S}",
            # Else a full collection falls into one load or thread by chance.
            "--freeze",
        ],
        python=python,
        # Batches leave when they are full: the clock runs too fast in here.
        environ={
            "OTEL_BSP_SCHEDULE_DELAY": str(_NEVER_MS),
            "OTEL_METRIC_EXPORT_INTERVAL": str(_NEVER_MS),
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": str(plan.batch),
        },
        prefix=[
            "valgrind",
            "--tool=callgrind",
            "--separate-threads=yes",
            "--instr-atstart=no",
            # Only where a helper belongs to the server: peers start other programs too.
            f"--trace-children={'yes' if variant.endswith('process') else 'no'}",
            f"--callgrind-out-file={folder}/{variant}.%p",
        ],
        log=folder / f"{variant}.log",
    )
    with server as child:
        windows = _Windows(child, workload, folder, variant)
        windows.load(plan.warm_up)
        for pid in windows.pids:
            _tell(pid, "instrumentation", "on")
        windows.read()
        windows.load(plan.short)
        short = windows.read()
        windows.load(plan.long)
        long = windows.read()
    requests = plan.long - plan.short
    return Counts(
        loop=(long.loop - short.loop) / requests,
        server=(long.server - short.server) / requests,
        helpers=(long.helpers - short.helpers) / requests,
    )


def _plan(workload: str) -> Plan:
    if workload.startswith("fail-"):
        return _SHORT
    return _STREAMS if SCENES[workload].stream else _REQUESTS


class _Windows:
    def __init__(self, child: Child, workload: str, folder: Path, name: str) -> None:
        self._child = child
        self._scene = SCENES[workload]
        self._folder = folder
        self._name = name
        self._dumps = 0
        self.pids = child.family()

    def load(self, requests: int) -> None:
        """Send requests, then wait until the exporters are through."""
        asyncio.run(
            send(
                self._child.port,
                self._scene,
                concurrency=_CONCURRENCY,
                requests=requests,
            )
        )
        deadline = time.monotonic() + _PATIENCE_S
        quiet = 0
        while quiet < 2 and time.monotonic() < deadline:
            before = self._cpu_s()
            time.sleep(_LOOK_S)
            quiet = quiet + 1 if self._cpu_s() - before < _QUIET_SHARE * _LOOK_S else 0

    def read(self) -> Counts:
        """Return what was executed since the last time."""
        self._dumps += 1
        for pid in self.pids:
            _tell(pid, "dump")
        server = self._threads(self.pids[0])
        helpers = [sum(self._threads(pid).values()) for pid in self.pids[1:]]
        return Counts(server[_LOOP_THREAD], sum(server.values()), sum(helpers))

    def _cpu_s(self) -> float:
        return self._child.cpu_s() + self._child.helpers_cpu_s()

    def _threads(self, pid: int) -> dict[int, int]:
        threads: dict[int, int] = {}
        for path in self._folder.glob(f"{self._name}.{pid}.{self._dumps}-*"):
            found = _SUMMARY.search(path.read_text(encoding="utf-8", errors="replace"))
            if found is not None:
                threads[int(path.name.rpartition("-")[2])] = int(found[1])
        if _LOOP_THREAD not in threads:
            raise BenchError("callgrind wrote no counts")
        return threads


def _tell(pid: int, *words: str) -> None:
    done = subprocess.run(
        ["vgdb", f"--pid={pid}", *words], capture_output=True, timeout=120, check=False
    )
    if done.returncode != 0:
        raise BenchError(f"valgrind did not take the command {words[0]}")
