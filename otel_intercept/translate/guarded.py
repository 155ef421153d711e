"""Put the export guard before SDK exporters, and count what they really exported."""

import logging
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_intercept.semconv import Fate
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.guard_metrics import MetricGuard, count_points
from otel_intercept.translate.outlets import EncodedSpanExporter

_logger: Final = logging.getLogger("otel_intercept.translate")
_exporting: Final[ContextVar[bool]] = ContextVar(
    "otel_intercept_exporting", default=False
)


def is_exporting() -> bool:
    """Tell whether the caller runs inside an export of ours."""
    return _exporting.get()


@contextmanager
def exporting() -> Iterator[None]:
    """Mark the block as an export: other instrumentation makes no spans in it."""
    token = _exporting.set(True)
    try:
        with suppress_instrumentation():
            yield
    finally:
        _exporting.reset(token)


def export_spans(
    exporter: SpanExporter, spans: Sequence[ReadableSpan], complaints: Complaints
) -> bool:
    """Export spans that passed the guard; False when refused, lost or raised."""
    with exporting():
        try:
            return exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - an exporter's mistake, whose text may leak
            complaints.warn("a span exporter raised; its batch counts as failed")
            return False


def export_request(
    exporter: EncodedSpanExporter, request: bytes, complaints: Complaints
) -> bool:
    """Export encoded spans that passed the guard; False when refused or raised."""
    with exporting():
        try:
            return exporter.export_encoded(request)
        except Exception:  # noqa: BLE001 - an exporter's mistake, whose text may leak
            complaints.warn("a span exporter raised; its batch counts as failed")
            return False


class GuardedSpanExporter(SpanExporter):
    """The export guard before another span exporter, for tracer providers not ours.

    ``Telemetry`` adds the guard by itself; this is for the spans of other libraries.

    Args:
        exporter: Where the guarded spans go.
        guard: The guard to use; a new one by default.
    """

    def __init__(self, exporter: SpanExporter, guard: Guard | None = None) -> None:
        self._exporter = exporter
        self._guard = guard or Guard()
        self._complaints = Complaints(_logger)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export what the guard lets through. Never raises."""
        safe = self._guard.spans(spans)
        if export_spans(self._exporter, safe, self._complaints):
            return SpanExportResult.SUCCESS
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Shut the other exporter down."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush the other exporter."""
        return self._exporter.force_flush(timeout_millis)


class GuardedMetricExporter(MetricExporter):
    """The export guard before another metric exporter, with a count of data points.

    Cumulative temporality, so that a lost export loses no count.

    Args:
        exporter: Where the guarded points go.
        guard: The guard to use; a new one by default.
    """

    def __init__(self, exporter: MetricExporter, guard: Guard | None = None) -> None:
        super().__init__()
        self._exporter = exporter
        self._guard = MetricGuard(guard or Guard())
        self._complaints = Complaints(_logger)
        self._fates = dict.fromkeys(Fate, 0)
        self._running = 0
        self._lock = threading.Lock()

    @property
    def fates(self) -> Mapping[Fate, int]:
        """How many data points had which fate so far."""
        with self._lock:
            return self._fates.copy()

    @property
    def idle(self) -> bool:
        """Whether no export is running."""
        with self._lock:
            return self._running == 0

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        """Export what the guard lets through. Never raises.

        Where there is nothing, as in a fork, whose connections are the parent's, the
        exporter is left alone.
        """
        if not metrics_data.resource_metrics:
            return MetricExportResult.SUCCESS
        safe, number = self._guard.data(metrics_data)
        with self._lock:
            self._running += 1
        result = MetricExportResult.FAILURE
        try:
            with exporting():
                result = self._exporter.export(safe, timeout_millis=timeout_millis)
        except Exception:  # noqa: BLE001 - an exporter's mistake, whose text may leak
            self._complaints.warn("a metric exporter raised; its points have failed")
        taken = result is MetricExportResult.SUCCESS
        with self._lock:
            self._running -= 1
            self._fates[Fate.EXPORTED if taken else Fate.FAILED] += number
            self._fates[Fate.DROPPED] += count_points(metrics_data) - number
        return result

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flush the other exporter."""
        return self._exporter.force_flush(timeout_millis)

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Shut the other exporter down."""
        self._exporter.shutdown(timeout_millis)


class GuardedMetricReader(PeriodicExportingMetricReader):
    """A periodic reader whose exporter stands behind the export guard.

    Args:
        exporter: Where the guarded points go.
        interval_s: Seconds between two exports; infinite for none but on flush.
        timeout_s: Seconds that one collection may take.
        guard: The guard to use; a new one by default.
    """

    def __init__(
        self,
        exporter: MetricExporter,
        *,
        interval_s: float = 60.0,
        timeout_s: float = 30.0,
        guard: Guard | None = None,
    ) -> None:
        self._interval_s = interval_s
        self._guarded = GuardedMetricExporter(exporter, guard)
        super().__init__(
            self._guarded,
            export_interval_millis=interval_s * 1e3,
            export_timeout_millis=timeout_s * 1e3,
        )

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Export a last time and stop, within the time given."""
        # Otherwise the thread does it, which an endless interval has not.
        try:
            if math.isinf(self._interval_s):
                self.collect(timeout_millis)
        finally:
            super().shutdown(timeout_millis)

    @property
    def fates(self) -> Mapping[Fate, int]:
        """How many data points had which fate so far."""
        return self._guarded.fates

    @property
    def idle(self) -> bool:
        """Whether no export is running."""
        return self._guarded.idle
