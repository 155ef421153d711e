"""What spans can be handed to: exporters of the SDK's kind, and of encoded requests."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult


class LocalSpanExporter(SpanExporter):
    """A span exporter that can keep spans here, whatever the network does."""

    def export_locally(self, spans: Sequence[ReadableSpan]) -> None:
        """Keep what could not be sent any more. Must not block or raise."""


class EncodedSpanExporter(SpanExporter, ABC):
    """A span exporter that takes requests which are encoded already."""

    @property
    def readers(self) -> SpanExporter | None:
        """What needs the spans themselves, before their request is sent; or None."""
        return None

    @abstractmethod
    def export_encoded(self, request: bytes) -> bool:
        """Send an OTLP request; True when it was taken whole.

        Blocks. Called by several threads at once.

        Args:
            request: A serialised ``ExportTraceServiceRequest``.
        """

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Encode and send the spans of others. SUCCESS when they were taken whole."""
        if self.export_encoded(encode_spans(spans).SerializeToString()):
            return SpanExportResult.SUCCESS
        return SpanExportResult.FAILURE


def needs_readable(exporter: SpanExporter | None) -> bool:
    """Tell whether the exporter wants the SDK's spans, encoded ones aside."""
    if isinstance(exporter, EncodedSpanExporter):
        exporter = exporter.readers
    return exporter is not None
