"""Read what an OTLP collector receives: spans, and sums of metrics, from protobuf."""

from collections.abc import Iterable, Iterator, Mapping

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from otel_intercept.record import AttributeValue
from otel_intercept.sdk.otlp_reader import EventLine, SpanLine


def spans_of_request(body: bytes) -> tuple[SpanLine, ...] | None:
    """Read the spans of an ``ExportTraceServiceRequest``; None if it is none."""
    try:
        request = ExportTraceServiceRequest.FromString(body)
    except DecodeError:
        return None
    return tuple(_spans(request))


def sum_of_request(
    body: bytes, name: str, labels: Mapping[str, str]
) -> dict[tuple[str, ...], float] | None:
    """Read the cumulative sums of one counter from an ``ExportMetricsServiceRequest``.

    Args:
        body: The request.
        name: The counter's name.
        labels: Labels that a series must have.

    Returns:
        The value of each such series, by its labels; None if it is no such request.
    """
    try:
        request = ExportMetricsServiceRequest.FromString(body)
    except DecodeError:
        return None
    wanted = labels.items()
    return {
        tuple(f"{key}={value}" for key, value in sorted(found.items())): (
            point.as_double if point.HasField("as_double") else float(point.as_int)
        )
        for resource in request.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
        if metric.name == name
        for point in metric.sum.data_points
        if wanted <= (found := _attributes(point.attributes)).items()
    }


def _spans(request: ExportTraceServiceRequest) -> Iterator[SpanLine]:
    for resource in request.resource_spans:
        name = _attributes(resource.resource.attributes).get("service.name")
        service = name if isinstance(name, str) else None
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield _span(span, service)


def _span(span: Span, service: str | None) -> SpanLine:
    return SpanLine(
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        name=span.name,
        kind=span.kind,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
        is_error=span.status.code == Status.StatusCode.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
        events=tuple(
            EventLine(event.name, event.time_unix_nano, _attributes(event.attributes))
            for event in span.events
        ),
        linked_span_ids=tuple(link.span_id.hex() for link in span.links),
        service_name=service,
    )


def _attributes(pairs: Iterable[KeyValue]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for pair in pairs:
        value = _value(pair.value)
        if value is not None:
            attributes[pair.key] = value
    return attributes


def _value(value: AnyValue) -> AttributeValue | None:
    match value.WhichOneof("value"):
        case "string_value":
            return value.string_value
        case "bool_value":
            return value.bool_value
        case "int_value":
            return value.int_value
        case "double_value":
            return value.double_value
        case "array_value":
            items = value.array_value.values
            return tuple(item.string_value for item in items)
        case _:
            return None
