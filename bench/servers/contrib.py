"""opentelemetry-instrumentation-aiohttp-server, spans and metrics over OTLP/HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from bench.servers.app import AppSite, Site, make_app


@contextmanager
def serve(sink: str) -> Iterator[Site]:
    """Give the app made while aiohttp is instrumented."""
    spans = TracerProvider()
    exporter = OTLPSpanExporter(endpoint=f"{sink}/v1/traces")
    spans.add_span_processor(BatchSpanProcessor(exporter))
    reader = PeriodicExportingMetricReader(
        OTLPMetricExporter(endpoint=f"{sink}/v1/metrics")
    )
    metrics = MeterProvider([reader])
    trace.set_tracer_provider(spans)
    set_meter_provider(metrics)
    AioHttpServerInstrumentor().instrument()
    try:
        yield AppSite(make_app())
    finally:
        spans.shutdown()
        metrics.shutdown()
