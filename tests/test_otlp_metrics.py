"""Metrics that are encoded directly decode to what the official encoder sends."""

import grpc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsPartialSuccess,
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.sdk.metrics import Exemplar
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    ExponentialHistogram,
    Gauge,
    Histogram,
    HistogramDataPoint,
    InMemoryMetricReader,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_intercept import semconv
from otel_intercept.sdk.environment import Outputs
from otel_intercept.sdk.exporters import build_metric_exporter
from otel_intercept.sdk.target import read_target
from otel_intercept.sdk.variables import Variables
from otel_intercept.settings import Settings
from otel_intercept.telemetry import Telemetry
from otel_intercept.translate.otlp_metrics import MetricEncoder
from tests.collectors import Answer, Collector, GrpcCollector, HttpCollector
from tests.samples import ended, exchange, failed_exchange, wait

each_protocol = pytest.mark.parametrize(
    ("collector", "protocol"),
    [(HttpCollector, "http/protobuf"), (GrpcCollector, "grpc")],
    ids=["http", "grpc"],
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
times = st.integers(0, 2**64 - 1)
int64s = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
values = int64s | floats
# Labels and the like are as the export guard lets them through.
attributes = st.dictionaries(
    texts.filter(bool),
    texts | st.booleans() | int64s | st.floats(allow_nan=False, allow_infinity=False),
    max_size=4,
)
exemplars = st.lists(
    st.builds(
        Exemplar,
        st.just({}) | attributes,
        values,
        times,
        st.none() | st.integers(0, 2**64 - 1),
        st.none() | st.integers(0, 2**128 - 1),
    ),
    max_size=3,
)
numbers = st.lists(
    st.builds(NumberDataPoint, attributes, times, times, values, exemplars), max_size=4
)


@st.composite
def histogram_points(draw: st.DrawFn) -> HistogramDataPoint:
    """Draw a point with any number of buckets."""
    bounds = sorted(draw(st.sets(st.floats(-1e9, 1e9), max_size=22)))
    counts = [draw(st.integers(0, 2**64 - 1)) for _ in range(len(bounds) + 1)]
    return HistogramDataPoint(
        draw(attributes),
        draw(times),
        draw(times),
        draw(times),
        draw(floats),
        counts,
        tuple(bounds),
        draw(floats),
        draw(floats),
        draw(exemplars),
    )


temporalities = st.sampled_from(
    [AggregationTemporality.CUMULATIVE, AggregationTemporality.DELTA]
)
metrics = st.lists(
    st.builds(
        Metric,
        texts,
        st.none() | texts,
        st.none() | texts,
        st.builds(Gauge, numbers)
        | st.builds(Sum, numbers, temporalities, st.booleans())
        | st.builds(Histogram, st.lists(histogram_points(), max_size=3), temporalities),
    ),
    max_size=4,
)
scopes = st.builds(
    InstrumentationScope, texts, st.none() | texts, st.none() | texts, attributes
)
resources = st.builds(Resource, attributes, st.none() | texts)
every_kind = st.builds(
    MetricsData,
    st.lists(
        st.builds(
            lambda resource, scope, found: ResourceMetrics(
                resource,
                [ScopeMetrics(scope, found, scope.schema_url or "")],
                resource.schema_url,
            ),
            resources,
            scopes,
            metrics,
        ),
        max_size=2,
        unique_by=lambda item: item.resource,
    ),
)


def decoded(request: bytes) -> ExportMetricsServiceRequest:
    """Return the message that a collector reads."""
    return ExportMetricsServiceRequest.FromString(request)


@given(data=every_kind)
@settings(deadline=None)
def test_every_message_decodes_to_that_of_the_official_encoder(
    data: MetricsData,
) -> None:
    """Every kind of point, value, label and exemplar arrives as it would otherwise."""
    assert decoded(MetricEncoder().encode(data)) == decoded(
        encode_metrics(data).SerializeToString()
    )


def test_what_a_collection_gives_is_encoded_alike_time_after_time() -> None:
    """Real series keep their dicts, and remembering these never shows."""
    reader = InMemoryMetricReader()
    telemetry = Telemetry(
        metric_reader=reader,
        resource=Resource({"service.name": "test", "pid": 1}, "https://example.test"),
        settings=Settings(recorder="inline"),
    )
    usage = ((semconv.GEN_AI_USAGE_OUTPUT_TOKENS, 7),)
    encoder = MetricEncoder()

    for number in range(5):
        telemetry.put(exchange(waits=(wait(),), response=usage, model=f"m{number}"))
        telemetry.put(failed_exchange())
        telemetry.put(ended())
        telemetry.flush()
        data = reader.get_metrics_data()
        assert data is not None

        assert decoded(encoder.encode(data)) == encode_metrics(data)
    telemetry.shutdown()


def one_point(attributes_: dict[str, str | bool]) -> MetricsData:
    """Return data with one point that has these labels."""
    point = NumberDataPoint(attributes_, 1, 2, 3)
    data = Sum([point], AggregationTemporality.CUMULATIVE, is_monotonic=True)
    scope = ScopeMetrics(InstrumentationScope("s"), [Metric("m", "", "1", data)], "")
    return MetricsData([ResourceMetrics(Resource({}), [scope], "")])


def test_a_dict_that_was_changed_is_encoded_anew() -> None:
    """What is remembered of labels is not shown when they are others by now."""
    labels: dict[str, str | bool] = {"a": "before"}
    encoder = MetricEncoder()
    before = encoder.encode(one_point(labels))

    labels["a"] = "after"
    after = encoder.encode(one_point(labels))

    assert b"before" in before
    assert b"before" not in after
    assert decoded(after) == encode_metrics(one_point(labels))


def test_dicts_that_come_and_go_are_never_mistaken_for_each_other() -> None:
    """A new dict at the address of an old one has its own labels."""
    encoder = MetricEncoder()

    for number in range(2000):
        data = one_point({"number": str(number)})
        assert decoded(encoder.encode(data)) == encode_metrics(data)


def test_an_exponential_histogram_is_refused() -> None:
    """None of ours is one, and the guard lets none through."""
    metric = Metric(
        "m", "", "1", ExponentialHistogram([], AggregationTemporality.DELTA)
    )
    scope = ScopeMetrics(InstrumentationScope("s"), [metric], "")

    with pytest.raises(TypeError, match="none of ours"):
        MetricEncoder().encode(
            MetricsData([ResourceMetrics(Resource({}), [scope], "")])
        )


@each_protocol
@pytest.mark.parametrize("compression", ["none", "gzip"])
def test_metrics_arrive_as_they_were(
    collector: type[Collector], protocol: str, compression: str
) -> None:
    """Over either protocol the collector reads what the official encoder gives."""
    data = one_point({"a": "b"})
    with collector() as server:
        exporter = exporter_to(server, protocol, compression)
        result = exporter.export(data)
        exporter.shutdown()

    (received,) = server.received
    assert result is MetricExportResult.SUCCESS
    assert received.signal == "metrics"
    assert decoded(received.body) == encode_metrics(data)


@each_protocol
@pytest.mark.parametrize(
    "answer",
    [
        Answer(status=400, code=grpc.StatusCode.INVALID_ARGUMENT),
        Answer(
            body=ExportMetricsServiceResponse(
                partial_success=ExportMetricsPartialSuccess(rejected_data_points=1)
            ).SerializeToString()
        ),
    ],
    ids=["refused", "in part"],
)
def test_metrics_that_were_not_taken_whole_have_failed(
    collector: type[Collector], protocol: str, answer: Answer
) -> None:
    """A refusal, and a rejection of some points, are no success."""
    with collector(answer) as server:
        exporter = exporter_to(server, protocol, "none")
        result = exporter.export(one_point({}))
        exporter.shutdown()

    assert result is MetricExportResult.FAILURE
    assert server.count("metrics") == 1


def exporter_to(server: Collector, protocol: str, compression: str) -> MetricExporter:
    """Return the exporter that the variables make."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_COMPRESSION": compression,
    }
    target = read_target(Variables(environ), "METRICS")
    exporter = build_metric_exporter(Outputs(target))
    assert exporter is not None
    return exporter
