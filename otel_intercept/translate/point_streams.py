"""One instrument as the SDK's data points: its series merged, collection after another.

A series keeps one attribute dict for its whole life, so that whoever has looked at it
knows it again. Nobody may change it.
"""

from collections.abc import Iterable, Mapping
from math import inf
from operator import add
from typing import Final, NamedTuple, TypeAlias

from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    NumberDataPoint,
    Sum,
)

from otel_intercept.semconv import Instrument
from otel_intercept.translate.balance import Reading
from otel_intercept.translate.interval import Count, Distribution, LabelValues
from otel_intercept.translate.naps import Naps

Attributes: TypeAlias = dict[str, str | bool]

_DELTA: Final = AggregationTemporality.DELTA


class Collection(NamedTuple):
    """One collection: when the last one was, when this one is, and its pace.

    Times are Unix nanoseconds.
    """

    since_ns: int
    now_ns: int
    naps: Naps


class CounterStream:
    """A counter that records add to.

    Args:
        instrument: What it counts.
        temporality: Whether points count since the start or since the last collection;
            then only series that moved have one.
    """

    def __init__(
        self, instrument: Instrument, temporality: AggregationTemporality
    ) -> None:
        self._instrument = instrument
        self._temporality = temporality
        self._series: dict[LabelValues, _Total] = {}

    def data(self, counts: Mapping[LabelValues, Count], collection: Collection) -> Sum:
        """Return the points, after adding what the interval has."""
        for labels, count in counts.items():
            collection.naps.step()
            total = self._series.get(labels)
            if total is None:
                attributes = _attributes(self._instrument, labels)
                total = _Total(attributes, collection.since_ns)
                self._series[labels] = total
            total.value += count.value
        points = (
            self._parts(counts, collection)
            if self._temporality is _DELTA
            else self._wholes(counts, collection)
        )
        return Sum(list(points), self._temporality, is_monotonic=True)

    def _wholes(
        self, counts: Mapping[LabelValues, Count], collection: Collection
    ) -> Iterable[NumberDataPoint]:
        for labels, total in self._series.items():
            collection.naps.step()
            yield NumberDataPoint(
                total.attributes,
                total.start_ns,
                collection.now_ns,
                total.value,
                _exemplar_of(counts.get(labels)),
            )

    def _parts(
        self, counts: Mapping[LabelValues, Count], collection: Collection
    ) -> Iterable[NumberDataPoint]:
        for labels, count in counts.items():
            collection.naps.step()
            yield NumberDataPoint(
                self._series[labels].attributes,
                collection.since_ns,
                collection.now_ns,
                count.value,
                _exemplar_of(count),
            )


class ObservedStream:
    """An instrument that is read when it is collected; each reading is a total.

    Args:
        instrument: What it shows.
        temporality: Whether a counter's points count since the start or since the last
            collection. A gauge has neither.
    """

    def __init__(
        self, instrument: Instrument, temporality: AggregationTemporality
    ) -> None:
        self._instrument = instrument
        self._temporality = temporality
        self._series: dict[LabelValues, _Total] = {}

    def data(self, readings: Iterable[Reading], collection: Collection) -> Sum | Gauge:
        """Return the points of the readings."""
        points = [self._point(*reading, collection) for reading in readings]
        if self._instrument.kind == "gauge":
            return Gauge(points)
        return Sum(points, self._temporality, self._instrument.kind == "counter")

    def _point(
        self, labels: LabelValues, value: float, collection: Collection
    ) -> NumberDataPoint:
        series = self._series.get(labels)
        if series is None:
            attributes = _attributes(self._instrument, labels)
            series = self._series[labels] = _Total(attributes, collection.since_ns)
        before, series.value = series.value, value
        start_ns = series.start_ns
        if self._temporality is _DELTA and self._instrument.kind != "gauge":
            start_ns, value = collection.since_ns, value - before
        return NumberDataPoint(series.attributes, start_ns, collection.now_ns, value)


