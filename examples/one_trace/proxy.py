"""The proxy: rollouts join the trace of who ordered them, and tell theirs to others."""

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


def make_app(registry: RolloutRegistry) -> web.Application:
    async def begin(request: web.Request) -> web.Response:
        order: dict[str, str | None] = await request.json()
        rollout = registry.open(
            request.match_info["name"],
            # From the trainer; never from the agent, which could name any trace.
            parent=order.get("traceparent"),
            previous=order.get("previous"),
        )
        return web.json_response({"traceparent": rollout.traceparent})

    async def end(request: web.Request) -> web.Response:
        rollout = registry.close(request.match_info["name"])
        return web.json_response({"outcome": rollout and rollout.outcome})

    app = web.Application()
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", chat)
    app.add_routes(
        [web.put("/rollout/{name}", begin), web.delete("/rollout/{name}", end)]
    )
    instrument_app(app, registry)
    return app


if __name__ == "__main__":
    with configure(service_name="proxy") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
