"""Build exporters from what was read, not from ``os.environ``.

What only some need is imported late: gRPC alone is 4,000 objects, which every full
collection of garbage would look at in a process that exports over HTTP.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from opentelemetry.sdk._logs.export import ConsoleLogRecordExporter, LogRecordExporter
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, MetricExporter
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SpanExporter

from otel_intercept.errors import ConfigurationError
from otel_intercept.sdk.environment import Outputs
from otel_intercept.sdk.fan_out import (
    FanOutLogExporter,
    FanOutMetricExporter,
    FanOutSpanExporter,
)
from otel_intercept.sdk.http_session import ExportSession
from otel_intercept.sdk.otlp_file import (
    OtlpFileLogExporter,
    OtlpFileMetricExporter,
    OtlpFileSpanExporter,
)
from otel_intercept.sdk.otlp_http import OtlpHttpExporter
from otel_intercept.sdk.otlp_metric_exporter import OtlpMetricExporter
from otel_intercept.sdk.target import Target

if TYPE_CHECKING:
    import grpc

T = TypeVar("T")


def build_span_exporter(outputs: Outputs) -> SpanExporter | None:
    """Return an exporter to all the outputs, the file first; None without outputs.

    Raises:
        ConfigurationError: A file or a TLS credential cannot be used.
    """
    exporters = _build_all(
        outputs,
        file=OtlpFileSpanExporter,
        console=lambda: ConsoleSpanExporter(out=sys.stdout),
        over_grpc=_grpc_spans,
        over_http=_http_spans,
    )
    return FanOutSpanExporter.of(exporters)


def build_metric_exporter(outputs: Outputs) -> MetricExporter | None:
    """Return an exporter to all the outputs, the file first; None without outputs.

    Raises:
        ConfigurationError: A file or a TLS credential cannot be used.
    """
    exporters = _build_all(
        outputs,
        file=OtlpFileMetricExporter,
        console=lambda: ConsoleMetricExporter(out=sys.stdout),
        over_grpc=_grpc_metrics,
        over_http=_http_metrics,
    )
    return FanOutMetricExporter.of(exporters)


def build_log_exporter(outputs: Outputs) -> LogRecordExporter | None:
    """Return an exporter to all the outputs, the file first; None without outputs.

    Raises:
        ConfigurationError: A file or a TLS credential cannot be used.
    """
    exporters = _build_all(
        outputs,
        file=OtlpFileLogExporter,
        console=lambda: ConsoleLogRecordExporter(out=sys.stdout),
        over_grpc=_grpc_logs,
        over_http=_http_logs,
    )
    return FanOutLogExporter.of(exporters)


def open_session(target: Target) -> ExportSession:
    """Return a session that speaks as the HTTP exporters to this target do."""
    session = ExportSession(target.headers)
    _set_tls(session, target)
    return session


def open_channel(target: Target) -> "grpc.Channel":
    """Return a channel that speaks as the gRPC exporters to this target do.

    Raises:
        ConfigurationError: A TLS credential cannot be used.
    """
    from otel_intercept.sdk import grpc_exporters

    return _connect(grpc_exporters.channel, target)


def _build_all(
    outputs: Outputs,
    *,
    file: Callable[[Path], T],
    console: Callable[[], T],
    over_grpc: Callable[[Target], T],
    over_http: Callable[[Target], T],
) -> list[T]:
    """Build one exporter for each output that there is."""
    exporters: list[T] = []
    if outputs.file is not None:
        exporters.append(_open(file, outputs.file))
    if outputs.console:
        exporters.append(console())
    if outputs.target is not None:
        build = over_grpc if outputs.target.grpc else over_http
        exporters.append(_connect(build, outputs.target))
    return exporters


def _http_spans(target: Target) -> SpanExporter:
    return OtlpHttpExporter(open_session(target), target)


def _http_metrics(target: Target) -> MetricExporter:
    sender = OtlpHttpExporter(open_session(target), target, "metrics")
    return OtlpMetricExporter(sender)


def _http_logs(target: Target) -> LogRecordExporter:
    from opentelemetry.exporter.otlp.proto.http import Compression
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    session = ExportSession(target.headers)
    exporter = OTLPLogExporter(
        endpoint=target.endpoint,
        headers=dict(target.headers),
        timeout=target.timeout_s,
        compression=Compression(target.compression),
        session=session,
    )
    _set_tls(session, target)
    return exporter


def _set_tls(session: ExportSession, target: Target) -> None:
    # After the exporter, which sets both on its session from ``os.environ``.
    session.verify = target.certificate or True
    if target.client_certificate is not None and target.client_key is not None:
        session.cert = (target.client_certificate, target.client_key)
    else:
        session.cert = target.client_certificate


def _grpc_spans(target: Target) -> SpanExporter:
    from otel_intercept.sdk import grpc_exporters

    return grpc_exporters.spans(target)


def _grpc_metrics(target: Target) -> MetricExporter:
    from otel_intercept.sdk import grpc_exporters

    return grpc_exporters.metrics(target)


def _grpc_logs(target: Target) -> LogRecordExporter:
    from otel_intercept.sdk import grpc_exporters

    return grpc_exporters.logs(target)


def _open(build: Callable[[Path], T], path: Path) -> T:
    built = _attempt(lambda: build(path))
    if built is None:
        raise ConfigurationError(
            "OTEL_INTERCEPT_FILE must name a file that can be written"
        )
    return built


def _connect(build: Callable[[Target], T], target: Target) -> T:
    built = _attempt(lambda: build(target))
    if built is None:
        raise ConfigurationError(
            "the OTLP exporter cannot be made: check the certificate, client key and "
            "client certificate of OTEL_EXPORTER_OTLP_*"
        )
    return built


def _attempt(build: Callable[[], T]) -> T | None:
    try:
        return build()
    except Exception:  # noqa: BLE001 - its text may hold a path or a value
        return None
