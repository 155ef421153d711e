"""Engines go down in the middle of the traffic, and nothing is lost."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.stack.engine import get
from deploy.stack.stack import HOST, Stack
from deploy.stack.tools import Tools
from tests.stack.backends import Jaeger, Prometheus, eventually
from tests.stack.conftest import LOGS, make_stack
from tests.stack.played import Demo
from tests.stack.webhook import Webhook

DOWN_S = 10.0

ENOUGH = 320
"""Rollouts that go on long enough after the collector is back: the SDK backs off."""


@pytest.fixture(scope="module")
def stack(
    tools: Tools,
    webhook: Webhook,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Stack]:
    """Run engines that may be killed: other tests have others."""
    stack = make_stack(tools, tmp_path_factory.mktemp("outages"), webhook)
    pytestconfig.stash[LOGS] += stack.engines
    with stack:
        yield stack


@pytest.fixture(scope="module")
def endpoint(stack: Stack) -> str:
    """Tell where the collector that may be killed takes OTLP by HTTP."""
    return f"http://{HOST}:{stack.ports.otlp_http}"


@pytest.fixture(scope="module")
def jaeger(stack: Stack) -> Jaeger:
    """Ask the Jaeger that may be killed."""
    return Jaeger(f"http://{HOST}:{stack.ports.jaeger_query}")


@pytest.fixture(scope="module")
def prometheus(stack: Stack) -> Prometheus:
    """Ask the Prometheus that scrapes them."""
    return Prometheus(f"http://{HOST}:{stack.ports.prometheus}")


def test_a_killed_collector_loses_nothing(
    stack: Stack,
    endpoint: str,
    jaeger: Jaeger,
    prometheus: Prometheus,
    tmp_path: Path,
) -> None:
    """Killed for 10 s amid the traffic, every span and every count arrives."""
    service = "collector-killed"
    demo = Demo(
        tmp_path, service, rollouts=ENOUGH, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
    )
    before = eventually(lambda: jaeger.span_ids(service), bool)

    stack.collector.kill()
    time.sleep(DOWN_S)
    stack.collector.start()
    played = demo.wait()
    sent = played.span_ids
    found = eventually(lambda: jaeger.span_ids(service), lambda ids: ids >= sent)
    query = f'sum by (error_type) (intercept_failures_total{{job="{service}"}}) > 0'
    counted = eventually(
        lambda: prometheus.by("error_type", query),
        lambda counts: counts == played.injected,
    )

    assert before
    assert before < sent
    assert "0 failed + 0 dropped" in " ".join(played.output.split())
    assert found == sent
    assert counted == played.injected


def test_a_killed_jaeger_loses_nothing_that_the_collector_took(
    stack: Stack, endpoint: str, jaeger: Jaeger, tmp_path: Path
) -> None:
    """What came while Jaeger was dead waits on disk; what it had, it has again."""
    kept = "jaeger-before"
    waiting = "jaeger-killed"
    first = Demo(tmp_path, kept, rollouts=1, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    stored = first.wait().span_ids
    eventually(lambda: jaeger.span_ids(kept), lambda ids: ids >= stored)

    stack.jaeger.kill()
    second = Demo(tmp_path, waiting, rollouts=1, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    sent = second.wait().span_ids
    # The collector dies, too: what it has taken must not have been in memory only.
    stack.collector.kill()
    stack.collector.start()
    stack.jaeger.start()
    found = eventually(lambda: jaeger.span_ids(waiting), lambda ids: ids >= sent)

    assert found == sent
    assert jaeger.span_ids(kept) == stored


def test_the_collector_counts_what_it_could_not_keep(stack: Stack) -> None:
    """After both outages, its own metrics tell of no span that was given up."""
    text = get(f"http://{HOST}:{stack.ports.telemetry}/metrics").text

    lost = [
        line
        for line in text.splitlines()
        if line.startswith(
            (
                "otelcol_exporter_enqueue_failed_spans",
                "otelcol_exporter_send_failed_spans",
            )
        )
        and not line.endswith(" 0")
    ]

    assert "otelcol_exporter_queue_size" in text
    assert lost == []
