"""Build PromQL from the catalogue, so that no query names what does not exist.

Only what Prometheus 2.42 knows is used; newer ones know it as well.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from dashboards.names import ENVIRONMENT, INSTANCE, SERVICE, label_of, names_of
from otel_intercept import outcome, semconv
from otel_intercept.semconv import ExchangeOutcome, Instrument, RolloutOutcome

BY_JOB: Final = (SERVICE, ENVIRONMENT)
"""What every aggregate keeps: one training job, as a service in an environment."""

JUDGED_EXCHANGES: Final = tuple(
    item
    for item in ExchangeOutcome
    if item is ExchangeOutcome.OK or outcome.is_error(item)
)
"""Outcomes that say something of upstream and proxy; leaving and stopping do not."""

FAILED_EXCHANGES: Final = tuple(filter(outcome.is_error, ExchangeOutcome))
JUDGED_ROLLOUTS: Final = (RolloutOutcome.COMPLETED, RolloutOutcome.FAILED)

_BIRTH_LOOKBACK: Final = "1d"


def matching(instrument: Instrument, key: str, values: Iterable[StrEnum]) -> str:
    """Return a matcher for some values of one of the instrument's label keys.

    Raises:
        ValueError: The instrument has no such label.
    """
    if key not in instrument.labels:
        raise ValueError("the instrument has no such label")
    words = [value.value for value in values]
    if len(words) == 1:
        return f'{label_of(key)}="{words[0]}"'
    return f'{label_of(key)}=~"{"|".join(words)}"'


def at_most(instrument: Instrument, bound: float) -> str:
    """Return a matcher for the bucket up to a bound, as either exporter writes it.

    Raises:
        ValueError: The histogram has no bucket with that bound.
    """
    if bound not in instrument.buckets:
        raise ValueError("the histogram has no bucket with that bound")
    return rf'le=~"{bound:g}(\\.0)?"'


def series(name: str, *matchers: str) -> str:
    """Return an instant selector."""
    inner = ", ".join(matcher for matcher in matchers if matcher)
    return f"{name}{{{inner}}}" if inner else name


def total(by: Iterable[str], expression: str) -> str:
    """Return the sum over everything but some labels."""
    labels = ", ".join(by)
    return f"sum by ({labels}) ({expression})" if labels else f"sum({expression})"


def gained(selector: str, window: str) -> str:
    """Return how much counters have grown in a window, births included.

    ``increase`` alone misses what a process had counted before its first scrape. What
    such a process has counted is all its own; whether it is new is told by a series
    that every process has, so that a gap in scraping makes no process new.
    """
    alive = names_of(semconv.RECORDS_STARTED).sample
    return (
        f"(last_over_time({selector}[{window}])"
        f" unless on ({SERVICE}, {INSTANCE})"
        f" last_over_time({alive}[{_BIRTH_LOOKBACK}] offset {window}))"
        f" or increase({selector}[{window}])"
    )
