"""Make what exports in a process: exporters, a reader, filters on their logs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.trace.export import SpanExporter

from otel_intercept.sdk.environment import Environment
from otel_intercept.sdk.export_logs import ExportLogs
from otel_intercept.sdk.exporters import (
    build_log_exporter,
    build_metric_exporter,
    build_span_exporter,
)
from otel_intercept.telemetry import Telemetry
from otel_intercept.translate.guarded import GuardedMetricReader


@dataclass(frozen=True, slots=True)
class Parts:
    """What exports the three signals; None for one that is not exported."""

    spans: SpanExporter | None
    metrics: GuardedMetricReader | None
    logs: LogRecordExporter | None


def build_parts(environment: Environment) -> Parts:
    """Make exporters and reader.

    Raises:
        ConfigurationError: A file or a TLS credential cannot be used.
    """
    spans = build_span_exporter(environment.traces)
    metrics = build_metric_exporter(environment.metrics)
    logs = build_log_exporter(environment.logs)
    reader = None
    if metrics is not None:
        # Last, since it starts a thread, which nobody would stop if the others raise.
        reader = GuardedMetricReader(metrics, interval_s=environment.metric_interval_s)
    return Parts(spans, reader, logs)


@contextmanager
def exporting_here(environment: Environment) -> Iterator[Telemetry]:
    """Give telemetry that is exported by this process, and wind it down.

    Raises:
        ConfigurationError: A file or a TLS credential cannot be used.
    """
    logs = ExportLogs()
    # Before the exporters are made, since making them logs malformed headers.
    logs.install()
    telemetry = None
    try:
        parts = build_parts(environment)
        telemetry = Telemetry(
            span_exporter=parts.spans,
            metric_reader=parts.metrics,
            log_exporter=parts.logs,
            resource=environment.resource,
            settings=environment.settings,
        )
        logs.install()
        yield telemetry
    finally:
        if telemetry is not None:
            telemetry.shutdown()
        # An export that was given up still runs, and may still log.
        if telemetry is None or telemetry.idle:
            logs.remove()
