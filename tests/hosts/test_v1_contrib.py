"""Contrib's aiohttp-server instrumentation stays out of a v1 server's rollouts."""

import pytest
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_intercept.testing import TelemetryRecorder
from tests.hosts.v1_scenes import ask
from tests.hosts.v1_stage import Observer, play


@pytest.mark.filterwarnings("ignore:Inheritance class:DeprecationWarning")
@pytest.mark.parametrize("is_observed", [False, True])
async def test_contrib_makes_no_span_of_a_rollouts_request(
    recorder: TelemetryRecorder, is_observed: bool
) -> None:
    """The request is contrib's without us, and ours alone with us."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    contrib = AioHttpServerInstrumentor()
    contrib.instrument(tracer_provider=provider)
    observer = Observer(recorder) if is_observed else None

    try:
        await play(ask, "ok")
    finally:
        if observer is not None:
            observer.undo()
        contrib.uninstrument()

    # The upstream is an app of contrib's too, and stays one.
    assert len(exporter.get_finished_spans()) == (1 if is_observed else 2)
    assert any("chat" in span.name for span in recorder.spans()) is is_observed
