"""Make the tiny export requests that a check of the export path sends."""

import secrets
import time

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_intercept import semconv
from otel_intercept.sdk.target import Signal


def probe_payload(signal: Signal, service_name: str) -> bytes:
    """Return an export request with one span, one gauge or one log record.

    All of them have the name of a probe, so that nobody takes them for traffic.
    """
    name = AnyValue(string_value=service_name)
    resource = Resource(attributes=[KeyValue(key="service.name", value=name)])
    match signal:
        case "TRACES":
            return _traces(resource)
        case "METRICS":
            return _metrics(resource)
        case "LOGS":
            return _logs(resource)


def _traces(resource: Resource) -> bytes:
    request = ExportTraceServiceRequest()
    group = request.resource_spans.add(resource=resource)
    scope = group.scope_spans.add()
    scope.scope.name = semconv.SCOPE_NAME
    now = time.time_ns()
    scope.spans.add(
        trace_id=secrets.token_bytes(16),
        span_id=secrets.token_bytes(8),
        name=semconv.PROBE,
        kind=Span.SpanKind.SPAN_KIND_INTERNAL,
        start_time_unix_nano=now,
        end_time_unix_nano=now,
    )
    return request.SerializeToString()


def _metrics(resource: Resource) -> bytes:
    request = ExportMetricsServiceRequest()
    group = request.resource_metrics.add(resource=resource)
    scope = group.scope_metrics.add()
    scope.scope.name = semconv.SCOPE_NAME
    metric = scope.metrics.add(name=semconv.PROBE)
    metric.gauge.data_points.add(time_unix_nano=time.time_ns(), as_int=1)
    return request.SerializeToString()


def _logs(resource: Resource) -> bytes:
    request = ExportLogsServiceRequest()
    group = request.resource_logs.add(resource=resource)
    scope = group.scope_logs.add()
    scope.scope.name = semconv.SCOPE_NAME
    scope.log_records.add(
        time_unix_nano=time.time_ns(), body=AnyValue(string_value=semconv.PROBE)
    )
    return request.SerializeToString()
