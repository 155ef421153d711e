"""Collect what was aggregated, in the SDK's data classes, for one of its readers."""

import os
import threading
import time
from collections.abc import Iterable, Mapping

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    Metric,
    MetricReader,
    MetricsData,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource

from otel_intercept.semconv import Instrument
from otel_intercept.translate.aggregates import Aggregates
from otel_intercept.translate.balance import OBSERVED, BalanceSheet
from otel_intercept.translate.interval import COUNTERS, HISTOGRAMS
from otel_intercept.translate.naps import Naps
from otel_intercept.translate.point_streams import (
    Collection,
    CounterStream,
    HistogramStream,
    ObservedStream,
)
from otel_intercept.translate.scope import SCOPE


class Collector:
    """Gives one reader every series, as it wants them counted.

    Collections wait for each other; none waits for the event loop, or holds the
    interpreter lock for more than some of its points at a time.

    Args:
        aggregates: Where the intervals come from.
        sheet: Where the observed values come from.
        resource: Who the metrics are from.
        temporality: The reader's choice for each instrument.
    """

    def __init__(
        self,
        aggregates: Aggregates,
        sheet: BalanceSheet,
        resource: Resource,
        temporality: Mapping[Instrument, AggregationTemporality],
    ) -> None:
        self._aggregates = aggregates
        self._sheet = sheet
        self._resource = resource
        self._counters = {
            each: CounterStream(each, temporality[each]) for each in COUNTERS
        }
        self._histograms = {
            each: HistogramStream(each, temporality[each]) for each in HISTOGRAMS
        }
        self._observed = {
            each: ObservedStream(each, temporality[each]) for each in OBSERVED
        }
        self._since_ns = time.time_ns()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def collect(
        self,
        _reader: MetricReader,
        timeout_millis: float = 10_000,
    ) -> MetricsData:
        """Return every series as it is now, in one resource and scope.

        Returns:
            Nothing at all in a fork of the process, where a reader of the SDK goes on:
            the series are the parent's, and stand still.
        """
        if os.getpid() != self._pid:
            return MetricsData([])
        with self._lock:
            metrics = [
                Metric(instrument.name, instrument.description, instrument.unit, data)
                for instrument, data in self._data()
                if data.data_points
            ]
        scope = ScopeMetrics(SCOPE, metrics, SCOPE.schema_url or "")
        return MetricsData(
            [ResourceMetrics(self._resource, [scope], self._resource.schema_url)]
        )

    def _data(self) -> Iterable[tuple[Instrument, Sum | Gauge | Histogram]]:
        interval = self._aggregates.take()
        readings = self._sheet.read()
        collection = Collection(self._since_ns, time.time_ns(), Naps())
        self._since_ns = collection.now_ns
        for each, counter in self._counters.items():
            yield each, counter.data(interval.counts[each.name], collection)
        for each, histogram in self._histograms.items():
            yield each, histogram.data(interval.distributions[each.name], collection)
        for each, observed in self._observed.items():
            yield each, observed.data(readings[each], collection)
