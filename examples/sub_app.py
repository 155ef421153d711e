"""The rollouts' routes are in a mounted app: instrument the root, before its runner."""

import os

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


async def health(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def make_app(registry: RolloutRegistry) -> web.Application:
    proxy = web.Application()
    proxy.router.add_post("/{rollout_id}/v1/chat/completions", chat)
    root = web.Application()
    root.router.add_get("/health", health)
    root.add_subapp("/proxy", proxy)
    instrument_app(root, registry, idle_close_s=900)
    return root


if __name__ == "__main__":
    with configure(service_name="sub-app") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
