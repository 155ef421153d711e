"""What a run of the benchmark measures, section by section."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeAlias

from bench import cpu, lag, scale, slope
from bench.callgrind import Counts
from bench.figures import quartiles
from bench.instructions import measure as measure_instructions
from bench.results import Figures, Value
from bench.scenes import CHUNKS
from bench.variants import BARE, OURS, PEERS, VERIFIERS, available

Section: TypeAlias = Callable[["Size"], Iterator[tuple[str, Figures]]]

RECORDERS: Final = ("thread", "process")
_RATE: Final = 1_500.0
_MS: Final = 1_000.0


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything a run does.

    Args:
        rounds: Interleaved rounds.
        seconds: How long each load takes.
        peers: Whose instructions are counted besides ours.
        loads: Workloads of JSON requests, and how many at a time.
        failures: Which failing exchanges are counted.
        turns: Exchanges of each of 10,000 rollouts at 1,500 per second.
        batches: Exports whose lag is measured in each round.
        exchanges: How many the slope is taken over.
    """

    rounds: int
    seconds: float
    peers: Sequence[str]
    loads: Sequence[tuple[str, int]]
    failures: Sequence[str]
    turns: int
    batches: int
    exchanges: int


WHOLE: Final = Size(
    rounds=5,
    seconds=0.8,
    peers=PEERS,
    loads=(("json2k", 16), ("json2k", 1), ("json200k", 16), ("json200k", 1)),
    failures=(
        "fail-upstream",
        "fail-status",
        "fail-handler",
        "fail-silent",
        "fail-cut",
        "fail-frame",
        "fail-truncated",
    ),
    turns=20,
    batches=5,
    exchanges=100_000,
)
QUICK: Final = Size(
    rounds=3,
    seconds=0.5,
    peers=("contrib",),
    loads=(("json2k", 16),),
    failures=("fail-upstream",),
    turns=1,
    batches=2,
    exchanges=20_000,
)


def instructions(size: Size) -> Iterator[tuple[str, Figures]]:
    """Count instructions of a 2 KB request, and of a chunk of a stream."""
    variants = available((BARE, *OURS, *size.peers))
    counts = measure_instructions(variants, "json2k")
    name = "Instructions of one request (2 KB), bare = 1"
    yield "instructions", Figures(name, _instruction_rows(counts), digits=3)
    yield "chunks", _chunks(size)


def _chunks(size: Size) -> Figures:
    variants = available(
        (BARE, *RECORDERS, *(f"server-{one}" for one in RECORDERS), *size.peers[:1])
    )
    long = measure_instructions(variants, "sse")
    short = measure_instructions(variants, "sse100")
    rows: dict[str, dict[str, Value]] = {}
    bare = long[BARE].loop - short[BARE].loop
    for variant, one in long.items():
        rows[variant] = {
            "whole stream, loop": one.loop / long[BARE].loop,
            "whole stream, total": one.total / long[BARE].total,
            "one chunk, loop": (one.loop - short[variant].loop) / bare,
        }
    name = (
        f"Instructions of an event stream ({CHUNKS} chunks), verifiers' loop bare = 1"
    )
    return Figures(name, rows, digits=3)


def failures(size: Size) -> Iterator[tuple[str, Figures]]:
    """Count instructions of exchanges that fail, in each shape."""
    rows: dict[str, dict[str, Value]] = {}
    variants = available((BARE, *RECORDERS))
    for workload in size.failures:
        counts = measure_instructions(variants, workload)
        bare = counts.pop(BARE)
        rows[workload] = {
            f"{variant}, {column}": ratio
            for variant, one in counts.items()
            for column, ratio in (
                ("loop", one.loop / bare.loop),
                ("total", one.total / bare.total),
            )
        }
    name = "Instructions of an exchange that fails, the same exchange bare = 1"
    yield "failures", Figures(name, rows, digits=3)


def json(size: Size) -> Iterator[tuple[str, Figures]]:
    """Load JSON requests of 2 KB and 200 KB, one and sixteen at a time."""
    variants = available((BARE, *OURS, *PEERS))
    with cpu.servers(variants) as running:
        for workload, concurrency in size.loads:
            costs = cpu.measure(
                running,
                workload,
                concurrency=concurrency,
                rounds=size.rounds,
                seconds=size.seconds,
            )
            kilobytes = workload.removeprefix("json").removesuffix("k")
            name = f"One request ({kilobytes} KB), {concurrency} at a time, bare = 1"
            yield f"{workload}-{concurrency}", Figures(name, _cost_rows(costs))


def sse(size: Size) -> Iterator[tuple[str, Figures]]:
    """Load event streams, sixteen at a time."""
    variants = available(
        (BARE, *RECORDERS, *(f"server-{one}" for one in RECORDERS), *PEERS)
    )
    with cpu.servers(variants) as running:
        costs = cpu.measure(
            running, "sse", concurrency=16, rounds=size.rounds, seconds=size.seconds
        )
    name = f"One event stream ({CHUNKS} chunks), 16 at a time, bare = 1"
    yield "sse-16", Figures(name, _cost_rows(costs))


def verifiers(size: Size) -> Iterator[tuple[str, Figures]]:
    """Load verifiers' own legacy server, plain and instrumented."""
    with cpu.servers(available(VERIFIERS)) as running:
        for workload in ("json2k", "sse"):
            costs = cpu.measure(
                running,
                workload,
                concurrency=16,
                rounds=size.rounds,
                seconds=size.seconds,
                reference=VERIFIERS[0],
            )
            name = f"verifiers' legacy server, {workload}, 16 at a time, plain = 1"
            yield f"verifiers-{workload}", Figures(name, _cost_rows(costs))


