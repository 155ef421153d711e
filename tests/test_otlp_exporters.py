"""The span exporters send bytes as OTLP says, and try again when that may help."""

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, parsedate_to_datetime

import grpc
import pytest
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExportResult

from otel_intercept.sdk.environment import Outputs
from otel_intercept.sdk.exporters import build_span_exporter
from otel_intercept.sdk.retry_info import retry_delay_s
from otel_intercept.sdk.target import read_target
from otel_intercept.sdk.variables import Variables
from otel_intercept.translate.outlets import EncodedSpanExporter
from otel_intercept.translate.protobuf import field, tag
from otel_intercept.translate.scope import SCOPE
from tests.collectors import Answer, Collector, GrpcCollector, HttpCollector
from tests.readable import ReadableSpans
from tests.samples import exchange
from tests.stopwatch import Stopwatch

SPANS = ReadableSpans(Resource({"service.name": "s"}), SCOPE).spans_of(exchange())
REQUEST = encode_spans(SPANS).SerializeToString()

COLLECTORS = [
    pytest.param(HttpCollector, "http/protobuf", id="http"),
    pytest.param(GrpcCollector, "grpc", id="grpc"),
]


@contextmanager
def exporter_to(
    server: Collector, protocol: str = "http/protobuf", **more: str
) -> Iterator[EncodedSpanExporter]:
    """Give the exporter that the variables make, and shut it down."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
        **more,
    }
    target = read_target(Variables(environ), "TRACES")
    exporter = build_span_exporter(Outputs(target))
    assert isinstance(exporter, EncodedSpanExporter)
    try:
        yield exporter
    finally:
        exporter.shutdown()


def retry_info(seconds: int, nanos: int = 0) -> bytes:
    """Return a status that asks for the request again, as collectors write it."""
    delay = Duration(seconds=seconds, nanos=nanos).SerializeToString()
    first, second, third = tag(1), tag(2), tag(3)
    other = AnyMessage(type_url="type.googleapis.com/google.rpc.Help", value=b"\x0a\0")
    info = AnyMessage(
        type_url="type.googleapis.com/google.rpc.RetryInfo", value=field(first, delay)
    )
    return b"".join(
        (
            b"\x08\x08",
            field(second, b"a message"),
            field(third, other.SerializeToString()),
            field(third, info.SerializeToString()),
        )
    )


AGAIN = [
    pytest.param(HttpCollector, "http/protobuf", Answer(status=status), id=f"{status}")
    for status in (429, 502, 503, 504)
] + [
    pytest.param(
        HttpCollector, "http/protobuf", Answer(garbage=b"\0\r\n\r\n"), id="lost"
    ),
    pytest.param(
        HttpCollector,
        "http/protobuf",
        Answer(status=503, headers=(("retry-after", "whenever"),)),
        id="503-junk",
    ),
    *(
        pytest.param(GrpcCollector, "grpc", Answer(code=code), id=code.name)
        for code in (
            grpc.StatusCode.ABORTED,
            grpc.StatusCode.CANCELLED,
            grpc.StatusCode.DATA_LOSS,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.OUT_OF_RANGE,
            grpc.StatusCode.UNAVAILABLE,
        )
    ),
    pytest.param(
        GrpcCollector,
        "grpc",
        Answer(
            code=grpc.StatusCode.RESOURCE_EXHAUSTED,
            trailers=(("grpc-status-details-bin", retry_info(0, 1000)),),
        ),
        id="RESOURCE_EXHAUSTED-with-a-delay",
    ),
]


@pytest.mark.parametrize(("collector", "protocol", "answer"), AGAIN)
def test_what_may_pass_is_tried_again(
    collector: type[Collector], protocol: str, answer: Answer
) -> None:
    """A request that is refused for now arrives unchanged once it is taken."""
    taken: list[bool] = []
    with collector(answer) as server, exporter_to(server, protocol) as exporter:
        thread = threading.Thread(
            target=lambda: taken.append(exporter.export_encoded(REQUEST))
        )
        thread.start()
        assert server.wait_for("traces", 2)
        server.answer = Answer()
        thread.join(10)

    assert taken == [True]
    assert {got.body for got in server.received} == {REQUEST}


FOR_GOOD = [
    pytest.param(HttpCollector, "http/protobuf", Answer(status=status), id=f"{status}")
    for status in (301, 400, 401, 404, 413, 500, 501)
] + [
    pytest.param(GrpcCollector, "grpc", Answer(code=code), id=code.name)
    for code in (
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.UNKNOWN,
    )
]


@pytest.mark.parametrize(("collector", "protocol", "answer"), FOR_GOOD)
def test_what_is_refused_for_good_is_sent_once(
    collector: type[Collector], protocol: str, answer: Answer
) -> None:
    """An answer that will not change is not asked for again."""
    with collector(answer) as server, exporter_to(server, protocol) as exporter:
        taken = exporter.export_encoded(REQUEST)

    assert not taken
    assert server.count("traces") == 1


@pytest.mark.parametrize(("collector", "protocol"), COLLECTORS)
def test_a_part_that_is_rejected_makes_a_failure(
    collector: type[Collector], protocol: str
) -> None:
    """A collector that takes all but one span has not taken the request."""
    partial = ExportTracePartialSuccess(rejected_spans=1, error_message="sk-canary")
    answer = ExportTraceServiceResponse(partial_success=partial).SerializeToString()
    with (
        collector(Answer(body=answer)) as server,
        exporter_to(server, protocol) as exporter,
    ):
        taken = exporter.export_encoded(REQUEST)

    assert not taken
    assert server.count("traces") == 1


def later(seconds: float) -> str:
    """Return an HTTP date so many seconds from now."""
    return format_datetime(datetime.now(UTC) + timedelta(seconds=seconds), usegmt=True)


def timed(exporter: EncodedSpanExporter) -> tuple[bool, float]:
    """Export the request; return whether it was taken, and the seconds it took."""
    with Stopwatch() as watch:
        taken = exporter.export_encoded(REQUEST)
    return taken, watch.took_s


@pytest.mark.parametrize("retry_after", ["1", "date"])
def test_retry_after_is_waited_for(retry_after: str) -> None:
    """Seconds or a date: the request does not come again before."""
    # A date has whole seconds, so it must lie a little further ahead.
    text = later(2) if retry_after == "date" else retry_after
    answer = Answer(status=503, headers=(("retry-after", text),))
    with (
        HttpCollector(answer) as server,
        exporter_to(server, OTEL_EXPORTER_OTLP_TIMEOUT="60") as exporter,
        Stopwatch() as watch,
    ):
        not_before = time.time() + 0.9
        if retry_after == "date":
            not_before = parsedate_to_datetime(text).timestamp()
        thread = threading.Thread(target=lambda: exporter.export_encoded(REQUEST))
        thread.start()
        assert server.wait_for("traces")
        server.answer = Answer()
        assert server.wait_for("traces", 2)
        came = time.time()
        thread.join(30)

    assert came >= not_before
    assert watch.took_s < 3


@pytest.mark.parametrize(
    ("collector", "protocol", "answer"),
    [
        pytest.param(
            HttpCollector,
            "http/protobuf",
            Answer(status=429, headers=(("retry-after", "86400"),)),
            id="seconds",
        ),
        pytest.param(
            HttpCollector,
            "http/protobuf",
            Answer(status=503, headers=(("retry-after", later(86400)),)),
            id="date",
        ),
        pytest.param(
            GrpcCollector,
            "grpc",
            Answer(
                code=grpc.StatusCode.UNAVAILABLE,
                trailers=(("grpc-status-details-bin", retry_info(86400)),),
            ),
            id="grpc",
        ),
    ],
)
def test_a_longer_wait_than_there_is_time_ends_it_at_once(
    collector: type[Collector], protocol: str, answer: Answer
) -> None:
    """Nobody waits for a day, nor asks again before."""
    with collector(answer) as server, exporter_to(server, protocol) as exporter:
        taken, took = timed(exporter)

    assert not taken
    assert took < 2
    assert server.count("traces") == 1


def test_a_date_that_is_past_is_no_wait() -> None:
    """A collector whose clock is behind does not stop the exporter."""
    answer = Answer(status=503, headers=(("retry-after", later(-3600)),))
    with (
        HttpCollector(answer) as server,
        exporter_to(server, OTEL_EXPORTER_OTLP_TIMEOUT="0.5") as exporter,
    ):
        exporter.export_encoded(REQUEST)

    assert server.count("traces") > 1


@pytest.mark.parametrize(("collector", "protocol"), COLLECTORS)
def test_the_timeout_bounds_all_tries_together(
    collector: type[Collector], protocol: str
) -> None:
    """A collector that is always busy is given up in time, after some tries."""
    busy = Answer(status=503, code=grpc.StatusCode.UNAVAILABLE)
    with (
        collector(busy) as server,
        exporter_to(server, protocol, OTEL_EXPORTER_OTLP_TIMEOUT="0.8") as exporter,
    ):
        taken, took = timed(exporter)

    assert not taken
    assert took < 2
    assert server.count("traces") > 1


@pytest.mark.parametrize(("collector", "protocol"), COLLECTORS)
def test_shutdown_ends_the_wait_for_another_try(
    collector: type[Collector], protocol: str
) -> None:
    """Who waits between two tries gives up when the exporter is shut down."""
    taken: list[bool] = []
    busy = Answer(
        status=503,
        headers=(("retry-after", "300"),),
        code=grpc.StatusCode.UNAVAILABLE,
        trailers=(("grpc-status-details-bin", retry_info(300)),),
    )
    with (
        collector(busy) as server,
        exporter_to(server, protocol, OTEL_EXPORTER_OTLP_TIMEOUT="600") as exporter,
    ):
        thread = threading.Thread(
            target=lambda: taken.append(exporter.export_encoded(REQUEST))
        )
        thread.start()
        assert server.wait_for("traces")
        exporter.shutdown()
        thread.join(30)
        again = exporter.export_encoded(REQUEST)

    assert taken == [False]
    assert not again
    assert server.count("traces") == 1


def test_the_seeded_random_of_training_code_is_left_alone() -> None:
    """Pauses are drawn elsewhere: equal seeds give equal numbers, tries or not."""
    random.seed(7)
    before = random.getstate()

    with (
        HttpCollector(Answer(status=503)) as server,
        exporter_to(server, OTEL_EXPORTER_OTLP_TIMEOUT="0.5") as exporter,
    ):
        exporter.export_encoded(REQUEST)

    assert server.count("traces") > 1
    assert random.getstate() == before


def test_gzip_is_asked_to_be_fast() -> None:
    """The header of the body says that it was compressed in the fastest way."""
    with (
        HttpCollector() as server,
        exporter_to(server, OTEL_EXPORTER_OTLP_COMPRESSION="gzip") as exporter,
    ):
        exporter.export_encoded(REQUEST)

    (got,) = server.received
    body = got.raw.partition(b"\n\n")[2]
    assert got.body == REQUEST
    assert body[8] == 4


@pytest.mark.parametrize(("collector", "protocol"), COLLECTORS)
def test_the_exporters_take_the_spans_of_the_sdk_as_well(
    collector: type[Collector], protocol: str
) -> None:
    """Used as an exporter of the SDK, they encode as the official ones do."""
    with collector() as server, exporter_to(server, protocol) as exporter:
        taken = exporter.export(SPANS)
        server.answer = Answer(status=400, code=grpc.StatusCode.INTERNAL)
        refused = exporter.export(SPANS)

    assert taken is SpanExportResult.SUCCESS
    assert refused is SpanExportResult.FAILURE
    assert server.received[0].body == REQUEST


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (retry_info(3), 3.0),
        (retry_info(0, 500_000_000), 0.5),
        (retry_info(0), 0.0),
        (b"", None),
        (b"\x08\x08", None),
        (retry_info(3)[:-2], None),
        (b"\xff" * 20, None),
        (b"\x1a\x7f", None),
        (b"\x1d\0\0\0\0", None),
    ],
)
def test_the_delay_of_a_status_is_read_or_left(
    status: bytes, expected: float | None
) -> None:
    """A delay is read in seconds; a status without one, or broken, has none."""
    assert retry_delay_s(status) == expected
