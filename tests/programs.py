"""Programs that run in processes of their own on loopback, and what they export."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.collectors import Collector

ROOT: Final = Path(__file__).parent.parent
_READY: Final = re.compile(r"(?:Running on|Listening at:) (http://127\.0\.0\.1:\d+)")


@dataclass
class Program:
    """A running server, and what it has printed so far."""

    process: "subprocess.Popen[str]"
    url: str
    out: str

    def stop(self) -> str:
        """Send SIGTERM, expect a clean exit, and return all that was printed."""
        self.process.send_signal(signal.SIGTERM)
        out, _ = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, self.out + out
        return self.out + out


def environ(collector: Collector, **more: str) -> dict[str, str]:
    """Make the variables of a program that exports to a collector."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    own = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "PYTHONUNBUFFERED": "1"}
    return clean | own | {"PORT": "0"} | more


@contextmanager
def serving(command: Sequence[str], variables: dict[str, str]) -> Iterator[Program]:
    """Run ``python command`` until it listens; kill it at the end, if it still runs."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    out = ""
    try:
        for line in process.stdout:
            out += line
            found = _READY.search(line)
            if found is not None:
                yield Program(process, found[1], out)
                return
        raise AssertionError(out)
    finally:
        process.kill()
        process.communicate()


def value_of(pairs: Sequence[KeyValue], key: str) -> object:
    """Give the value of an OTLP attribute, or None."""
    for pair in pairs:
        if pair.key == key:
            kind = pair.value.WhichOneof("value")
            value: object = getattr(pair.value, kind) if kind else None
            return value
    return None


def attribute(span: Span, key: str) -> object:
    """Give an attribute of an exported span, or None."""
    return value_of(span.attributes, key)


def resources(collector: Collector) -> list[Resource]:
    """Give the resource of everything that arrived."""
    found = []
    for got in collector.received:
        if got.signal == "traces":
            traces = ExportTraceServiceRequest.FromString(got.body)
            found += [one.resource for one in traces.resource_spans]
        else:
            metrics = ExportMetricsServiceRequest.FromString(got.body)
            found += [one.resource for one in metrics.resource_metrics]
    return found


def exchanges(collector: Collector, rollout_id: str) -> list[Span]:
    """Give the exchange spans of a rollout, in the order of their starts."""
    mine = [
        span
        for span in collector.spans()
        if attribute(span, "intercept.rollout.id") == rollout_id
        and span.kind == Span.SPAN_KIND_SERVER
    ]
    return sorted(mine, key=lambda span: span.start_time_unix_nano)


def outcomes(collector: Collector, rollout_id: str) -> list[object]:
    """Give the outcomes of a rollout's exchanges."""
    return [
        attribute(span, "intercept.exchange.outcome")
        for span in exchanges(collector, rollout_id)
    ]


def root(collector: Collector, rollout_id: str) -> Span:
    """Give the one root span of a rollout."""
    (found,) = (
        span
        for span in collector.spans()
        if span.name == "rollout"
        and attribute(span, "intercept.rollout.id") == rollout_id
    )
    return found
