"""An app that opentelemetry-instrumentation-aiohttp-server traces already.

Its spans stay as they are on all routes but the rollouts', which have ours alone.
"""

import os

import aiohttp
from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure

URL = os.environ["UPSTREAM_URL"] + "/v1/chat/completions"


async def chat(request: web.Request) -> web.Response:
    exchange = exchange_from(request)
    body: dict[str, object] = await request.json()
    exchange.describe_request(body)
    with exchange.upstream_call():
        async with aiohttp.request("POST", URL, json=body) as upstream:
            upstream.raise_for_status()
            return web.json_response(await upstream.json())


async def health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def make_app(registry: RolloutRegistry) -> web.Application:
    app = web.Application()
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", chat)
    app.router.add_get("/health", health)
    instrument_app(app, registry, idle_close_s=900)
    return app


if __name__ == "__main__":
    # What was there: the app's own provider, and contrib with it.
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    with configure(service_name="beside-contrib") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
