"""The first segment of the path is the rollout; the app has one catch-all route.

An agent's base URL is ``http://proxy/ID/v1``. Other paths are no rollout's.
"""

import os

import aiohttp
from aiohttp import web

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure


def rollout_of(request: web.Request) -> str | None:
    rollout_id, _, rest = request.path.removeprefix("/").partition("/")
    return rollout_id if rest.startswith("v1/") else None


async def forward(request: web.Request) -> web.Response:
    rollout_id = rollout_of(request)
    if rollout_id is None:
        return web.json_response({"status": "ok"})
    exchange = exchange_from(request)
    body: dict[str, object] = await request.json()
    exchange.describe_request(body)
    url = os.environ["UPSTREAM_URL"] + request.path.removeprefix(f"/{rollout_id}")
    with exchange.upstream_call():
        async with aiohttp.request("POST", url, json=body) as upstream:
            upstream.raise_for_status()
            return web.json_response(await upstream.json())


def make_app(registry: RolloutRegistry) -> web.Application:
    app = web.Application()
    app.router.add_post("/{path:.*}", forward)
    instrument_app(app, registry, rollout_id=rollout_of, idle_close_s=900)
    return app


if __name__ == "__main__":
    with configure(service_name="path-prefix") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
