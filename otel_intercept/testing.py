"""Look at everything that telemetry would send: the real pipeline, kept in memory."""

import dataclasses
import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics.export import (
    DataPointT,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler

from otel_intercept.settings import Settings
from otel_intercept.telemetry import Telemetry
from otel_intercept.translate.guard_metrics import metrics_of
from otel_intercept.translate.guarded import GuardedMetricReader
from otel_intercept.translate.outlets import EncodedSpanExporter


class MetricPoint(NamedTuple):
    """One series as it stands.

    Args:
        name: The instrument's name.
        attributes: The series' labels.
        value: The sum of a counter, the value of a gauge, or how many measurements a
            histogram has.
        point: The SDK's own point, with a histogram's ``sum`` and ``bucket_counts``,
            and with ``exemplars``.
    """

    name: str
    attributes: Mapping[str, object]
    value: float
    point: DataPointT


class TelemetryRecorder:
    """Telemetry for tests: records, translates, guards and encodes, but sends nothing.

    The pipeline is the one of production, without its thread: everything happens in
    `flush`, in the thread that calls it. ::

        recorder = TelemetryRecorder()
        registry = RolloutRegistry(recorder.telemetry)
        ...
        assert [span.name for span in recorder.spans()] == ["rollout"]
        assert recorder.value("intercept.rollouts") == 1
        assert recorder.logs() == []
        assert b"canary" not in recorder.exported_bytes()

    Failures are always logged as well (``intercept.failure``), so that what is asserted
    of the bytes holds whether or not that is switched on in production.

    Args:
        settings: Settings of the telemetry; ``recorder`` is always ``inline``.
        sampler: Overrides the sampler of the settings.
    """

    def __init__(
        self, settings: Settings | None = None, sampler: Sampler | None = None
    ) -> None:
        settings = dataclasses.replace(settings or Settings(), recorder="inline")
        if sampler is not None:
            settings = dataclasses.replace(settings, sampler=sampler)
        self._spans = _MemorySpanExporter()
        self._metrics = _MemoryMetricExporter()
        self._logs = _MemoryLogExporter()
        self.telemetry = Telemetry(
            span_exporter=self._spans,
            metric_reader=GuardedMetricReader(self._metrics, interval_s=math.inf),
            resource=Resource({"service.name": "test"}),
            settings=settings,
            log_exporter=self._logs,
        )

    def flush(self) -> bool:
        """Translate and export what has ended; True when nothing was lost."""
        return self.telemetry.flush()

    def spans(self) -> list[ReadableSpan]:
        """Return every span exported so far, in the order of export. Flushes first."""
        self.flush()
        return self._spans.exported()

    def logs(self) -> list[ReadableLogRecord]:
        """Return every log record of a failure so far, oldest first. Flushes first."""
        self.flush()
        return self._logs.exported()

    def metrics(self) -> list[MetricPoint]:
        """Return every series as it stands now. Flushes first.

        Exemplars are those since the previous flush, as a collector would get them.
        """
        self.flush()
        return list(_points_of(self._metrics.latest()))

    def value(self, name: str, attributes: Mapping[str, object] | None = None) -> float:
        """Return the sum of the values of one instrument's series. Flushes first.

        Args:
            name: The instrument's name.
            attributes: Labels that a series must have to be summed; None takes all.

        Returns:
            The sum, 0 when there is no such series.
        """
        wanted = (attributes or {}).items()
        return sum(
            point.value
            for point in self.metrics()
            if point.name == name and wanted <= point.attributes.items()
        )

    def exported_bytes(self) -> bytes:
        """Return every OTLP byte that would have left so far, of all signals.

        The serialised requests of all flushes, one after the other. Flushes first.
        """
        self.flush()
        signals = (self._spans, self._metrics, self._logs)
        return b"".join(payload for signal in signals for payload in signal.payloads())


class _MemorySpanExporter(EncodedSpanExporter):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exported: list[ReadableSpan] = []
        self._payloads: list[bytes] = []

    @property
    def readers(self) -> SpanExporter:
        return self

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self._lock:
            self._exported.extend(spans)
        return SpanExportResult.SUCCESS

    def export_encoded(self, request: bytes) -> bool:
        with self._lock:
            self._payloads.append(request)
        return True

    def exported(self) -> list[ReadableSpan]:
        with self._lock:
            return self._exported.copy()

    def payloads(self) -> list[bytes]:
        with self._lock:
            return self._payloads.copy()


class _MemoryLogExporter(LogRecordExporter):
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._exported: list[ReadableLogRecord] = []
        self._payloads: list[bytes] = []

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        payload = encode_logs(batch).SerializeToString()
        with self._lock:
            self._exported.extend(batch)
            self._payloads.append(payload)
        return LogRecordExportResult.SUCCESS

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return True

    def shutdown(self) -> None:
        return

    def exported(self) -> list[ReadableLogRecord]:
        with self._lock:
            return self._exported.copy()

    def payloads(self) -> list[bytes]:
        with self._lock:
            return self._payloads.copy()


class _MemoryMetricExporter(MetricExporter):
    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._latest = MetricsData([])
        self._payloads: list[bytes] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        payload = encode_metrics(metrics_data).SerializeToString()
        with self._lock:
            self._latest = metrics_data
            self._payloads.append(payload)
        return MetricExportResult.SUCCESS

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        return

    def latest(self) -> MetricsData:
        with self._lock:
            return self._latest

    def payloads(self) -> list[bytes]:
        with self._lock:
            return self._payloads.copy()


def _points_of(data: MetricsData) -> Iterator[MetricPoint]:
    for metric in metrics_of(data):
        for point in metric.data.data_points:
            value = point.value if isinstance(point, NumberDataPoint) else point.count
            yield MetricPoint(metric.name, point.attributes or {}, value, point)
