"""Side by side with opentelemetry-instrumentation-aiohttp-server and client spans."""

from collections.abc import Iterator

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_intercept import RolloutRegistry, instrument_app
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve

SECRET = "sk-canary-77b0de"
ROUTE = "/rollout/{rollout_id}/v1/messages"
PATH = f"/rollout/r1/v1/messages?token={SECRET}"

pytestmark = pytest.mark.filterwarnings(
    "ignore:Inheritance class _InstrumentedApplication:DeprecationWarning"
)


@pytest.fixture
def foreign() -> Iterator[InMemorySpanExporter]:
    """Instrument aiohttp's server and client with contrib, as a host may have done."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    AioHttpClientInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    AioHttpClientInstrumentor().uninstrument()
    AioHttpServerInstrumentor().uninstrument()
    provider.shutdown()


def names(exporter: InMemorySpanExporter) -> list[str]:
    """Return the names of the spans that contrib exported."""
    return [span.name for span in exporter.get_finished_spans()]


def ours(recorder: TelemetryRecorder) -> list[ReadableSpan]:
    """Return our own SERVER spans."""
    recorder.flush()
    return [span for span in recorder.spans() if span.kind is trace.SpanKind.SERVER]


async def call(url: str) -> int:
    """Post once with an instrumented client, and return the status."""
    connector = aiohttp.TCPConnector()
    async with (
        aiohttp.ClientSession(connector=connector, trace_configs=[]) as session,
        session.post(url, json={}) as response,
    ):
        await response.read()
        return response.status


async def raises(request: web.Request) -> web.StreamResponse:
    """Fail with a secret in the text."""
    raise RuntimeError(SECRET)


async def health(request: web.Request) -> web.StreamResponse:
    """Answer."""
    return web.json_response({"status": "ok"})


async def test_a_rollout_route_has_our_span_only(
    foreign: InMemorySpanExporter,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
) -> None:
    """Contrib makes no span, and so no leak, where the exchange makes its own."""
    app = web.Application(middlewares=[])
    app.router.add_post(ROUTE, raises)
    instrument_app(app, registry)
    url = await serve(app)
    registry.open("r1")

    status = await call(url + PATH)

    assert status == 500
    assert len(ours(recorder)) == 1
    servers = [
        span
        for span in foreign.get_finished_spans()
        if span.kind is trace.SpanKind.SERVER
    ]
    assert servers == []


async def test_other_routes_keep_contribs_span(
    foreign: InMemorySpanExporter,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
) -> None:
    """A route that is no rollout's is contrib's, as before."""
    app = web.Application(middlewares=[])
    app.router.add_post("/health", health)
    instrument_app(app, registry)
    url = await serve(app)

    await call(url + "/health")

    assert "POST /health" in names(foreign)
    assert ours(recorder) == []


@pytest.mark.parametrize("nested", [False, True])
async def test_client_spans_of_the_handler_nest_below_the_exchange(
    foreign: InMemorySpanExporter,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    nested: bool,
) -> None:
    """An instrumented client inside the handler joins the rollout's trace."""
    upstream = web.Application(middlewares=[])
    upstream.router.add_post("/up", health)
    upstream_url = await serve(upstream)

    async def calls_upstream(request: web.Request) -> web.StreamResponse:
        await call(upstream_url + "/up")
        return web.json_response({})

    app = web.Application(middlewares=[])
    app.router.add_post(ROUTE, calls_upstream)
    instrument_app(app, registry)
    prefix = ""
    if nested:
        root = web.Application(middlewares=[])
        root.add_subapp("/api", app)
        instrument_app(root, registry)
        app, prefix = root, "/api"
    url = await serve(app)
    rollout = registry.open("r1")

    await call(url + prefix + PATH)

    (exchange,) = ours(recorder)
    inner = [
        span
        for span in foreign.get_finished_spans()
        if span.kind is trace.SpanKind.CLIENT and span.parent is not None
    ]
    assert exchange.context is not None
    assert [span.parent.span_id for span in inner if span.parent] == [
        exchange.context.span_id
    ]
    assert inner[0].context is not None
    assert f"{inner[0].context.trace_id:032x}" == rollout.trace_id


async def test_an_uninstrumented_sub_app_of_contrib_makes_no_second_span(
    foreign: InMemorySpanExporter,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
) -> None:
    """Contrib's middleware in a mounted sub-app stays silent on rollout routes."""
    sub = web.Application(middlewares=[])
    sub.router.add_post(ROUTE, raises)
    root = web.Application(middlewares=[])
    root.add_subapp("/api", sub)
    instrument_app(root, registry)
    url = await serve(root)
    registry.open("r1")

    await call(url + "/api" + PATH)

    assert len(ours(recorder)) == 1
    assert not [
        span
        for span in foreign.get_finished_spans()
        if span.kind is trace.SpanKind.SERVER
    ]
