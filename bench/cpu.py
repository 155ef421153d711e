"""CPU time and latency per request, all variants in interleaved rounds.

In each round every server gets the same load, one after the other: A B C, A B C. A
ratio is taken to bare of the same round, so that what else the machine does cancels.
"""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from bench.figures import Quartiles, percentile, quartiles
from bench.load import send
from bench.processes import Child, start
from bench.scenes import SCENES
from bench.variants import BARE, python_of

_WARM_UP_REQUESTS: Final = 200
_TAIL_S: Final = 1.3
"""Longer than any exporter waits for a batch: its work belongs to the load before."""

_BATCH_DELAY_MS: Final = 1000


@dataclass(frozen=True, slots=True)
class Turn:
    """What one variant did in one round.

    Args:
        server_s: CPU seconds per request of the server's process.
        total_s: The same, with the processes that it has started.
        p50_s: Median latency.
        p99_s: 99th percentile of the latency.
    """

    server_s: float
    total_s: float
    p50_s: float
    p99_s: float


@dataclass(frozen=True, slots=True)
class Cost:
    """The ratios of a variant to bare over all rounds."""

    server: Quartiles
    total: Quartiles
    p50: Quartiles
    p99: Quartiles


@contextmanager
def servers(variants: Sequence[str]) -> Iterator[Mapping[str, Child]]:
    """Run one server of each variant and one sink for all."""
    with ExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory()))
        sink = stack.enter_context(start(["bench.sink"]))
        yield {
            variant: stack.enter_context(
                start(
                    ["bench.servers", variant, f"--sink={sink.url}"],
                    python=python_of(variant),
                    environ={"OTEL_BSP_SCHEDULE_DELAY": str(_BATCH_DELAY_MS)},
                    log=logs / variant,
                )
            )
            for variant in variants
        }


def measure(
    running: Mapping[str, Child],
    workload: str,
    *,
    concurrency: int,
    rounds: int,
    seconds: float,
    reference: str = BARE,
) -> dict[str, Cost]:
    """Load the servers in turn and return each one's ratios to one of them.

    Args:
        running: The servers, with the reference among them.
        workload: Which of `bench.scenes.SCENES`.
        concurrency: Connections.
        rounds: How many turns each has.
        seconds: How long a turn loads.
        reference: What the others are compared with.
    """
    scene = SCENES[workload]
    for child in running.values():
        requests = _WARM_UP_REQUESTS // (10 if scene.stream else 1)
        asyncio.run(send(child.port, scene, concurrency=concurrency, requests=requests))
    turns: list[dict[str, Turn]] = [
        {
            variant: _turn(child, workload, concurrency=concurrency, seconds=seconds)
            for variant, child in running.items()
        }
        for _ in range(rounds)
    ]
    return {variant: _cost(turns, variant, reference) for variant in running}


def _turn(child: Child, workload: str, *, concurrency: int, seconds: float) -> Turn:
    own, helpers = child.cpu_s(), child.helpers_cpu_s()
    load = asyncio.run(
        send(child.port, SCENES[workload], concurrency=concurrency, seconds=seconds)
    )
    time.sleep(_TAIL_S)
    own, helpers = child.cpu_s() - own, child.helpers_cpu_s() - helpers
    return Turn(
        server_s=own / load.requests,
        total_s=(own + helpers) / load.requests,
        p50_s=percentile(load.latencies_s, 50),
        p99_s=percentile(load.latencies_s, 99),
    )


def _cost(turns: Sequence[Mapping[str, Turn]], variant: str, reference: str) -> Cost:
    pairs = [(turn[variant], turn[reference]) for turn in turns]
    return Cost(
        server=quartiles([one.server_s / bare.server_s for one, bare in pairs]),
        total=quartiles([one.total_s / bare.total_s for one, bare in pairs]),
        p50=quartiles([one.p50_s / bare.p50_s for one, bare in pairs]),
        p99=quartiles([one.p99_s / bare.p99_s for one, bare in pairs]),
    )
