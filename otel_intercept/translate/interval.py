"""What was measured between two collections: plain counts and buckets, by labels."""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import inf
from typing import Final, TypeAlias

from otel_intercept import semconv
from otel_intercept.counters import CounterKey
from otel_intercept.record import ExchangeEnded, FailureSeen, RolloutEnded
from otel_intercept.semconv import Instrument

LabelValues: TypeAlias = tuple[str | bool | None, ...]
"""Label values in the order of ``Instrument.labels``; None for a label left out."""

Mark: TypeAlias = tuple[int, int | None, int | None]
"""When and on which span it was measured: Unix nanoseconds, span id, trace id."""

Exemplar: TypeAlias = tuple[float, Mark]
"""What was measured, and where."""

Measurement: TypeAlias = ExchangeEnded | RolloutEnded | FailureSeen
"""A record with a time and perhaps a span, which can be an exemplar."""

COUNTERS: Final = (
    semconv.ROLLOUTS,
    semconv.EXCHANGES,
    semconv.EXCHANGES_REPLAYED,
    semconv.KEEPALIVES,
    semconv.FAILURES,
)
HISTOGRAMS: Final = (
    semconv.ROLLOUT_DURATION,
    semconv.EXCHANGE_DURATION,
    semconv.UPSTREAM_DURATION,
    semconv.TIME_TO_FIRST_CHUNK,
    semconv.MAX_GAP,
    semconv.TOKEN_USAGE,
)


class Count:
    """One series of a counter, and its last measurement that is an exemplar.

    Attributes:
        value: What was counted.
        exemplar: The number that was added last, and where; None without any.
    """

    __slots__ = ("exemplar", "value")

    def __init__(self) -> None:
        self.value = 0
        self.exemplar: Exemplar | None = None

    def add(
        self, number: int, record: Measurement | None = None, *, times: int = 1
    ) -> None:
        """Count a number so many times; ``record`` makes the last one an exemplar."""
        self.value += number * times
        if record is not None:
            self.exemplar = _later(self.exemplar, (number, mark_of(record)))


class Distribution:
    """One series of a histogram, and the last exemplar of each bucket.

    Args:
        bounds: Upper bounds of the buckets, inclusive, ascending.

    Attributes:
        start_ns: When it began, in Unix nanoseconds.
        counts: How many values there were in each bucket.
        sum: The sum of the values.
        smallest: The least value; infinite without any.
        largest: The greatest value; minus infinity without any.
        exemplars: The last value of each bucket, and where it was measured.
    """

    __slots__ = (
        "_bounds", "counts", "exemplars", "largest", "smallest", "start_ns", "sum",
    )  # fmt: skip

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.start_ns = time.time_ns()
        self.counts = [0] * (len(bounds) + 1)
        self.sum: float = 0
        self.smallest: float = inf
        self.largest: float = -inf
        self.exemplars: dict[int, Exemplar] = {}

    def add(
        self, values: Sequence[float], records: Sequence[Measurement] | None
    ) -> None:
        """Take in some values, at least one.

        Args:
            values: What was measured, oldest first.
            records: On what each was measured, if they may be exemplars.
        """
        if records is None:
            self._add(sorted(values))
            return
        value_at = values.__getitem__
        places = sorted(range(len(values)), key=value_at)
        for bucket, low, high in self._add([*map(value_at, places)]):
            latest = max(places[low:high])
            self.exemplars[bucket] = _later(
                self.exemplars.get(bucket), (values[latest], mark_of(records[latest]))
            )

    def _add(self, ascending: list[float]) -> list[tuple[int, int, int]]:
        """Take in values; return which bucket took those from here to there."""
        bounds, number = self._bounds, len(ascending)
        self.sum = sum(ascending, self.sum)
        self.smallest = min(self.smallest, ascending[0])
        self.largest = max(self.largest, ascending[-1])
        taken: list[tuple[int, int, int]] = []
        low = 0
        # One round for each bucket that has any of them.
        while low < number:
            bucket = bisect_left(bounds, ascending[low])
            high = number
            if bucket < len(bounds):
                high = bisect_right(ascending, bounds[bucket], low)
            self.counts[bucket] += high - low
            taken.append((bucket, low, high))
            low = high
        return taken


class Interval:
    """Every series that moved since the last collection; for one thread at a time."""

    __slots__ = ("counts", "distributions")

    def __init__(self) -> None:
        self.counts: dict[str, dict[LabelValues, Count]] = {
            instrument.name: {} for instrument in COUNTERS
        }
        self.distributions: dict[str, dict[LabelValues, Distribution]] = {
            instrument.name: {} for instrument in HISTOGRAMS
        }

    def count(self, key: CounterKey) -> Count:
        """Return a series of a counter."""
        name, labels = key
        series = self.counts[name]
        found = series.get(labels)
        if found is None:
            found = series[labels] = Count()
        return found

    def distribution(self, instrument: Instrument, labels: LabelValues) -> Distribution:
        """Return a series of a histogram."""
        series = self.distributions[instrument.name]
        found = series.get(labels)
        if found is None:
            found = series[labels] = Distribution(instrument.buckets)
        return found


def mark_of(record: Measurement) -> Mark:
    """Return when a record was measured, and its span if it has one."""
    if isinstance(record, RolloutEnded):
        at_ns, span_id = record.end_ns, record.rollout.span_id
    elif isinstance(record, ExchangeEnded):
        at_ns, span_id = record.end_ns, record.span_id
    else:
        at_ns, span_id = record.at_ns, record.span_id
    if not record.rollout.sampled:
        return at_ns, None, None
    return at_ns, span_id, record.rollout.trace_id


def _later(known: Exemplar | None, found: Exemplar) -> Exemplar:
    # Exchanges that ended alike come together, so not all come in the order of time.
    return known if known is not None and known[1][0] > found[1][0] else found
