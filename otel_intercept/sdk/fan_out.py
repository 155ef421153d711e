"""Send the same telemetry to several exporters; exported is what all of them took."""

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TypeVar

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_intercept.sdk.otlp_file import OtlpFileSpanExporter
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.outlets import EncodedSpanExporter, LocalSpanExporter

T = TypeVar("T")

_logger: Final = logging.getLogger("otel_intercept.sdk")


class FanOutSpanExporter(LocalSpanExporter):
    """Exports to each exporter in turn; one that fails or raises stops no other.

    Files come first, so that they hold what a slow collector keeps waiting.

    Args:
        exporters: Where the spans go.
    """

    def __init__(self, exporters: Sequence[SpanExporter]) -> None:
        self._files = tuple(e for e in exporters if isinstance(e, OtlpFileSpanExporter))
        self._exporters = (
            *self._files,
            *(exporter for exporter in exporters if exporter not in self._files),
        )
        self._complaints = Complaints(_logger)

    @staticmethod
    def of(exporters: Sequence[SpanExporter]) -> SpanExporter | None:
        """Return one exporter to all of them; None for none."""
        if len(exporters) < 2:
            return exporters[0] if exporters else None
        for exporter in exporters:
            if isinstance(exporter, EncodedSpanExporter):
                others = [other for other in exporters if other is not exporter]
                return EncodedFanOut(FanOutSpanExporter(others), exporter)
        return FanOutSpanExporter(exporters)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export to all; SUCCESS only when all succeeded. Never raises."""
        results = [
            _attempt(partial(exporter.export, spans), self._complaints)
            for exporter in self._exporters
        ]
        if all(result is SpanExportResult.SUCCESS for result in results):
            return SpanExportResult.SUCCESS
        return SpanExportResult.FAILURE

    def export_locally(self, spans: Sequence[ReadableSpan]) -> None:
        """Write to the files alone. Never raises."""
        for file in self._files:
            _attempt(partial(file.export, spans), self._complaints)

    def shutdown(self) -> None:
        """Shut all down. Never raises."""
        for exporter in self._exporters:
            _attempt(exporter.shutdown, self._complaints)

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush all; True when all did. Never raises."""
        results = [
            _attempt(partial(exporter.force_flush, timeout_millis), self._complaints)
            for exporter in self._exporters
        ]
        return all(results)


class EncodedFanOut(EncodedSpanExporter, LocalSpanExporter):
    """Exports encoded spans to one exporter, and the spans themselves to others.

    Args:
        readers: Where the spans themselves go, before they are sent.
        encoded: Where the encoded spans go.
    """

    def __init__(
        self, readers: FanOutSpanExporter, encoded: EncodedSpanExporter
    ) -> None:
        self._readers = readers
        self._encoded = encoded
        self._all = FanOutSpanExporter((readers, encoded))

    @property
    def readers(self) -> SpanExporter:
        """Where the spans themselves go."""
        return self._readers

    def export_encoded(self, request: bytes) -> bool:
        """Export the encoded spans, to the one that wants those."""
        return self._encoded.export_encoded(request)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Export spans of others to all; SUCCESS only when all succeeded."""
        return self._all.export(spans)

    def export_locally(self, spans: Sequence[ReadableSpan]) -> None:
        """Write to the files alone. Never raises."""
        self._readers.export_locally(spans)

    def shutdown(self) -> None:
        """Shut all down. Never raises."""
        self._all.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Flush all; True when all did. Never raises."""
        return self._all.force_flush(timeout_millis)


class FanOutMetricExporter(MetricExporter):
    """Exports to each exporter in turn; one that fails or raises stops no other.

    Args:
        exporters: Where the metrics go.
    """

    def __init__(self, exporters: Sequence[MetricExporter]) -> None:
        super().__init__()
        self._exporters = tuple(exporters)
        self._complaints = Complaints(_logger)

    @staticmethod
    def of(exporters: Sequence[MetricExporter]) -> MetricExporter | None:
        """Return one exporter to all of them; None for none."""
        if len(exporters) > 1:
            return FanOutMetricExporter(exporters)
        return exporters[0] if exporters else None

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        """Export to all; SUCCESS only when all succeeded. Never raises."""
        export = [
            partial(exporter.export, metrics_data, timeout_millis)
            for exporter in self._exporters
        ]
        results = [_attempt(call, self._complaints) for call in export]
        if all(result is MetricExportResult.SUCCESS for result in results):
            return MetricExportResult.SUCCESS
        return MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Flush all; True when all did. Never raises."""
        results = [
            _attempt(partial(exporter.force_flush, timeout_millis), self._complaints)
            for exporter in self._exporters
        ]
        return all(results)

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Shut all down. Never raises."""
        for exporter in self._exporters:
            _attempt(partial(exporter.shutdown, timeout_millis), self._complaints)


class FanOutLogExporter(LogRecordExporter):
    """Exports to each exporter in turn; one that fails or raises stops no other.

    Args:
        exporters: Where the log records go.
    """

    def __init__(self, exporters: Sequence[LogRecordExporter]) -> None:
        self._exporters = tuple(exporters)
        self._complaints = Complaints(_logger)

    @staticmethod
    def of(exporters: Sequence[LogRecordExporter]) -> LogRecordExporter | None:
        """Return one exporter to all of them; None for none."""
        if len(exporters) > 1:
            return FanOutLogExporter(exporters)
        return exporters[0] if exporters else None

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Export to all; SUCCESS only when all succeeded. Never raises."""
        export = [partial(exporter.export, batch) for exporter in self._exporters]
        results = [_attempt(call, self._complaints) for call in export]
        if all(result is LogRecordExportResult.SUCCESS for result in results):
            return LogRecordExportResult.SUCCESS
        return LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush all; True when all did. Never raises."""
        results = [
            _attempt(partial(exporter.force_flush, timeout_millis), self._complaints)
            for exporter in self._exporters
        ]
        return all(results)

    def shutdown(self) -> None:
        """Shut all down. Never raises."""
        for exporter in self._exporters:
            _attempt(exporter.shutdown, self._complaints)


def _attempt(call: Callable[[], T], complaints: Complaints) -> T | None:
    try:
        return call()
    except Exception:  # noqa: BLE001 - one exporter's mistake, whose text may leak
        complaints.warn("an exporter raised; what it was given counts as failed")
        return None
