"""A server whose telemetry is as the environment says, to be killed from outside.

Prints its port. Its agents open and close their rollouts themselves.
"""

import asyncio
import sys

from aiohttp import web

from otel_intercept import RolloutRegistry, instrument_app
from otel_intercept.sdk import configure


def make_app(registry: RolloutRegistry) -> web.Application:
    """Return an app that answers JSON, after the seconds that a request asks for."""

    async def open_rollout(request: web.Request) -> web.Response:
        rollout = registry.open(request.match_info["rollout"])
        return web.json_response({"trace_id": rollout.trace_id})

    async def close_rollout(request: web.Request) -> web.Response:
        registry.close(request.match_info["rollout"])
        return web.json_response({})

    async def answer(request: web.Request) -> web.Response:
        body = await request.json()
        await asyncio.sleep(body["wait_s"])
        if body.get("fails"):
            raise web.HTTPBadGateway
        return web.json_response({"model": "gpt-5", "choices": []})

    async def beat(_request: web.Request) -> web.Response:
        return web.Response()

    app = web.Application()
    app.router.add_get("/beat", beat)
    app.router.add_post("/open/{rollout}", open_rollout)
    app.router.add_post("/close/{rollout}", close_rollout)
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", answer)
    instrument_app(app, registry)
    return app


async def serve(registry: RolloutRegistry) -> None:
    """Serve until the process ends, or until a line comes in."""
    runner = web.AppRunner(make_app(registry))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    sys.stdout.write(f"{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    await runner.cleanup()


if __name__ == "__main__":
    with configure() as telemetry:
        asyncio.run(serve(RolloutRegistry(telemetry)))
