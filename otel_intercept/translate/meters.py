"""Own the way of metrics out: what measures records, its flush and its shutdown."""

import time
from collections.abc import Callable, Mapping

from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk.metrics import MeterProvider, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource

from otel_intercept.recorder import Recorder
from otel_intercept.semconv import Fate
from otel_intercept.settings import Settings
from otel_intercept.translate import served
from otel_intercept.translate.aggregates import Aggregates
from otel_intercept.translate.balance import BalanceInstruments, BalanceSheet
from otel_intercept.translate.bounded import seconds_until, within
from otel_intercept.translate.collector import Collector
from otel_intercept.translate.guarded import GuardedMetricReader
from otel_intercept.translate.metrics import Instruments, views
from otel_intercept.translate.model_label import ModelLabel
from otel_intercept.translate.scope import SCOPE


class Meters:
    """The metrics half of the pipeline: for a reader, or on another's provider.

    A reader collects from aggregates of our own, which cost a fraction of the SDK's
    instruments. These are used where aggregates would not do what was asked for: on a
    provider of the application, with an exemplar filter that is none of the SDK's, or
    for a reader that aggregates in its own way.

    A provider of the application is flushed, never shut down. Its instruments stay
    there and show the last balance; what becomes of its data points is not known.

    Args:
        source: How metrics leave: a reader, for which a provider is made, or the
            application's provider.
        resource: Who they are from, unless the provider says.
        settings: Model names that may be labels; which measurements are exemplars.
        recorder: Where the balance is read.
        log_fates: Returns the fates of the logs signal, in log records.
    """

    def __init__(
        self,
        source: MetricReader | MeterProvider,
        resource: Resource,
        settings: Settings,
        recorder: Recorder,
        log_fates: Callable[[], Mapping[Fate, int]],
    ) -> None:
        self._reader = None if isinstance(source, MeterProvider) else source
        # Ours also keeps the reader from being given to another, and stops it.
        self._provider = (
            source
            if isinstance(source, MeterProvider)
            else MeterProvider(
                metric_readers=[source],
                resource=resource,
                exemplar_filter=settings.exemplar_filter or TraceBasedExemplarFilter(),
                shutdown_on_exit=False,
                views=views(),
            )
        )
        sheet = BalanceSheet(
            balance=recorder.balance,
            metric_fates=self._fates,
            log_fates=log_fates,
            open_rollouts=lambda: recorder.open_rollouts,
            oldest_rollout_s=lambda: _age_s(recorder.oldest_open_ns()),
        )
        self.instruments = self._measure_by(sheet, resource, settings)

    def _measure_by(
        self, sheet: BalanceSheet, resource: Resource, settings: Settings
    ) -> Aggregates | Instruments:
        label = ModelLabel(settings.models, settings.model_cap)
        meter = self._provider.get_meter(SCOPE.name, SCOPE.version)
        exemplars = served.exemplars_of(settings.exemplar_filter)
        reader = self._reader
        if (
            reader is None
            or exemplars is None
            # The SDK is disabled.
            or isinstance(meter, NoOpMeter)
            or served.wants_own_aggregation(reader)
        ):
            BalanceInstruments(meter, sheet)
            return Instruments(meter, label, counter_exemplars=reader is not None)
        aggregates = Aggregates(label, exemplars)
        temporality = served.temporality_of(reader)
        served.serve(reader, Collector(aggregates, sheet, resource, temporality))
        return aggregates

    def flush(self, timeout_s: float) -> bool:
        """Collect and export now. True when that was confirmed in time."""
        lost = self._lost()
        millis = timeout_s * 1e3
        flushed = within(timeout_s, lambda: self._provider.force_flush(millis))
        return flushed and self._lost() == lost

    def shutdown(self, timeout_s: float) -> None:
        """Export a last time within the budget, and stop a reader of our own."""
        deadline = time.monotonic() + timeout_s
        end = (
            self._provider.force_flush
            if self._reader is None
            else self._provider.shutdown
        )
        within(timeout_s, lambda: end(seconds_until(deadline) * 1e3))

    @property
    def idle(self) -> bool:
        """Whether no export is known to run."""
        return not isinstance(self._reader, GuardedMetricReader) or self._reader.idle

    def _fates(self) -> Mapping[Fate, int]:
        if isinstance(self._reader, GuardedMetricReader):
            return self._reader.fates
        return {}

    def _lost(self) -> int:
        fates = self._fates()
        return fates.get(Fate.FAILED, 0) + fates.get(Fate.DROPPED, 0)


def _age_s(start_ns: int | None) -> float:
    # The wall clock may have been set back since.
    return 0.0 if start_ns is None else max(time.time_ns() - start_ns, 0) / 1e9
