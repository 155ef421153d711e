"""Scaled out: an agent redacts and counts, gateways keep the rollouts that matter."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from deploy.stack.engine import get
from deploy.stack.stack import (
    AGENT_CONFIG,
    COLLECTOR_CONFIG,
    GATEWAY_CONFIG,
    HOST,
    Stack,
    collector_engine,
    free_ports,
)
from deploy.stack.tools import Tools
from otel_intercept import RolloutRegistry, semconv
from otel_intercept.cli.demo.scenario import Host
from otel_intercept.sdk import configure, read_spans
from otel_intercept.semconv import RolloutOutcome
from tests.stack.backends import Jaeger, eventually
from tests.stack.conftest import LOGS
from tests.stack.played import Demo, Played

SERVICE = "tiers"
DECISION_WAIT = "20s"


class Tiers(NamedTuple):
    """What was played into the agent, and where its gateways tell of themselves."""

    played: Played
    endpoint: str
    scrape: str
    telemetry: tuple[str, ...]


@pytest.fixture(scope="module")
def tiers(
    tools: Tools,
    stack: Stack,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Tiers]:
    """Send the demo through one agent and two gateways, which keep none at random."""
    directory = tmp_path_factory.mktemp("tiers")
    gateways = [
        free_ports()._replace(jaeger_otlp=stack.ports.jaeger_otlp) for _ in "12"
    ]
    addresses = ", ".join(f'"{HOST}:{ports.otlp_grpc}"' for ports in gateways)
    agent = free_ports()
    engines = [
        *(
            collector_engine(
                tools,
                directory,
                ports,
                name=f"gateway-{number}",
                configs=[GATEWAY_CONFIG],
                OTELCOL_DECISION_WAIT=DECISION_WAIT,
                OTELCOL_KEEP_PERCENT="0",
            )
            for number, ports in enumerate(gateways)
        ),
        collector_engine(
            tools,
            directory,
            agent,
            name="agent",
            configs=[COLLECTOR_CONFIG, AGENT_CONFIG],
            OTELCOL_GATEWAYS=f"[{addresses}]",
        ),
    ]
    pytestconfig.stash[LOGS] += engines
    try:
        for engine in engines:
            engine.start()
        played = play(directory, f"{HOST}:{agent.otlp_grpc}")
        yield Tiers(
            played,
            f"http://{HOST}:{agent.otlp_http}",
            f"http://{HOST}:{agent.metrics}/metrics",
            tuple(f"http://{HOST}:{ports.telemetry}/metrics" for ports in gateways),
        )
    finally:
        for engine in reversed(engines):
            engine.stop()


def play(directory: Path, endpoint: str) -> Played:
    """Play every kind of rollout, by gRPC."""
    demo = Demo(
        directory,
        SERVICE,
        rollouts=1,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://{endpoint}",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
    )
    return demo.wait()


def spans_of(played: Played, outcome: RolloutOutcome) -> set[tuple[str, str]]:
    """Return the ids of all spans of the rollouts that had to end so."""
    wanted = played.ids_of(outcome)
    return {
        (span.trace_id, span.span_id)
        for span in read_spans(played.file)
        if span.attributes[semconv.ROLLOUT_ID] in wanted
    }


def test_failed_rollouts_are_kept_whole(tiers: Tiers, jaeger: Jaeger) -> None:
    """Every span of every failed rollout is there, whichever gateway had it."""
    failed = spans_of(tiers.played, RolloutOutcome.FAILED)

    found = eventually(lambda: jaeger.span_ids(SERVICE), lambda ids: ids >= failed)

    assert failed
    assert failed - found == set()


def test_both_gateways_had_rollouts(tiers: Tiers) -> None:
    """The agent spreads the rollouts, so that a gateway can be added."""
    texts = [get(url).text for url in tiers.telemetry]

    for text in texts:
        accepted = [
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("otelcol_receiver_accepted_spans")
        ]
        assert sum(accepted) > 0


def test_sampling_changes_no_number(tiers: Tiers) -> None:
    """The agent counts all failures and all exchanges, also those not kept."""
    injected = sum(tiers.played.injected.values())
    hosts = {item.scenario.host for item in tiers.played.planned}

    def counted() -> float:
        return sum(
            float(line.split("}", 1)[1].split()[0])
            for line in get(tiers.scrape).text.splitlines()
            if line.startswith("intercept_failure_events_total{")
        )

    total = eventually(counted, lambda total: total == injected)

    assert hosts == set(Host)
    assert total == injected


def test_a_rollout_that_runs_on_is_kept_with_its_end(
    tiers: Tiers, jaeger: Jaeger
) -> None:
    """Decided while it ran, as unfinished, it is kept; what comes later follows it."""
    service = "runs-on"
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": tiers.endpoint,
        "OTEL_METRICS_EXPORTER": "none",
    }

    with configure(variables, service_name=service) as telemetry:
        registry = RolloutRegistry(telemetry)
        registry.open("runs-on-1")
        running = eventually(lambda: names_of(jaeger, service), bool, within_s=60)
        registry.close("runs-on-1")
        telemetry.flush()
    ended = eventually(lambda: names_of(jaeger, service), lambda names: len(names) > 1)

    assert running == [semconv.SPAN_ROLLOUT_STARTED]
    assert sorted(ended) == [semconv.SPAN_ROLLOUT, semconv.SPAN_ROLLOUT_STARTED]


def test_healthy_rollouts_are_thinned_out(tiers: Tiers, jaeger: Jaeger) -> None:
    """With nothing kept at random, no rollout that completed well is there."""
    failed = spans_of(tiers.played, RolloutOutcome.FAILED)
    healthy = spans_of(tiers.played, RolloutOutcome.COMPLETED)
    found = eventually(lambda: jaeger.span_ids(SERVICE), lambda ids: ids >= failed)

    assert failed <= found
    assert healthy
    assert found & healthy == set()


def names_of(jaeger: Jaeger, service: str) -> list[str]:
    """Return the names of a service's spans."""
    traces = jaeger.traces(service).values()
    return [span.name for spans in traces for span in spans]