def many(size: Size) -> Iterator[tuple[str, Figures]]:
    """Open 10,000 rollouts: what each holds, and what is lost when all end at once."""
    recorders = available(RECORDERS)
    memory: dict[str, dict[str, Value]] = {
        one: {"bytes": scale.bytes_per_rollout(one)} for one in recorders
    }
    yield "memory", Figures("Bytes that an open rollout holds", memory, digits=0)
    collections = {one: scale.full_collection(one) for one in ("off", *recorders)}
    walks: dict[str, dict[str, Value]] = {
        recorder: {"objects walked": one["objects"], "ms": one["seconds"] * _MS}
        for recorder, one in collections.items()
    }
    name = "A full collection with 10,000 rollouts open"
    yield "collection", Figures(name, walks, digits=0)
    paces: Iterable[tuple[str, float | None, float]] = (
        ("1,500/s", _RATE, 0.0),
        ("1,500/s, collector takes 0.5 s", _RATE, 0.5),
        ("full speed", None, 0.0),
    )
    rows: dict[str, dict[str, Value]] = {}
    for recorder in recorders:
        # Those that keep a pace leave most of the machine idle.
        with ThreadPoolExecutor(2) as pool:
            asked = [
                (name, rate, pool.submit(_scale, recorder, size, rate, delay_s))
                for name, rate, delay_s in paces
                if rate is not None
            ]
            rows |= {f"{recorder}, {name}": one.result() for name, _, one in asked}
        for name, rate, delay_s in paces:
            if rate is None:
                rows[f"{recorder}, {name}"] = _scale(recorder, size, rate, delay_s)
    name = f"10,000 rollouts of {size.turns} exchanges, then all ended at once"
    yield "scale", Figures(name, rows, digits=0)


def _scale(
    recorder: str, size: Size, rate: float | None, delay_s: float
) -> dict[str, Value]:
    figures = scale.measure(recorder, turns=size.turns, rate=rate, delay_s=delay_s)
    return {
        "records": figures["records"],
        "missing at the sink": figures["missing"],
        "counted as lost": figures["counted"],
        "roots missing": figures["roots_missing"],
        "longest collection, ms": figures["longest_gc_s"] * _MS,
        "exchanges/s": figures["exchanges_per_s"],
    }


def lateness(size: Size) -> Iterator[tuple[str, Figures]]:
    """Measure how late the event loop is: all in turn in each round."""
    rows: dict[str, dict[str, Value]] = {}
    recorders = available(("off", *RECORDERS))
    for busy in (False, True):
        rounds = [
            {
                recorder: lag.measure(
                    recorder, busy=busy, repeats=size.batches, seconds=size.seconds * 2
                )
                for recorder in recorders
            }
            for _ in range(size.rounds)
        ]
        for recorder in recorders:
            own = [one[recorder] for one in rounds]
            columns = {
                "while 512 records are exported": [one["export"] for one in own],
                "above off": [
                    one[recorder]["export"] - one["off"]["export"] for one in rounds
                ],
                "p99 at 1,000/s": [one["p99"] for one in own],
                "p99.9 at 1,000/s": [one["p99.9"] for one in own],
            }
            if recorder == "off":
                del columns["above off"]
            rows[f"{'busy' if busy else 'idle'} loop, {recorder}"] = {
                name: quartiles([each * _MS for each in values])
                for name, values in columns.items()
            }
    yield "lag", Figures("How late the event loop is, in ms", rows)


def growth(size: Size) -> Iterator[tuple[str, Figures]]:
    """See whether exchanges become dearer with their number."""
    rows: dict[str, dict[str, Value]] = {}
    for recorder in available(RECORDERS):
        with ThreadPoolExecutor(2) as pool:
            asked = [
                pool.submit(slope.measure, recorder, shape, exchanges=size.exchanges)
                for shape in slope.SHAPES
            ]
        for name, done in zip(slope.SHAPES.values(), asked, strict=True):
            figures = done.result()
            rows[f"{recorder}, {name}"] = {
                "loop": figures["loop"],
                "process": figures["process"],
            }
    name = f"CPU of the last of {size.exchanges:,} exchanges by that of the first"
    yield "slope", Figures(name, rows)


QUICKLY: Final = ("instructions", "json", "sse", "many", "lag")
"""The sections of a quick run, unless others are asked for."""

SECTIONS: Final[Mapping[str, Section]] = {
    "instructions": instructions,
    "failures": failures,
    "json": json,
    "sse": sse,
    "verifiers": verifiers,
    "many": many,
    "lag": lateness,
    "slope": growth,
}


def _instruction_rows(counts: Mapping[str, Counts]) -> dict[str, dict[str, Value]]:
    bare = counts[BARE]
    return {
        variant: {
            "loop": one.loop / bare.loop,
            "server": one.server / bare.total,
            "helper": one.helpers / bare.total,
            "total": one.total / bare.total,
        }
        for variant, one in counts.items()
    }


def _cost_rows(costs: Mapping[str, cpu.Cost]) -> dict[str, dict[str, Value]]:
    return {
        variant: {
            "CPU of server": cost.server,
            "CPU in total": cost.total,
            "p50": cost.p50,
            "p99": cost.p99,
        }
        for variant, cost in costs.items()
    }
