"""opentelemetry-instrument before an unmodified program is all it takes."""

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from otel_intercept.testing import TelemetryRecorder
from tests.collectors import HttpCollector
from tests.conftest import Serve
from tests.hosts.legacy_loop import Upstream
from tests.hosts.legacy_scenes import json_ok, side_channel_fails
from tests.hosts.legacy_stage import SECRET, Stage, load
from tests.served import outcomes

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


async def test_an_unmodified_program_exports_its_rollout(serve: Serve) -> None:
    """The trace arrives at an OTLP endpoint: whole, once, and without text."""
    url = await serve(Upstream(("500",)).app())

    with HttpCollector() as collector:
        process = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("opentelemetry-instrument")),
            *(sys.executable, "-W", "ignore", "-m", "tests.hosts.legacy_program", url),
            stdout=asyncio.subprocess.PIPE,
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
                "OTEL_LOGS_EXPORTER": "none",
            },
        )
        printed, _ = await asyncio.wait_for(process.communicate(), 60)
        spans = collector.spans()

    (root,) = (span for span in spans if span.name == "rollout")
    assert printed.decode().strip() == "has_error"
    assert Counter(s.name for s in spans if s.trace_id == root.trace_id) == {
        "rollout.started": 1,
        "rollout": 1,
        "POST /rollout/{rollout_id}/v1/chat/completions": 1,
        "chat m": 1,
    }
    assert SECRET.encode() not in collector.raw()


@pytest.fixture
def foreign() -> Iterator[InMemorySpanExporter]:
    """Instrument aiohttp's server with contrib, as a host may have done."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    AioHttpServerInstrumentor().uninstrument()
    provider.shutdown()


async def test_contrib_keeps_out_of_model_calls(
    recorder: TelemetryRecorder, foreign: InMemorySpanExporter
) -> None:
    """A model call is a span of ours alone; the side channel stays one of contrib's."""
    VerifiersInstrumentor().instrument(telemetry=recorder.telemetry)
    try:
        server_module = load("utils.interception_utils")
        server = server_module.InterceptionServer(0, secret="the-secret")
        await server.start()
        stage = Stage(server_module, server)
        stage.register()
        await json_ok(stage)
        await side_channel_fails(stage)
        server.unregister_rollout(stage.rollout_id)
        await stage.stop()
    finally:
        VerifiersInstrumentor().uninstrument()

    (theirs,) = foreign.get_finished_spans()
    assert "/vf/user" in str(dict(theirs.attributes or {}))
    assert outcomes(recorder) == ["ok"]
