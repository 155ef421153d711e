"""Write OTLP JSON lines to a file, as the collector and Jaeger read them."""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_intercept.sdk.otlp_json import logs_line, metrics_line, spans_line

_OWNER_ONLY: Final = 0o600


class OtlpFileSpanExporter(SpanExporter):
    """Appends one ``ExportTraceServiceRequest`` per batch to a file.

    Readable by the collector's ``otlp_json_file`` receiver, by Jaeger's upload and by
    ``read_spans``. A new file can be read by its owner only. Several processes may
    write to one file: a line is written at once.

    Args:
        path: The file.

    Raises:
        OSError: The file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._file = _LineFile(path)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Append the spans. FAILURE when the disk refuses them. Never raises."""
        if self._file.append(spans_line(spans)):
            return SpanExportResult.SUCCESS
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Do nothing: every batch is handed to the operating system at once."""
        return True


class OtlpFileMetricExporter(MetricExporter):
    """Appends one ``ExportMetricsServiceRequest`` per export to a file.

    Args:
        path: The file; not the one of the spans, since their readers take no metrics.

    Raises:
        OSError: The file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = _LineFile(path)

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        """Append the metrics. FAILURE when the disk refuses them. Never raises."""
        if self._file.append(metrics_line(metrics_data)):
            return MetricExportResult.SUCCESS
        return MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: every export is handed to the operating system at once."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Close the file. Idempotent."""
        self._file.close()


class OtlpFileLogExporter(LogRecordExporter):
    """Appends one ``ExportLogsServiceRequest`` per batch to a file.

    Args:
        path: The file; not the one of the spans, since their readers take no logs.

    Raises:
        OSError: The file cannot be opened for writing.
    """

    def __init__(self, path: Path) -> None:
        self._file = _LineFile(path)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Append the log records. FAILURE when the disk refuses. Never raises."""
        if self._file.append(logs_line(batch)):
            return LogRecordExportResult.SUCCESS
        return LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Do nothing: every batch is handed to the operating system at once."""
        return True

    def shutdown(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()


class _LineFile:
    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._lock = threading.Lock()
        self._torn = _ends_torn(path)
        self._fd: int | None = os.open(path, flags, _OWNER_ONLY)

    def append(self, line: bytes) -> bool:
        with self._lock:
            if self._fd is None:
                return False
            # After a torn line, so that the next one can be read.
            pending = memoryview(b"\n" + line if self._torn else line)
            try:
                while pending:
                    pending = pending[os.write(self._fd, pending) :]
                    self._torn = True
            except OSError:
                return False
            self._torn = False
            return True

    def close(self) -> None:
        with self._lock:
            if self._fd is not None:
                os.close(self._fd)
                self._fd = None


def _ends_torn(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"
    except OSError:
        return False
