"""Build what exports over gRPC. Imported only where that is asked for.

Raises whatever gRPC or the reading of a credential raises: the caller sees to it.
"""

from pathlib import Path
from typing import Final

import grpc
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.metrics.export import MetricExporter
from opentelemetry.sdk.trace.export import SpanExporter

from otel_intercept.sdk.otlp_grpc import OtlpGrpcExporter
from otel_intercept.sdk.otlp_metric_exporter import OtlpMetricExporter
from otel_intercept.sdk.target import Target

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


def channel(target: Target) -> grpc.Channel:
    """Return a channel to a target."""
    compression = _compression(target)
    credentials = _credentials(target)
    if credentials is None:
        return grpc.insecure_channel(
            target.endpoint, _CHANNEL_OPTIONS, compression=compression
        )
    return grpc.secure_channel(
        target.endpoint, credentials, _CHANNEL_OPTIONS, compression=compression
    )


def spans(target: Target) -> SpanExporter:
    """Return an exporter of spans."""
    return OtlpGrpcExporter(channel(target), target)


def metrics(target: Target) -> MetricExporter:
    """Return an exporter of metrics."""
    return OtlpMetricExporter(OtlpGrpcExporter(channel(target), target, "metrics"))


def logs(target: Target) -> LogRecordExporter:
    """Return an exporter of log records."""
    return OTLPLogExporter(
        endpoint=target.endpoint,
        insecure=not target.secure,
        credentials=_credentials(target),
        headers=_Headers(target.headers),
        timeout=target.timeout_s,
        compression=_compression(target),
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


def _compression(target: Target) -> grpc.Compression:
    if target.compression == "gzip":
        return grpc.Compression.Gzip
    return grpc.Compression.NoCompression
