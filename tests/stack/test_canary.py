"""A secret that other people's instrumentation sends is gone behind the collector."""

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Exemplar, Metric

from deploy.stack.engine import get
from deploy.stack.stack import COLLECTOR_CONFIG as SHIPPED
from deploy.stack.stack import HOST, Stack, collector_engine, free_ports
from deploy.stack.tools import Tools
from tests.collectors import GrpcCollector
from tests.stack.backends import Jaeger, eventually

SERVICE = "foreign"
PIECE = 10
SENT_SPANS = 8
LINKED_SPANS = 1
FOREIGN = Path(__file__).parent / "foreign.py"
ALL_OTLP = Path(__file__).parent / "all-otlp.yaml"


class Sent(NamedTuple):
    """What the foreign program has sent."""

    secret: str
    output: str


@pytest.fixture(scope="module")
def sent(endpoint: str) -> Sent:
    """Have a program without otel_intercept send a secret in every slot there is."""
    return send(endpoint)


def send(endpoint: str) -> Sent:
    """Run that program."""
    # Like no provider's key, so that the fences cannot know it by its looks.
    secret = "q" + secrets.token_hex(12)
    done = subprocess.run(
        [sys.executable, str(FOREIGN), endpoint, SERVICE, secret],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return Sent(secret, done.stdout)


def found_in(text: str, secret: str) -> set[str]:
    """Return the pieces of a secret that stand in a text, in any case."""
    text = text.lower()
    pieces = (secret[at : at + PIECE] for at in range(len(secret) - PIECE + 1))
    return {piece for piece in pieces if piece in text}


def texts_of(directory: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and content of every file below a directory."""
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")


def test_nothing_of_it_is_in_jaeger(sent: Sent, jaeger: Jaeger) -> None:
    """Names, attributes, status, events, links, scope and resource are clean."""
    wanted = SENT_SPANS + 1 - LINKED_SPANS

    arrived = eventually(
        lambda: jaeger.span_ids(SERVICE), lambda ids: len(ids) >= wanted
    )
    text = jaeger.everything(SERVICE)

    assert len(arrived) == wanted
    assert found_in(text, sent.secret) == set()


def test_the_spans_themselves_stay(sent: Sent, jaeger: Jaeger) -> None:
    """Redaction takes the text, not the span: its place, status and code remain."""
    assert sent.secret
    eventually(
        lambda: jaeger.span_ids(SERVICE),
        lambda ids: len(ids) > SENT_SPANS - LINKED_SPANS,
    )

    spans = [span for trace in jaeger.traces(SERVICE).values() for span in trace]

    assert {span.name for span in spans} == {"GET", "_OTHER", "rollout", "chat ****"}
    assert "gen_ai.request.model ****" in {
        span.tags.get("gen_ai.request.model") for span in spans
    }
    assert {span.tags.get("http.response.status_code") for span in spans} == {None, 500}
    assert any(span.tags.get("otel.status_code") == "ERROR" for span in spans)


def test_nothing_of_it_is_in_the_metrics(sent: Sent, stack: Stack) -> None:
    """Names, units, labels and exemplars of what Prometheus scrapes are clean."""
    scrape = f"http://{HOST}:{stack.ports.metrics}/metrics"

    text = eventually(
        lambda: get(scrape, Accept="application/openmetrics-text").text,
        lambda text: f'job="{SERVICE}"' in text,
    )

    assert (
        f'intercept_failures_total{{error_type="upstream_timeout",job="{SERVICE}"}}'
        in text
    )
    assert "# {" in text
    assert found_in(text, sent.secret) == set()


def test_nothing_of_it_is_in_the_collector_itself(sent: Sent, stack: Stack) -> None:
    """The collector's log, its own metrics and its queue on disk are clean."""
    telemetry = get(f"http://{HOST}:{stack.ports.telemetry}/metrics").text
    log = stack.collector.log.read_text(encoding="utf-8")
    storage = list(texts_of(stack.directory / "collector-storage"))

    assert "otelcol_receiver_accepted_spans" in telemetry
    assert found_in(telemetry, sent.secret) == set()
    assert found_in(log, sent.secret) == set()
    assert storage
    assert [name for name, text in storage if found_in(text, sent.secret)] == []


def test_logs_are_not_taken(sent: Sent) -> None:
    """A log record is refused, since its body could not be made safe."""
    assert "logs 404" in sent.output


def test_nothing_of_it_is_on_the_wire(tools: Tools, tmp_path: Path) -> None:
    """Also what Jaeger and Prometheus would not show is clean in what OTLP carries."""
    with GrpcCollector() as backend:
        ports = free_ports()._replace(jaeger_otlp=backend.port)
        collector = collector_engine(
            tools, tmp_path, ports, configs=[SHIPPED, ALL_OTLP]
        )
        try:
            collector.start()
            sent = send(f"http://{HOST}:{ports.otlp_http}")
            spans = backend.wait_for("traces")
            metrics = backend.wait_for("metrics")
            # The batches of a second.
            eventually(lambda: len(backend.spans()), lambda number: number >= 7)
        finally:
            collector.stop()

        assert spans
        assert metrics
        assert any(exemplars_of(metric) for metric in backend.metrics())
        assert found_in(backend.raw().decode("latin-1"), sent.secret) == set()


def exemplars_of(metric: Metric) -> list[Exemplar]:
    """Return the exemplars of a sum."""
    return [item for point in metric.sum.data_points for item in point.exemplars]
