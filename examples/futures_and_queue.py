"""The handler waits for a future; a queue's consumers make the model calls."""

import asyncio
import os
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure

Job = tuple[dict[str, object], "asyncio.Future[dict[str, object]]"]
URL = os.environ["UPSTREAM_URL"] + "/v1/chat/completions"
jobs: asyncio.Queue[Job] = asyncio.Queue()


async def chat(request: web.Request) -> web.Response:
    exchange = exchange_from(request)
    exchange.describe_request(body := await request.json())
    answer = exchange.watch(asyncio.get_running_loop().create_future())
    await jobs.put((body, answer))
    try:
        return web.json_response(await answer)
    except aiohttp.ClientError:
        return web.json_response({"error": "the model call failed"}, status=502)


async def consume() -> None:
    while True:
        body, answer = await jobs.get()
        try:
            async with aiohttp.request("POST", URL, json=body) as upstream:
                upstream.raise_for_status()
                answer.set_result(await upstream.json())
        except Exception as exc:  # noqa: BLE001 - who waits for the answer is told
            if not answer.done():
                answer.set_exception(exc)


async def consumers(app: web.Application) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(consume()) for _ in range(64)]
    yield
    for task in tasks:
        task.cancel()


def make_app(registry: RolloutRegistry) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(consumers)
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", chat)
    instrument_app(app, registry, idle_close_s=900)
    return app


if __name__ == "__main__":
    with configure(service_name="futures-and-queue") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
