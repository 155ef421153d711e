"""Own the meter provider: its instruments, its flush and its bounded shutdown."""

import time
from collections.abc import Callable, Mapping

from opentelemetry.sdk.metrics import MeterProvider, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource

from otel_intercept.recorder import Recorder
from otel_intercept.semconv import Fate
from otel_intercept.settings import Settings
from otel_intercept.translate.bounded import seconds_until, within
from otel_intercept.translate.guarded import GuardedMetricReader
from otel_intercept.translate.metrics import (
    BalanceInstruments,
    Instruments,
    ModelLabel,
    views,
)
from otel_intercept.translate.scope import SCOPE


class Meters:
    """The metrics half of the pipeline: one meter, on our provider or on another's.

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
        meter = self._provider.get_meter(SCOPE.name, SCOPE.version)
        self.instruments = Instruments(
            meter,
            ModelLabel(settings.models, settings.model_cap),
            counter_exemplars=self._reader is not None,
        )
        self._balance = BalanceInstruments(
            meter,
            balance=recorder.balance,
            metric_fates=self._fates,
            log_fates=log_fates,
            open_rollouts=lambda: recorder.open_rollouts,
            oldest_rollout_s=lambda: _age_s(recorder.oldest_open_ns()),
        )

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
