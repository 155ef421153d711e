"""Have a reader of the SDK collect from our aggregates instead of SDK instruments.

The SDK has no public way to give a reader metrics that no instrument of it recorded.
What is used here is what its own provider uses, and all of that is in this module.
"""

from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Counter,
    ExemplarFilter,
    Histogram,
    ObservableCounter,
    ObservableGauge,
    ObservableUpDownCounter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import AggregationTemporality, MetricReader
from opentelemetry.sdk.metrics.view import DefaultAggregation

from otel_intercept import semconv
from otel_intercept.semconv import Instrument
from otel_intercept.translate.aggregates import Exemplars
from otel_intercept.translate.balance import OBSERVED
from otel_intercept.translate.collector import Collector

_EXEMPLARS: Final[Mapping[type[ExemplarFilter], Exemplars]] = {
    TraceBasedExemplarFilter: "sampled",
    AlwaysOnExemplarFilter: "all",
    AlwaysOffExemplarFilter: "none",
}


def exemplars_of(exemplar_filter: ExemplarFilter | None) -> Exemplars | None:
    """Return what a filter of the SDK means; None for a filter of somebody's own."""
    if exemplar_filter is None:
        return "sampled"
    return _EXEMPLARS.get(type(exemplar_filter))


def wants_own_aggregation(reader: MetricReader) -> bool:
    """Tell whether a reader aggregates in its own way what we would only add up.

    Histograms do not matter: our views set their buckets for every reader.
    """
    preferred = reader._instrument_class_aggregation  # noqa: SLF001 - not public
    return any(
        not isinstance(aggregation, DefaultAggregation)
        for kind, aggregation in preferred.items()
        if not issubclass(kind, Histogram)
    )


def temporality_of(
    reader: MetricReader,
) -> Mapping[Instrument, AggregationTemporality]:
    """Return how a reader wants each of our instruments counted."""
    preferred = reader._instrument_class_temporality  # noqa: SLF001 - not public
    return {
        instrument: next(
            temporality
            for kind, temporality in preferred.items()
            if issubclass(kind, _kind_of(instrument))
        )
        for instrument in semconv.INSTRUMENTS
    }


def serve(reader: MetricReader, collector: Collector) -> None:
    """Have the reader collect from the collector alone, from now on."""
    reader._set_collect_callback(collector.collect)  # noqa: SLF001 - not public


def _kind_of(instrument: Instrument) -> type:
    match instrument.kind:
        case "histogram":
            return Histogram
        case "gauge":
            return ObservableGauge
        case "updowncounter":
            return ObservableUpDownCounter
        case "counter":
            return ObservableCounter if instrument in OBSERVED else Counter
