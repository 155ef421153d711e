"""Arithmetic of figures: quartiles, percentiles, and what is worse than a baseline."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

TOLERANCE: Final = 0.05
"""How much worse a ratio may get; repeated counts agree within a tenth of this."""


class Quartiles(NamedTuple):
    """The middle of some values, and the span that half of them lie in."""

    q1: float
    median: float
    q3: float


class Regression(NamedTuple):
    """A ratio to bare that is worse than it was.

    Args:
        figure: Workload, variant and column, joined by ``/``.
        was: The ratio in the baseline.
        now: The ratio now.
    """

    figure: str
    was: float
    now: float


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that so many per cent of the values do not exceed.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("a percentile needs values")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def quartiles(values: Sequence[float]) -> Quartiles:
    """Return the quartiles, between two neighbours where they fall between.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("quartiles need values")
    ordered = sorted(values)
    return Quartiles(*(_at(ordered, share) for share in (0.25, 0.5, 0.75)))


def _at(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = math.ceil(place)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def regressions(
    baseline: Mapping[str, float], now: Mapping[str, float]
) -> list[Regression]:
    """Return every figure that is worse than its baseline by more than the tolerance.

    A figure that the baseline does not have is no regression; one that is not measured
    any more is, with an infinite ratio.
    """
    return [
        Regression(figure, was, now.get(figure, math.inf))
        for figure, was in baseline.items()
        if now.get(figure, math.inf) > was * (1 + TOLERANCE)
    ]


def least(runs: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Return the smallest ratio that each figure had in any run.

    What disturbs a count only ever adds to it.
    """
    smallest: dict[str, float] = {}
    for run in runs:
        for figure, ratio in run.items():
            smallest[figure] = min(ratio, smallest.get(figure, math.inf))
    return smallest
