"""The handler waits for a future; the consumer of a queue makes the model call."""

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
    body: dict[str, object] = await request.json()
    exchange.describe_request(body)
    # From here on the future's end is seen, whatever is done about it below.
    future = exchange.watch(asyncio.get_running_loop().create_future())
    await jobs.put((body, future))
    try:
        return web.json_response(await future)
    except aiohttp.ClientError:
        return web.json_response({"error": "the model call failed"}, status=502)


async def call_models() -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        while True:
            body, future = await jobs.get()
            try:
                async with session.post(URL, json=body) as answer:
                    future.set_result(await answer.json())
            except aiohttp.ClientError as exc:
                future.set_exception(exc)


async def consume(app: web.Application) -> AsyncIterator[None]:
    task = asyncio.create_task(call_models())
    yield
    task.cancel()


def make_app(registry: RolloutRegistry) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(consume)
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", chat)
    instrument_app(app, registry, idle_close_s=900)
    return app


if __name__ == "__main__":
    with configure(service_name="futures-and-queue") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
