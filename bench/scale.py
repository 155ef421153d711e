"""Ten thousand rollouts open at once: memory, garbage collection, and what is lost.

``python -m bench.scale load``, ``memory`` and ``collect`` are the programs that are
measured; each prints its figures as JSON.
"""

import argparse
import asyncio
import gc
import json
import time
import tracemalloc
from typing import Final

from bench.processes import run, start
from bench.sink import counts_of
from bench.traffic import exchange, telemetry
from otel_intercept import Rollout, RolloutRegistry

ROLLOUTS: Final = 10_000
_TURN: Final = 15
"""Exchanges between two looks at the clock: 10 ms' worth at 1,500 per second."""

_SETTLE_S: Final = 120.0
_ONE_TO_ONE: Final = ("rollout", "rollout.started", "SERVER")
"""The spans that stand for a record each."""


def measure(
    recorder: str, *, turns: int, rate: float | None, delay_s: float
) -> dict[str, float]:
    """Load one recorder in a process of its own, and compare with what the sink has.

    Args:
        recorder: ``thread`` or ``process``.
        turns: Exchanges of each rollout.
        rate: Exchanges per second; None for as many as it can.
        delay_s: Seconds until the collector answers.

    Returns:
        Records handed over, missing at the sink, and counted as lost; roots missing;
        seconds of the longest collection of garbage; exchanges per second.
    """
    with start(["bench.sink", "--keep", f"--delay={delay_s}"]) as sink:
        figures = run(
            [
                *("bench.scale", "load", recorder),
                f"--sink={sink.url}",
                f"--turns={turns}",
                f"--rate={rate or 0}",
            ]
        )
        counts = counts_of(sink.url)
    arrived = sum(counts.get(f"spans {kind}", 0) for kind in _ONE_TO_ONE)
    return {
        "records": figures["ended"],
        "missing": figures["ended"] - arrived,
        "counted": figures["lost"],
        "roots_missing": ROLLOUTS - counts.get("spans rollout", 0),
        "longest_gc_s": figures["longest_gc_s"],
        "exchanges_per_s": figures["exchanges_per_s"],
    }


def bytes_per_rollout(recorder: str) -> float:
    """Return what an open rollout holds beyond its id and state, which callers hold."""
    with start(["bench.sink"]) as sink:
        return run(["bench.scale", "memory", recorder, f"--sink={sink.url}"])["bytes"]


def full_collection(recorder: str) -> dict[str, float]:
    """Return what a full collection walks with all rollouts open, and how long it took.

    Also of ``off``: most of it is the interpreter and what every process imports.
    """
    with start(["bench.sink"]) as sink:
        return run(["bench.scale", "collect", recorder, f"--sink={sink.url}"])


async def _load(registry: RolloutRegistry, turns: int, rate: float) -> float:
    rollouts = [registry.open(f"r{number}", state={}) for number in range(ROLLOUTS)]
    start_s = time.perf_counter()
    done = 0
    for _ in range(turns):
        for rollout in rollouts:
            exchange(rollout)
            done += 1
            if done % _TURN == 0:
                late_s = time.perf_counter() - start_s - done / rate if rate else 0.0
                await asyncio.sleep(max(-late_s, 0.0))
    seconds = time.perf_counter() - start_s
    # All at once: not a single turn of the loop between them.
    for rollout in rollouts:
        registry.close(rollout.rollout_id)
    return done / seconds


def _run_load(recorder: str, sink: str, turns: int, rate: float) -> dict[str, float]:
    longest = _LongestCollection()
    with telemetry(recorder, sink) as made:
        gc.callbacks.append(longest)
        speed = asyncio.run(_load(RolloutRegistry(made), turns, rate))
        gc.callbacks.remove(longest)
        made.flush(_SETTLE_S)
        balance = made.shutdown(_SETTLE_S)
    return {
        "ended": balance.ended,
        "lost": balance.failed + balance.dropped,
        "longest_gc_s": longest.seconds,
        "exchanges_per_s": speed,
    }


class _LongestCollection:
    """Times collections by the CPU of their thread: others wait, but do not count."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._begun = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        now = time.thread_time()
        if phase == "start":
            self._begun = now
        else:
            self.seconds = max(self.seconds, now - self._begun)


def _run_memory(recorder: str, sink: str) -> dict[str, float]:
    with telemetry(recorder, sink) as made:
        registry = RolloutRegistry(made)
        _open(registry, "warm-up", 100)
        made.flush()
        held: list[tuple[str, dict[str, object]]] = [
            (f"r{number}", {}) for number in range(ROLLOUTS)
        ]
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for rollout_id, state in held:
            registry.open(rollout_id, state=state)
        made.flush(_SETTLE_S)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return {"bytes": (after - before) / ROLLOUTS}


def _run_collect(recorder: str, sink: str) -> dict[str, float]:
    with telemetry(recorder, sink) as made:
        registry = RolloutRegistry(made)
        rollouts = _open(registry, "r", ROLLOUTS)
        for rollout in rollouts:
            exchange(rollout)
        made.flush(_SETTLE_S)
        # Young tuples and dictionaries of plain values are let go of by the first.
        gc.collect()
        walked = len(gc.get_objects())
        longest = _LongestCollection()
        gc.callbacks.append(longest)
        gc.collect()
        gc.callbacks.remove(longest)
    return {"objects": walked, "seconds": longest.seconds}


def _open(registry: RolloutRegistry, name: str, number: int) -> list[Rollout]:
    return [registry.open(f"{name}{one}", state={}) for one in range(number)]


def main() -> None:
    """Be the program that is measured."""
    parser = argparse.ArgumentParser(prog="bench.scale", description=__doc__)
    parser.add_argument("what", choices=("load", "memory", "collect"))
    parser.add_argument("recorder")
    parser.add_argument("--sink", required=True)
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("--rate", type=float, default=0.0)
    args = parser.parse_args()
    if args.what == "load":
        figures = _run_load(args.recorder, args.sink, args.turns, args.rate)
    elif args.what == "collect":
        figures = _run_collect(args.recorder, args.sink)
    else:
        figures = _run_memory(args.recorder, args.sink)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
