"""The OTLP file is what other programs read, survives accidents, and reads back."""

import base64
import json
import os
import stat
from pathlib import Path

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    Metric,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.metrics.export import Histogram as HistogramData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanKind

from otel_intercept.errors import ConfigurationError
from otel_intercept.record import AttributeValue, StreamFacts
from otel_intercept.sdk.otlp_file import OtlpFileMetricExporter, OtlpFileSpanExporter
from otel_intercept.sdk.otlp_json import metrics_line, spans_line
from otel_intercept.sdk.otlp_reader import SpanLine, read_spans
from otel_intercept.semconv import ErrorType, RolloutOutcome
from otel_intercept.translate.guard import Guard
from tests.readable import ReadableSpans
from tests.samples import (
    EXCHANGE_ID,
    ROOT_ID,
    SECOND_NS,
    START_NS,
    TRACE_ID,
    ended,
    exchange,
    failed_exchange,
    failure,
    failure_seen,
    rollout_ref,
    started,
    wait,
)

RESOURCE = Resource({"service.name": "s", "n": 1, "b": True, "f": 0.5}, "http://schema")
SCOPE = InstrumentationScope("otel_intercept", "1.2", "http://scope", {"a": 1})


def all_spans() -> list[ReadableSpan]:
    """Return a span of every kind, with everything that a span can have."""
    factory = ReadableSpans(RESOURCE, SCOPE)
    rollout = rollout_ref(
        parent_span_id=0x77,
        attributes=(
            ("team", 'ü"\n'),
            ("big", -(2**63)),
            ("ratio", 1e-7),
            ("on", False),
        ),
    )
    records = (
        started(rollout),
        exchange(
            rollout,
            facts=StreamFacts(1, 2**40, 0, 0.5, None),
            link=(0xABC, 0xDEF),
            response=(("gen_ai.response.finish_reasons", ("stop", "length")),),
            waits=(wait(error_type=ErrorType.UPSTREAM_TIMEOUT),),
        ),
        failed_exchange(rollout),
        failure_seen(rollout),
        ended(rollout, outcome=RolloutOutcome.FAILED, failed=failure()),
    )
    return [span for record in records for span in factory.spans_of(record)]


def with_base64_ids(node: object) -> object:
    """Turn the hex ids of OTLP JSON into the base64 of protobuf's own JSON."""
    if isinstance(node, dict):
        return {
            key: base64.b64encode(bytes.fromhex(value)).decode()
            if key in ("traceId", "spanId", "parentSpanId")
            else with_base64_ids(value)
            for key, value in node.items()
        }
    if isinstance(node, list):
        return [with_base64_ids(item) for item in node]
    return node


def parsed_spans(line: bytes) -> ExportTraceServiceRequest:
    """Read a line as protobuf reads JSON, strictly."""
    message = ExportTraceServiceRequest()
    tree = with_base64_ids(json.loads(line))
    assert isinstance(tree, dict)
    ParseDict(tree, message)
    return message


def test_a_line_of_spans_is_exactly_what_protobuf_encodes() -> None:
    """Read back by protobuf's strict reader, the JSON is the binary request."""
    spans = all_spans()

    line = spans_line(spans)

    assert parsed_spans(line) == encode_spans(spans)
    assert line.count(b"\n") == 1


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
values = (
    texts
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.lists(texts, max_size=3).map(tuple)
)


@given(
    attributes=st.dictionaries(texts.filter(bool), values, max_size=5),
    name=texts,
    kind=st.sampled_from(SpanKind),
)
def test_any_guarded_span_is_encoded_as_protobuf_does(
    attributes: dict[str, AttributeValue], name: str, kind: SpanKind
) -> None:
    """For whatever passes the guard, both encodings say the same."""
    guard = Guard()
    guard.declare(attributes)
    template = all_spans()[0]
    span = ReadableSpan(
        name=name,
        context=template.get_span_context(),
        resource=RESOURCE,
        attributes=attributes,
        kind=kind,
        start_time=1,
        end_time=2,
        instrumentation_scope=SCOPE,
    )
    safe = guard.spans([span])

    assert parsed_spans(spans_line(safe)) == encode_spans(safe)


def test_ids_are_hex_enums_are_ints_and_large_ints_are_text() -> None:
    """The details in which OTLP JSON differs from protobuf's own JSON are right."""
    line = spans_line(all_spans())

    request = json.loads(line)
    span = request["resourceSpans"][0]["scopeSpans"][0]["spans"][1]
    attributes = {item["key"]: item["value"] for item in span["attributes"]}
    assert span["traceId"] == f"{TRACE_ID:032x}"
    assert span["spanId"] == f"{EXCHANGE_ID:016x}"
    assert span["parentSpanId"] == f"{ROOT_ID:016x}"
    assert span["kind"] == 2
    assert span["startTimeUnixNano"] == str(START_NS)
    assert span["status"] == {}
    assert span["links"][0]["traceId"] == f"{0xABC:032x}"
    assert attributes["intercept.stream.bytes"] == {"intValue": str(2**40)}
    assert attributes["intercept.exchange.stream"] == {"boolValue": True}
    assert attributes["intercept.stream.max_gap_s"] == {"doubleValue": 0.5}


