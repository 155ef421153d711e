"""Apps whose wiring is broken, each in one way that happens."""

import contextlib
import os
import sys
from typing import NoReturn

import aiohttp
from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from otel_intercept import (
    ConfigurationError,
    RolloutRegistry,
    Telemetry,
    exchange_from,
    instrument_app,
)
from tests.doctored.calling import SESSION, begin_stream, events, session_of, whole
from tests.doctored.good import ROUTE, UPSTREAM, make_app, relay

SECRET = CANARY = "sk-canary-d0c7"

fine = make_app


def plain(upstream_url: str) -> web.Application:
    """Make an app that calls the upstream, and knows nothing of exchanges."""
    app = web.Application()
    app[UPSTREAM] = f"{upstream_url}/v1/chat/completions"
    app.cleanup_ctx.append(session_of)
    return app


async def forward(request: web.Request) -> web.StreamResponse:
    """Call the upstream, and tell nobody how it went."""
    body = await request.json()
    session, url = request.app[SESSION], request.app[UPSTREAM]
    if not body["stream"]:
        return web.json_response(await whole(session, url, body))
    response = await begin_stream(request)
    async for event in events(session, url, body):
        await response.write(event)
    await response.write_eof()
    return response


async def swallow(request: web.Request) -> web.StreamResponse:
    """Answer as if all were well, whatever the upstream did."""
    body = await request.json()
    exchange_from(request).describe_request(body)
    session, url = request.app[SESSION], request.app[UPSTREAM]
    if not body["stream"]:
        try:
            return web.json_response(await whole(session, url, body))
        except Exception:  # noqa: BLE001 - this is what is broken
            return web.json_response({"choices": []})
    response = await begin_stream(request)
    await response.write(b'data: {"choices": []}\n\n')
    with contextlib.suppress(Exception):
        async for event in events(session, url, body):
            await response.write(event)
    await response.write(b"data: [DONE]\n\n")
    return response


def not_instrumented(upstream_url: str) -> web.Application:
    """Forget `instrument_app`."""
    app = plain(upstream_url)
    app.router.add_post(ROUTE, forward)
    return app


def swallowing(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Catch what the upstream does, without `watch` and `upstream_call`."""
    app = plain(upstream_url)
    app.router.add_post(ROUTE, swallow)
    instrument_app(app, registry)
    return app


def wrong_key(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Call the id something else in the route."""
    app = plain(upstream_url)
    app.router.add_post("/rollout/{id}/v1/chat/completions", forward)
    instrument_app(app, registry)
    return app


def other_registry(
    registry: RolloutRegistry, telemetry: Telemetry, upstream_url: str
) -> web.Application:
    """Instrument for a registry of its own."""
    app = plain(upstream_url)
    app.router.add_post(ROUTE, forward)
    instrument_app(app, RolloutRegistry(telemetry))
    return app


def opens_elsewhere(telemetry: Telemetry, upstream_url: str) -> web.Application:
    """Open rollouts on request, in another registry than the app's."""
    opened = RolloutRegistry(telemetry)

    async def open_rollout(request: web.Request) -> web.StreamResponse:
        opened.open(request.match_info["name"])
        return web.json_response({})

    app = plain(upstream_url)
    app.router.add_post("/open/{name}", open_rollout)
    app.router.add_post(ROUTE, forward)
    instrument_app(app, RolloutRegistry(telemetry))
    return app


async def too_late(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Set the runner up first."""
    app = plain(upstream_url)
    app.router.add_post(ROUTE, forward)
    await web.AppRunner(app).setup()
    instrument_app(app, registry)
    return app


def contrib_outside(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Instrument a sub-app below an app that contrib traces."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    sub = plain(upstream_url)
    sub.router.add_post(ROUTE, relay)
    instrument_app(sub, registry)
    AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    root = web.Application(middlewares=[])
    root.add_subapp("/api", sub)
    return root


def untold(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Let failures escape, and tell neither model nor upstream call."""
    app = plain(upstream_url)
    app.router.add_post(ROUTE, forward)
    instrument_app(app, registry)
    return app


def leaking(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Pass on whatever text the upstream sends, and put it on a span of contrib."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter()))
    tracer = provider.get_tracer("app")

    async def pass_on(request: web.Request) -> web.StreamResponse:
        exchange = exchange_from(request)
        body = await request.json()
        exchange.describe_request(body)
        session, url = request.app[SESSION], request.app[UPSTREAM]
        with exchange.upstream_call():
            async with session.post(url, json=body) as answer:
                text = await answer.text()
                with tracer.start_as_current_span("call") as span:
                    span.set_attribute("answer", text)
                if answer.status == 200:
                    return web.Response(text=text, content_type=answer.content_type)
                raise_for(answer, text)

    app = plain(upstream_url)
    app.router.add_post(ROUTE, pass_on)
    instrument_app(app, registry)
    return app


def raise_for(answer: aiohttp.ClientResponse, text: str) -> NoReturn:
    """Answer with the upstream's own words."""
    raise web.HTTPBadGateway(text=text)


def deaf(registry: RolloutRegistry) -> web.Application:
    """Call nobody."""

    async def answer(request: web.Request) -> web.StreamResponse:
        exchange_from(request).describe_request(await request.json())
        return web.json_response({})

    app = web.Application()
    app.router.add_post(ROUTE, answer)
    instrument_app(app, registry)
    return app


def silent(upstream_url: str) -> web.Application:
    """Build telemetry that goes nowhere."""
    app = plain(upstream_url)
    app.router.add_post(ROUTE, relay)
    instrument_app(app, RolloutRegistry(Telemetry()))
    return app


def raising() -> web.Application:
    """Raise with a secret in the text."""
    raise RuntimeError(SECRET)


def pretending() -> web.Application:
    """Raise an error of ours with words of its own."""
    raise ConfigurationError(SECRET)


def failing_start(registry: RolloutRegistry) -> web.Application:
    """Raise with a secret while the app starts."""

    async def fail(_: web.Application) -> None:
        raise LookupError(SECRET)

    app = web.Application()
    app.on_startup.append(fail)
    return app


def shouting(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Print secrets, and serve no route of model calls."""
    for stream in (sys.stdout, sys.stderr):
        stream.write(f"{SECRET} {os.environ}")
        stream.flush()
    return web.Application()


def demanding(database: str) -> web.Application:
    """Need something that doctor does not have."""
    return plain(database)


def nothing() -> None:
    """Make nothing."""


def misconfigured(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Instrument twice, in two ways."""
    app = make_app(registry, upstream_url)
    instrument_app(app, registry, rollout_id="id")
    return app


def leaves() -> None:
    """End the process."""
    os._exit(3)
