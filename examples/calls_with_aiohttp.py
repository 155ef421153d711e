"""The handler calls the upstream itself, with aiohttp's client, and passes streams on.

Nothing says when a rollout begins or ends: its first request opens it.
"""

import os
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure

URL = os.environ["UPSTREAM_URL"] + "/v1/chat/completions"
SESSION = web.AppKey("session", aiohttp.ClientSession)


async def chat(request: web.Request) -> web.StreamResponse:
    exchange = exchange_from(request)
    body: dict[str, object] = await request.json()
    exchange.describe_request(body)
    with exchange.upstream_call():
        async with request.app[SESSION].post(URL, json=body) as upstream:
            # What is raised here becomes a redacted 500; after prepare(), a cut stream.
            upstream.raise_for_status()
            answer = web.StreamResponse()
            answer.content_type = upstream.content_type
            await answer.prepare(request)
            async for data in upstream.content.iter_any():
                await answer.write(data)
    await answer.write_eof()
    return answer


async def client(app: web.Application) -> AsyncIterator[None]:
    # The default of 300 s in all would cut long streams.
    timeout = aiohttp.ClientTimeout(total=None, connect=30, sock_read=900)
    async with aiohttp.ClientSession(timeout=timeout) as app[SESSION]:
        yield


def make_app(registry: RolloutRegistry) -> web.Application:
    app = web.Application()
    app.cleanup_ctx.append(client)
    app.router.add_post("/rollout/{rollout_id}/v1/chat/completions", chat)
    instrument_app(app, registry, idle_close_s=900)
    return app


if __name__ == "__main__":
    with configure(service_name="calls-with-aiohttp") as telemetry:
        app = make_app(RolloutRegistry(telemetry))
        web.run_app(app, host="127.0.0.1", port=int(os.environ["PORT"]))
