"""Export metrics over OTLP: encoded directly, sent as spans are."""

from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
)

from otel_intercept.translate.otlp_metrics import MetricEncoder
from otel_intercept.translate.outlets import EncodedSpanExporter


class OtlpMetricExporter(MetricExporter):
    """Encodes metrics in small slices and has them sent.

    For metrics that passed the export guard, in one thread at a time, as readers of the
    SDK export.

    Args:
        sender: Sends requests to an endpoint for metrics; shut down with this.
    """

    def __init__(self, sender: EncodedSpanExporter) -> None:
        super().__init__()
        self._sender = sender
        self._encoder = MetricEncoder()

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        """Send the metrics. SUCCESS when they were taken whole."""
        if self._sender.export_encoded(self._encoder.encode(metrics_data)):
            return MetricExportResult.SUCCESS
        return MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Do nothing: an export has ended when it returns."""
        return True

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Stop trying and close the connections. Idempotent."""
        self._sender.shutdown()
