"""An app for gunicorn: telemetry is made in each worker, after the fork.

``gunicorn -k aiohttp.GunicornWebWorker -w 4 examples.gunicorn_app:make_app``

Each worker has its own rollouts, and a connection stays with its worker: let an agent
keep its connection, as the SDKs do, or its rollout gets a trace in each worker.
"""

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack

import aiohttp
from aiohttp import web

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


async def make_app() -> web.Application:
    # gunicorn calls this in the worker: no thread and no id is shared with another.
    stack = ExitStack()
    telemetry = stack.enter_context(configure(service_name="gunicorn-app"))

    async def flush_at_end(app: web.Application) -> AsyncIterator[None]:
        with stack:
            yield

    app = web.Application()
    app.cleanup_ctx.append(flush_at_end)
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", chat)
    instrument_app(app, RolloutRegistry(telemetry), idle_close_s=900)
    return app
