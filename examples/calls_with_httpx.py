"""The handler calls the upstream itself, with httpx, and answers in one piece."""

import logging
import os
from collections.abc import AsyncIterator

import httpx
from aiohttp import web

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure

CLIENT = web.AppKey("client", httpx.AsyncClient)


async def chat(request: web.Request) -> web.Response:
    exchange = exchange_from(request)
    body: dict[str, object] = await request.json()
    exchange.describe_request(body)
    with exchange.upstream_call():
        upstream = await request.app[CLIENT].post("/v1/chat/completions", json=body)
        upstream.raise_for_status()
        answer: dict[str, object] = upstream.json()
    exchange.describe_response(answer)
    return web.json_response(answer)


async def client(app: web.Application) -> AsyncIterator[None]:
    async with httpx.AsyncClient(
        base_url=os.environ["UPSTREAM_URL"], timeout=600
    ) as app[CLIENT]:
        yield


def make_app(registry: RolloutRegistry) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", chat)
    instrument_app(app, registry, idle_close_s=900)
    return app


if __name__ == "__main__":
    # At INFO httpx logs whole URLs, with what they carry.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with configure(service_name="calls-with-httpx") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
