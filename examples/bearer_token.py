"""The agent's API key says which rollout it is: all agents share one base URL.

``PUT /rollouts/ID`` opens a rollout and gives its key; ``DELETE`` closes it.
"""

import os
import secrets

import aiohttp
from aiohttp import web

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure

URL = os.environ["UPSTREAM_URL"] + "/v1/chat/completions"
rollout_ids: dict[str, str] = {}


def rollout_of(request: web.Request) -> str | None:
    # The key is a secret and the id is exported: so the one is not the other.
    header = request.headers.get("Authorization", "")
    return rollout_ids.get(header.removeprefix("Bearer "))


async def chat(request: web.Request) -> web.Response:
    if rollout_of(request) is None:
        raise web.HTTPUnauthorized
    exchange = exchange_from(request)
    body: dict[str, object] = await request.json()
    exchange.describe_request(body)
    with exchange.upstream_call():
        async with aiohttp.request("POST", URL, json=body) as upstream:
            upstream.raise_for_status()
            return web.json_response(await upstream.json())


def make_app(registry: RolloutRegistry) -> web.Application:
    async def begin(request: web.Request) -> web.Response:
        key = secrets.token_urlsafe()
        rollout_ids[key] = registry.open(request.match_info["name"]).rollout_id
        return web.json_response({"api_key": key})

    async def end(request: web.Request) -> web.Response:
        rollout = registry.close(request.match_info["name"])
        return web.json_response({"outcome": rollout and rollout.outcome})

    app = web.Application()
    app.router.add_post("/v1/chat/completions", chat)
    app.add_routes(
        [web.put("/rollouts/{name}", begin), web.delete("/rollouts/{name}", end)]
    )
    instrument_app(app, registry, rollout_id=rollout_of)
    return app


if __name__ == "__main__":
    with configure(service_name="bearer-token") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