class HistogramStream:
    """A histogram that records are measured by.

    Args:
        instrument: What it measures.
        temporality: Whether points tell of all values or of those since the last
            collection; then only series that moved have one.
    """

    def __init__(
        self, instrument: Instrument, temporality: AggregationTemporality
    ) -> None:
        self._instrument = instrument
        self._temporality = temporality
        self._series: dict[LabelValues, _Whole] = {}

    def data(
        self, parts: Mapping[LabelValues, Distribution], collection: Collection
    ) -> Histogram:
        """Return the points, after adding what the interval has."""
        points = (
            self._parts(parts, collection)
            if self._temporality is _DELTA
            else self._wholes(parts, collection)
        )
        return Histogram(list(points), self._temporality)

    def _wholes(
        self, parts: Mapping[LabelValues, Distribution], collection: Collection
    ) -> Iterable[HistogramDataPoint]:
        for labels, part in parts.items():
            collection.naps.step()
            whole = self._series.get(labels)
            if whole is None:
                whole = _Whole(
                    _attributes(self._instrument, labels),
                    part.start_ns,
                    self._instrument.buckets,
                )
                self._series[labels] = whole
            whole.add(part)
        for labels, whole in self._series.items():
            collection.naps.step()
            yield whole.point(collection.now_ns, parts.get(labels))

    def _parts(
        self, parts: Mapping[LabelValues, Distribution], collection: Collection
    ) -> Iterable[HistogramDataPoint]:
        for labels, part in parts.items():
            collection.naps.step()
            known = self._series.get(labels)
            start_ns = part.start_ns if known is None else collection.since_ns
            attributes = (
                _attributes(self._instrument, labels)
                if known is None
                else known.attributes
            )
            one = self._series[labels] = _Whole(
                attributes, start_ns, self._instrument.buckets
            )
            one.add(part)
            yield one.point(collection.now_ns, part)


class _Total:
    __slots__ = ("attributes", "start_ns", "value")

    def __init__(self, attributes: Attributes, start_ns: int) -> None:
        self.attributes = attributes
        self.start_ns = start_ns
        self.value: float = 0


class _Whole:
    __slots__ = ("_bounds", "_count", "_counts", "_largest", "_smallest", "_start_ns",
                 "_sum", "attributes")  # fmt: skip

    def __init__(
        self, attributes: Attributes, start_ns: int, bounds: tuple[float, ...]
    ) -> None:
        self.attributes = attributes
        self._start_ns = start_ns
        self._bounds = bounds
        self._count = 0
        self._counts = (0,) * (len(bounds) + 1)
        self._sum: float = 0
        self._smallest = inf
        self._largest = -inf

    def add(self, part: Distribution) -> None:
        """Take in what was measured since the last time."""
        self._counts = tuple(map(add, self._counts, part.counts))
        self._count = sum(self._counts)
        self._sum = part.sum + self._sum
        self._smallest = min(part.smallest, self._smallest)
        self._largest = max(part.largest, self._largest)

    def point(self, now_ns: int, latest: Distribution | None) -> HistogramDataPoint:
        """Return it as a point, with the exemplars of the latest part."""
        return HistogramDataPoint(
            self.attributes,
            self._start_ns,
            now_ns,
            self._count,
            self._sum,
            self._counts,
            self._bounds,
            self._smallest,
            self._largest,
            [] if latest is None else _exemplars_of(latest),
        )


def _attributes(instrument: Instrument, labels: LabelValues) -> Attributes:
    return {
        key: value
        for key, value in zip(instrument.labels, labels, strict=True)
        if value is not None
    }


def _exemplar_of(count: Count | None) -> list[Exemplar]:
    if count is None or count.exemplar is None:
        return []
    number, mark = count.exemplar
    return [Exemplar({}, number, *mark)]


def _exemplars_of(part: Distribution) -> list[Exemplar]:
    return [
        Exemplar({}, value, *mark)
        for _, (value, mark) in sorted(part.exemplars.items())
    ]
