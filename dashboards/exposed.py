"""Play the demo's rollouts in this process, before any exporters."""

import asyncio
import time

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from otel_intercept import Telemetry
from otel_intercept.cli.demo.loop import Played
from otel_intercept.cli.demo.plan import Planned, plan
from otel_intercept.cli.demo.run import new_secret, run


class _Unwatched:
    def turn(self, planned: Planned, number: int) -> None:
        """Show nothing."""

    def ended(self, played: Played) -> None:
        """Show nothing."""


class Exposed:
    """A process of ours whose metrics stand on a page that Prometheus can scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(
            span_exporter=InMemorySpanExporter(),
            metric_reader=PrometheusMetricReader(registry=self.registry),
            resource=Resource({"service.name": "demo"}),
        )

    def play(self, rollouts: int, *, seed: int) -> None:
        """Play the demo's rollouts of every outcome, and translate their records."""
        play(self.telemetry, rollouts, seed=seed)
        self.telemetry.flush()

    def page(self) -> str:
        """Return the page as it would be scraped now."""
        return generate_latest(self.registry).decode()


def play(telemetry: Telemetry, rollouts: int, *, seed: int) -> None:
    """Play the demo's rollouts: at least one of each kind, whatever the number."""
    asyncio.run(
        run(
            telemetry,
            plan(rollouts, seed=seed, stream_failure="done"),
            stream_failure="done",
            planted=new_secret(),
            watcher=_Unwatched(),
        )
    )


def play_for(telemetry: Telemetry, seconds: float) -> None:
    """Play one set of rollouts after the other until the time is over."""
    end = time.monotonic() + seconds
    seed = 0
    while seed == 0 or time.monotonic() < end:
        seed += 1
        # Mostly healthy, as a training job should be, with every fault in it.
        play(telemetry, 80, seed=seed)
