"""Build exporters from what was read, not from ``os.environ``."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import grpc
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import (
    OTLPLogExporter as GrpcLogExporter,
)
from opentelemetry.exporter.otlp.proto.http import Compression as HttpCompression
from opentelemetry.exporter.otlp.proto.http._log_exporter import (
    OTLPLogExporter as HttpLogExporter,
)
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
from otel_intercept.sdk.otlp_grpc import OtlpGrpcExporter
from otel_intercept.sdk.otlp_http import OtlpHttpExporter
from otel_intercept.sdk.otlp_metric_exporter import OtlpMetricExporter
from otel_intercept.sdk.target import Target

T = TypeVar("T")

# By default a channel waits up to two minutes before it looks for a lost collector.
_CHANNEL_OPTIONS: Final = (
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5000),
)


class _Headers(tuple[tuple[str, str], ...]):
    """gRPC metadata, true when empty: a false one is read from ``os.environ``."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True


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


def open_channel(target: Target) -> grpc.Channel:
    """Return a channel that speaks as the gRPC exporters to this target do.

    Raises:
        ConfigurationError: A TLS credential cannot be used.
    """
    return _connect(_channel, target)


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


def _channel(target: Target) -> grpc.Channel:
    compression = _grpc_compression(target)
    credentials = _credentials(target)
    if credentials is None:
        return grpc.insecure_channel(
            target.endpoint, _CHANNEL_OPTIONS, compression=compression
        )
    return grpc.secure_channel(
        target.endpoint, credentials, _CHANNEL_OPTIONS, compression=compression
    )


def _http_spans(target: Target) -> SpanExporter:
    return OtlpHttpExporter(open_session(target), target)


def _http_metrics(target: Target) -> MetricExporter:
    sender = OtlpHttpExporter(open_session(target), target, "metrics")
    return OtlpMetricExporter(sender)


def _http_logs(target: Target) -> LogRecordExporter:
    session = ExportSession(target.headers)
    exporter = HttpLogExporter(
        endpoint=target.endpoint,
        headers=dict(target.headers),
        timeout=target.timeout_s,
        compression=HttpCompression(target.compression),
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
    return OtlpGrpcExporter(_channel(target), target)


def _grpc_metrics(target: Target) -> MetricExporter:
    sender = OtlpGrpcExporter(_channel(target), target, "metrics")
    return OtlpMetricExporter(sender)


def _grpc_logs(target: Target) -> LogRecordExporter:
    return GrpcLogExporter(
        endpoint=target.endpoint,
        insecure=not target.secure,
        credentials=_credentials(target),
        headers=_Headers(target.headers),
        timeout=target.timeout_s,
        compression=_grpc_compression(target),
    )


def _credentials(target: Target) -> grpc.ChannelCredentials | None:
    if not target.secure:
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(target.certificate),
        private_key=_read(target.client_key),
        certificate_chain=_read(target.client_certificate),
    )


def _read(path: str | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()


def _grpc_compression(target: Target) -> grpc.Compression:
    if target.compression == "gzip":
        return grpc.Compression.Gzip
    return grpc.Compression.NoCompression


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
