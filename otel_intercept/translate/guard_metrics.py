"""The export guard for metric points: names and labels of the catalogue only."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, TypeVar

from opentelemetry.sdk.metrics.export import (
    DataT,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)

from otel_intercept import semconv
from otel_intercept.translate.guard import Guard, safe_value
from otel_intercept.translate.naps import Naps

_Point = TypeVar("_Point", NumberDataPoint, HistogramDataPoint)

_MAX_PASSED: Final = 16384

_LABELS: Final = {
    instrument.name: frozenset(instrument.labels) for instrument in semconv.INSTRUMENTS
}


class MetricGuard:
    """Rebuilds metric data so that only what the catalogue allows is left.

    A point with a label that is not the instrument's is dropped whole: without the
    label it would stand for another series. Exemplars keep their ids and value only.

    Attributes that have passed are remembered by identity and content, so a series that
    keeps its dict is looked at closely once. A point without anything to change passes
    as it is.

    Args:
        guard: Checks resource and scope, and counts what is dropped.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._passed: dict[int, _Passed] = {}
        self._naps = Naps()

    def data(self, data: MetricsData) -> tuple[MetricsData, int]:
        """Return the safe form of the data, and how many points are in it.

        Sleeps for a moment between slices, unless an event loop runs in this thread.
        """
        self._naps = Naps()
        safe = MetricsData([self._resource(item) for item in data.resource_metrics])
        return safe, count_points(safe)

    def _resource(self, item: ResourceMetrics) -> ResourceMetrics:
        resource = self._guard.resource(item.resource)
        scopes = [self._scope(scope) for scope in item.scope_metrics]
        return ResourceMetrics(resource, scopes, resource.schema_url)

    def _scope(self, item: ScopeMetrics) -> ScopeMetrics:
        scope = self._guard.scope(item.scope)
        metrics = [safe for metric in item.metrics if (safe := self._metric(metric))]
        return ScopeMetrics(scope, metrics, scope.schema_url or "")

    def _metric(self, metric: Metric) -> Metric | None:
        labels = _LABELS.get(metric.name)
        data = None if labels is None else self._points(metric.data, labels)
        if data is None:
            self._guard.dropped += len(metric.data.data_points)
            return None
        return replace(metric, data=data)

    def _points(self, data: DataT, labels: frozenset[str]) -> DataT | None:
        match data:
            case Sum() | Gauge():
                return replace(data, data_points=self._safe(data.data_points, labels))
            case Histogram():
                return replace(data, data_points=self._safe(data.data_points, labels))
            case _:
                return None

    def _safe(self, points: Sequence[_Point], labels: frozenset[str]) -> list[_Point]:
        safe = []
        for point in points:
            self._naps.step()
            attributes = point.attributes or {}
            if self._has_passed(attributes, labels) and _is_bare(point):
                safe.append(point)
                continue
            values = {key: safe_value(value) for key, value in attributes.items()}
            if values.keys() <= labels and None not in values.values():
                exemplars = [
                    replace(exemplar, filtered_attributes={})
                    for exemplar in point.exemplars
                ]
                safe.append(replace(point, attributes=values, exemplars=exemplars))
                if values == attributes:
                    self._remember(attributes, labels)
            else:
                self._guard.dropped += 1
        return safe

    def _has_passed(
        self, attributes: Mapping[str, object], labels: frozenset[str]
    ) -> bool:
        passed = self._passed.get(id(attributes))
        return (
            passed is not None
            and passed.attributes is attributes
            and passed.labels is labels
            and passed.content == attributes
        )

    def _remember(
        self, attributes: Mapping[str, object], labels: frozenset[str]
    ) -> None:
        if len(self._passed) >= _MAX_PASSED:
            self._passed.clear()
        self._passed[id(attributes)] = _Passed(attributes, dict(attributes), labels)


class _Passed(NamedTuple):
    """Attributes as they passed. Holding them keeps their id from being used again."""

    attributes: Mapping[str, object]
    content: dict[str, object]
    labels: frozenset[str]


def _is_bare(point: NumberDataPoint | HistogramDataPoint) -> bool:
    return not any(exemplar.filtered_attributes for exemplar in point.exemplars)


def count_points(data: MetricsData) -> int:
    """Return the number of points in the data."""
    return sum(len(metric.data.data_points) for metric in metrics_of(data))


def metrics_of(data: MetricsData) -> Iterable[Metric]:
    """Return every metric of every resource and scope in the data."""
    for resource in data.resource_metrics:
        for scope in resource.scope_metrics:
            yield from scope.metrics