def sample_metrics() -> MetricsData:
    """Return a counter with an exemplar and a histogram."""
    exemplar = Exemplar({}, 1, 5, EXCHANGE_ID, TRACE_ID)
    cumulative = AggregationTemporality.CUMULATIVE
    number = NumberDataPoint({"a": "b", "c": True}, 1, 2, 2**60, [exemplar])
    histogram = HistogramDataPoint(
        {}, 1, 2, 3, 4.5, [1, 2], [0.5], 0.1, 4.0, [exemplar]
    )
    scope = ScopeMetrics(
        SCOPE,
        [
            Metric("counter", "d", "1", Sum([number], cumulative, is_monotonic=True)),
            Metric("histogram", "d", "s", HistogramData([histogram], cumulative)),
        ],
        "",
    )
    return MetricsData([ResourceMetrics(RESOURCE, [scope], "")])


def test_a_line_of_metrics_is_what_protobuf_encodes_with_hex_ids() -> None:
    """Metrics too are the binary request, and the ids of their exemplars are hex."""
    line = metrics_line(sample_metrics())

    tree = json.loads(line)
    message = ExportMetricsServiceRequest()
    with_ids = with_base64_ids(tree)
    assert isinstance(with_ids, dict)
    ParseDict(with_ids, message)
    (counter, histogram) = tree["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]
    assert message == encode_metrics(sample_metrics())
    for points in (counter["sum"]["dataPoints"], histogram["histogram"]["dataPoints"]):
        assert points[0]["exemplars"][0]["traceId"] == f"{TRACE_ID:032x}"
        assert points[0]["exemplars"][0]["spanId"] == f"{EXCHANGE_ID:016x}"


def test_a_new_file_can_be_read_by_its_owner_only(tmp_path: Path) -> None:
    """Telemetry on disk is private, whatever the umask."""
    path = tmp_path / "spans.jsonl"
    umask = os.umask(0)

    exporter = OtlpFileSpanExporter(path)
    os.umask(umask)
    exporter.shutdown()

    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_every_batch_is_on_disk_at_once_and_files_are_continued(tmp_path: Path) -> None:
    """A batch can be read before shutdown, and a second exporter appends."""
    path = tmp_path / "spans.jsonl"
    first = OtlpFileSpanExporter(path)

    result = first.export(all_spans()[:1])
    at_once = len(list(read_spans(path)))
    second = OtlpFileSpanExporter(path)
    second.export(all_spans()[1:3])
    first.export(all_spans()[3:4])
    for exporter in (first, second, first):
        exporter.shutdown()

    assert result is SpanExportResult.SUCCESS
    assert at_once == 1
    assert len(list(read_spans(path))) == 4
    assert len(path.read_bytes().splitlines()) == 3


def test_after_shutdown_and_on_a_full_disk_an_export_fails(tmp_path: Path) -> None:
    """What could not be written is a failure, never an exception."""
    closed = OtlpFileSpanExporter(tmp_path / "spans.jsonl")
    closed.shutdown()
    closed_metrics = OtlpFileMetricExporter(tmp_path / "metrics.jsonl")
    closed_metrics.shutdown()
    full = OtlpFileSpanExporter(Path("/dev/full"))
    full_metrics = OtlpFileMetricExporter(Path("/dev/full"))

    results = [closed.export(all_spans()), full.export(all_spans())]
    metric_results = [
        closed_metrics.export(sample_metrics()),
        full_metrics.export(sample_metrics()),
    ]
    full.shutdown()
    full_metrics.shutdown()

    assert results == [SpanExportResult.FAILURE] * 2
    assert metric_results == [MetricExportResult.FAILURE] * 2


def test_flushing_has_nothing_to_do(tmp_path: Path) -> None:
    """Both exporters hand everything over at once, so a flush always succeeds."""
    spans = OtlpFileSpanExporter(tmp_path / "spans.jsonl")
    metrics = OtlpFileMetricExporter(tmp_path / "metrics.jsonl")

    flushed = (spans.force_flush(), metrics.force_flush())
    spans.shutdown()
    metrics.shutdown()

    assert flushed == (True, True)


def test_a_torn_last_line_is_left_out_and_not_continued(tmp_path: Path) -> None:
    """After a crash in the middle of a line both readers and writers go on."""
    path = tmp_path / "spans.jsonl"
    line = spans_line(all_spans())
    path.write_bytes(line + line[:99])

    torn = list(read_spans(path))
    exporter = OtlpFileSpanExporter(path)
    exporter.export(all_spans())
    exporter.shutdown()

    assert len(torn) == len(all_spans())
    assert len(list(read_spans(path))) == 2 * len(all_spans())


def test_a_file_of_one_torn_line_is_an_empty_one(tmp_path: Path) -> None:
    """A crash in the very first write leaves a file of ours without spans."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(spans_line(all_spans())[:99])

    assert list(read_spans(path)) == []


def test_spans_read_back_as_they_were(tmp_path: Path) -> None:
    """Every part of a span that a reader may need survives the file."""
    path = tmp_path / "spans.jsonl"
    exporter = OtlpFileSpanExporter(path)
    exporter.export(all_spans())
    exporter.shutdown()

    spans = list(read_spans(path))

    marker, server, client, cut, late, root = spans
    assert [span.name for span in (marker, client, late, root)] == [
        "rollout.started",
        "chat gpt-5",
        "failure",
        "rollout",
    ]
    assert marker.attributes == {
        "intercept.rollout.id": "r-1",
        "team": 'ü"\n',
        "big": -(2**63),
        "ratio": 1e-7,
        "on": False,
    }
    assert root.parent_span_id == f"{0x77:016x}"
    assert (root.start_ns, root.end_ns) == (START_NS, START_NS + 10 * SECOND_NS)
    assert (root.is_error, server.is_error) == (True, False)
    assert (server.trace_id, server.span_id) == (
        f"{TRACE_ID:032x}",
        f"{EXCHANGE_ID:016x}",
    )
    assert (server.kind, client.kind) == (2, 3)
    assert server.linked_span_ids == (f"{0xDEF:016x}",)
    assert late.linked_span_ids == (f"{EXCHANGE_ID:016x}",)
    assert cut.events[0].name == "exception"
    assert cut.events[0].at_ns == START_NS + SECOND_NS
    assert cut.events[0].attributes["intercept.failure.cause_types"] == (
        "builtins.OSError",
    )
    assert {span.service_name for span in spans} == {"s"}


def test_files_of_other_exporters_are_read_too(tmp_path: Path) -> None:
    """Enum names, upper-case ids, plain numbers and unknown fields are no problem."""
    path = tmp_path / "collector.jsonl"
    span = {
        "traceId": "A" * 32,
        "spanId": "B" * 16,
        "parentSpanId": "0" * 16,
        "name": "x",
        "kind": "SPAN_KIND_SERVER",
        "startTimeUnixNano": 5,
        "endTimeUnixNano": "6",
        "status": {"code": "STATUS_CODE_ERROR"},
        "attributes": [
            {"key": "i", "value": {"intValue": 7}},
            {"key": "d", "value": {"doubleValue": 8}},
            {"key": "m", "value": {"kvlistValue": {}}},
            {"key": "n"},
            "nonsense",
        ],
        "unknown": 1,
    }
    spans = [
        span,
        {"spanId": "x"},
        7,
        {**span, "startTimeUnixNano": "x", "endTimeUnixNano": "9" * 30},
    ]
    request = {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}, 3]}
    path.write_text(f"\n{json.dumps(request)}\n\n")

    first, second = read_spans(path)

    assert first == SpanLine(
        trace_id="a" * 32,
        span_id="b" * 16,
        parent_span_id=None,
        name="x",
        kind=0,
        start_ns=5,
        end_ns=6,
        is_error=True,
        attributes={"i": 7, "d": 8.0},
        events=(),
        linked_span_ids=(),
        service_name=None,
    )
    assert (second.start_ns, second.end_ns) == (0, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"sk-canary-0451\n",
        b'{"sk-canary-0451": 1}\n',
        b"[1]\n2\n",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"resourceMetrics": []}\n',
    ],
    ids=["text", "object", "numbers", "binary", "deep", "metrics"],
)
def test_a_file_of_something_else_is_a_clear_error(
    content: bytes, tmp_path: Path
) -> None:
    """The error says what is wrong and shows nothing of the file."""
    path = tmp_path / "other"
    path.write_bytes(content)

    with pytest.raises(ConfigurationError, match="no OTLP JSON lines") as caught:
        list(read_spans(path))

    assert "canary" not in str(caught.value)
    assert caught.value.__context__ is None


def test_a_file_that_cannot_be_read_is_a_clear_error(tmp_path: Path) -> None:
    """A missing file or a directory is an error of ours, without its path."""
    for path in (tmp_path, tmp_path / "missing"):
        with pytest.raises(ConfigurationError, match="cannot be read") as caught:
            list(read_spans(path))
        assert caught.value.__context__ is None


def test_an_empty_file_has_no_spans(tmp_path: Path) -> None:
    """A file that nothing was written to yet is no error."""
    path = tmp_path / "spans.jsonl"
    path.write_bytes(b"")

    assert list(read_spans(path)) == []


def test_attributes_of_other_types_are_left_out_of_the_file() -> None:
    """Given a span that passed no guard, the writer still makes valid OTLP."""
    template = all_spans()[0]
    span = ReadableSpan(
        name="x",
        context=template.get_span_context(),
        resource=Resource({}),
        attributes={"raw": b"x", "list": ["a", 1]},
    )
    lost = ReadableSpan("no context", resource=Resource({}))

    encoded = parsed_spans(spans_line([span, lost])).resource_spans[0]

    (first, second) = encoded.scope_spans[0].spans
    assert second.span_id == b""
    assert [attribute.key for attribute in first.attributes] == ["list"]
