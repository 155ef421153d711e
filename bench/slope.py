"""Whether an exchange costs more the longer a server runs.

``python -m bench.slope ROLLOUTS`` is the program that is measured: many exchanges in
blocks, either in rollouts that end after some turns, or all in one.
"""

import argparse
import asyncio
import gc
import json
import time
from statistics import median
from typing import Final

from bench.processes import run, start
from bench.traffic import exchange, telemetry
from otel_intercept import RolloutRegistry

SHAPES: Final = {"finished": "of 20 turns each", "one": "in one rollout"}
"""How the exchanges are spread over rollouts."""

_BLOCKS: Final = 20
_TURNS: Final = 20
_PAUSE_EVERY: Final = 50
_ENDS: Final = 5
"""Blocks at either end that are compared; the first of all is a warm-up."""


def measure(recorder: str, shape: str, *, exchanges: int) -> dict[str, float]:
    """Compare what the last exchanges cost with what the first did.

    Args:
        recorder: ``thread`` or ``process``.
        shape: Which of `SHAPES`.
        exchanges: How many in all.

    Returns:
        CPU seconds of an exchange in late blocks by that in early ones, for the loop's
        thread and for the whole process.
    """
    with start(["bench.sink"]) as sink:
        return run(
            [
                *("bench.slope", recorder, shape),
                f"--sink={sink.url}",
                f"--exchanges={exchanges}",
            ]
        )


async def _load(
    registry: RolloutRegistry, shape: str, exchanges: int
) -> tuple[list[float], list[float]]:
    loop_s: list[float] = []
    process_s: list[float] = []
    rollout = registry.open("r")
    for _ in range(_BLOCKS + 1):
        # Garbage is collected between blocks, so that each pays for its own.
        gc.collect()
        before, before_all = time.thread_time(), time.process_time()
        for number in range(exchanges // _BLOCKS):
            exchange(rollout)
            if shape == "finished" and number % _TURNS == 0:
                registry.close("r")
                rollout = registry.open("r")
            if number % _PAUSE_EVERY == 0:
                await asyncio.sleep(0.001)
        loop_s.append(time.thread_time() - before)
        # The recorder catches up, so that a block's work is in its own figures.
        await asyncio.to_thread(registry.telemetry.flush)
        process_s.append(time.process_time() - before_all)
    return loop_s[1:], process_s[1:]


def _growth(blocks: list[float]) -> float:
    return median(blocks[-_ENDS:]) / median(blocks[:_ENDS])


def main() -> None:
    """Be the program that is measured."""
    parser = argparse.ArgumentParser(prog="bench.slope", description=__doc__)
    parser.add_argument("recorder")
    parser.add_argument("shape", choices=list(SHAPES))
    parser.add_argument("--sink", required=True)
    parser.add_argument("--exchanges", type=int, required=True)
    args = parser.parse_args()
    with telemetry(args.recorder, args.sink) as made:
        registry = RolloutRegistry(made)
        loop_s, process_s = asyncio.run(_load(registry, args.shape, args.exchanges))
    print(json.dumps({"loop": _growth(loop_s), "process": _growth(process_s)}))


if __name__ == "__main__":
    main()
