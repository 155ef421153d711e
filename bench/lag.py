"""How late the event loop is: while one batch is exported, and while load is steady.

``python -m bench.lag RECORDER`` is the program that is measured. A timer of 1 ms tells
how late it was; what a batch adds is the difference to the same without telemetry.
"""

import argparse
import asyncio
import json
import socket
import time
from statistics import median
from typing import Final

from bench.figures import percentile
from bench.processes import BenchError, run, start
from bench.traffic import exchange, telemetry
from otel_intercept import Rollout, RolloutRegistry, Telemetry

_TICK_S: Final = 0.001
_BATCH: Final = 512
_EXPORT_S: Final = 0.5
_LOOK_S: Final = 0.02
_PATIENCE_S: Final = 20.0
_WORK_S: Final = 0.0002
_BODY: Final = bytes(2_000)
_RATE: Final = 1_000
_STEP_S: Final = 0.01


def measure(
    recorder: str, *, busy: bool, repeats: int, seconds: float
) -> dict[str, float]:
    """Measure one recorder in a process of its own.

    Args:
        recorder: ``off``, ``thread`` or ``process``.
        busy: Whether the loop has other work all the time, as a server has that is sent
            more requests than it can answer.
        repeats: Batches that are exported one by one.
        seconds: How long the steady load takes.

    Returns:
        In seconds: the median over batches of the greatest lag while one was exported,
        and the 99th and 99.9th percentile of the lag at 1,000 exchanges per second.
    """
    with start(["bench.sink"]) as sink:
        return run(
            [
                *("bench.lag", recorder),
                f"--sink={sink.url}",
                f"--repeats={repeats}",
                f"--seconds={seconds}",
                *(["--busy"] if busy else []),
            ]
        )


class Probe:
    """Notes how late a timer of 1 ms is, again and again."""

    def __init__(self) -> None:
        self.lags_s: list[float] = []
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            due = time.perf_counter() + _TICK_S
            await asyncio.sleep(_TICK_S)
            self.lags_s.append(max(time.perf_counter() - due, 0.0))

    def take(self) -> list[float]:
        """Return what was noted since the last time."""
        taken, self.lags_s = self.lags_s, []
        return taken

    def stop(self) -> None:
        """Stop the timer."""
        self._task.cancel()


async def _work() -> None:
    # As a server does: what it reads and writes are system calls, in each of which the
    # interpreter lock is free for a moment.
    agent, server = socket.socketpair()
    with agent, server:
        while True:
            agent.send(_BODY)
            server.recv(len(_BODY))
            until = time.perf_counter() + _WORK_S
            while time.perf_counter() < until:
                pass
            await asyncio.sleep(0)


async def _load(
    made: Telemetry, *, busy: bool, repeats: int, seconds: float
) -> dict[str, float]:
    rollout = RolloutRegistry(made).open("r")
    worker = asyncio.create_task(_work()) if busy else None
    probe = Probe()
    await _export(rollout, made)
    probe.take()
    greatest: list[float] = []
    for _ in range(repeats):
        await _export(rollout, made)
        greatest.append(max(probe.take()))
    await _steady(rollout, seconds)
    steady = probe.take()
    probe.stop()
    if worker is not None:
        worker.cancel()
    return {
        "export": median(greatest),
        "p99": percentile(steady, 99),
        "p99.9": percentile(steady, 99.9),
    }


async def _export(rollout: Rollout, made: Telemetry) -> None:
    for _ in range(_BATCH):
        exchange(rollout)
        await asyncio.sleep(0)
    end_s = time.perf_counter() + _PATIENCE_S
    await asyncio.sleep(_EXPORT_S)
    # Beside a busy loop it takes longer: what has not left yet makes nobody late.
    while made.balance().queued:
        if time.perf_counter() > end_s:
            raise BenchError(f"512 records were not exported within {_PATIENCE_S} s")
        await asyncio.sleep(_LOOK_S)


async def _steady(rollout: Rollout, seconds: float) -> None:
    start_s = time.perf_counter()
    done = 0
    while (passed := time.perf_counter() - start_s) < seconds:
        while done < passed * _RATE:
            exchange(rollout)
            done += 1
        await asyncio.sleep(_STEP_S)


def main() -> None:
    """Be the program that is measured."""
    parser = argparse.ArgumentParser(prog="bench.lag", description=__doc__)
    parser.add_argument("recorder")
    parser.add_argument("--sink", required=True)
    parser.add_argument("--busy", action="store_true")
    parser.add_argument("--repeats", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    args = parser.parse_args()
    # Only a full batch makes an export begin.
    with telemetry(args.recorder, args.sink, OTEL_BSP_SCHEDULE_DELAY="250") as made:
        figures = asyncio.run(
            _load(
                made,
                busy=args.busy,
                repeats=args.repeats,
                seconds=args.seconds,
            )
        )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
