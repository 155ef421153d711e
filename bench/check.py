"""See that the price of a request has not grown: ratios of counts, with a baseline."""

import json
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from platform import python_version
from typing import Final

from bench.callgrind import Counts
from bench.figures import TOLERANCE, Regression, regressions
from bench.processes import BenchError
from bench.variants import BARE

BASELINE: Final = Path(__file__).parent / "baseline.json"
PLAN: Final[Mapping[str, Sequence[str]]] = {
    "json2k": (BARE, "off", "unsampled", "thread", "process"),
    "sse100": (BARE, "thread", "server-thread"),
}
TRIES: Final = 3


def ratios(workload: str, counts: Mapping[str, Counts]) -> dict[str, float]:
    """Return the ratios to bare of the same run, by workload, variant and column."""
    bare = counts[BARE]
    figures: dict[str, float] = {}
    for variant, one in counts.items():
        if variant != BARE:
            name = f"{workload}/{variant}"
            figures[f"{name}/loop"] = round(one.loop / bare.loop, 4)
            figures[f"{name}/total"] = round(one.total / bare.total, 4)
    return figures


def compare(now: Mapping[str, float]) -> list[Regression]:
    """Return what is worse than the committed baseline.

    Raises:
        BenchError: There is no baseline.
    """
    try:
        baseline: Mapping[str, float] = json.loads(BASELINE.read_text("utf-8"))[
            "ratios"
        ]
    except FileNotFoundError:
        raise BenchError("there is no baseline: make one with --update") from None
    return regressions(baseline, now)


def write(figures: Mapping[str, float], bare: Mapping[str, int]) -> None:
    """Make these figures the baseline.

    Args:
        figures: The ratios.
        bare: Instructions per request of the bare handler, by workload: to be read, not
            compared, since they are those of one Python and one aiohttp.
    """
    measured_with = {"python": python_version(), "aiohttp": version("aiohttp")}
    content = {
        "measured_with": measured_with,
        "bare": dict(bare),
        "ratios": dict(sorted(figures.items())),
    }
    BASELINE.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def report(worse: Sequence[Regression]) -> None:
    """Print what is worse."""
    for figure, was, now in worse:
        print(
            f"{figure}: {now:.3f} of bare, was {was:.3f} (+{now / was - 1:.1%}, "
            f"{TOLERANCE:.0%} is allowed)",
            file=sys.stderr,
        )
