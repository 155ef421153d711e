"""Play real rollouts into the official Prometheus exporter and read its page."""

import asyncio
import re
from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest

from otel_intercept import Telemetry
from otel_intercept.cli.demo.loop import Played
from otel_intercept.cli.demo.plan import Planned, plan
from otel_intercept.cli.demo.run import new_secret, run

_SAMPLE: Final = re.compile(
    r"^(?P<name>[a-z_]+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)$"
)
_LABEL: Final = re.compile(r'([a-z_]+)="([^"]*)"')


class Sample(NamedTuple):
    """One line of a scraped page."""

    name: str
    labels: Mapping[str, str]
    value: float


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
        asyncio.run(self.play_async(rollouts, seed=seed))
        self.telemetry.flush()

    async def play_async(self, rollouts: int, *, seed: int) -> None:
        """Play the demo's rollouts of every outcome."""
        await run(
            self.telemetry,
            plan(rollouts, seed=seed, stream_failure="done"),
            stream_failure="done",
            planted=new_secret(),
            watcher=_Unwatched(),
        )

    def page(self) -> str:
        """Return the page as it would be scraped now."""
        return generate_latest(self.registry).decode()


def samples_of(page: str) -> Iterator[Sample]:
    """Yield every sample of a page in the text format."""
    for line in page.splitlines():
        found = _SAMPLE.match(line)
        if found is not None:
            labels = dict(_LABEL.findall(found["labels"] or ""))
            yield Sample(found["name"], labels, float(found["value"]))


def types_of(page: str) -> dict[str, str]:
    """Return the type of every metric family of a page."""
    return dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
