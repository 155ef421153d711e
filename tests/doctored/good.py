"""Apps whose wiring sees everything, each in another way."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web

from otel_intercept import RolloutRegistry, Telemetry, exchange_from, instrument_app
from otel_intercept.sdk import configure
from otel_intercept.server import Intercept, InterceptionServer
from tests.doctored.calling import (
    SESSION,
    TIMEOUT,
    begin_stream,
    events,
    session_of,
    whole,
)

ROUTE = "/rollout/{rollout_id}/v1/chat/completions"

REGISTRY = web.AppKey("registry", RolloutRegistry)
UPSTREAM = web.AppKey("upstream", str)


async def relay(request: web.Request) -> web.StreamResponse:
    """Call the upstream in the handler, inside of the block that sees it."""
    exchange = exchange_from(request)
    body = await request.json()
    exchange.describe_request(body)
    session, url = request.app[SESSION], request.app[UPSTREAM]
    try:
        with exchange.upstream_call():
            if not body["stream"]:
                answer = await whole(session, url, body)
                return web.json_response(answer)
            response = None
            async for event in events(session, url, body):
                response = response or await begin_stream(request)
                await response.write(event)
    except Exception:
        if not exchange.answer_begun:
            return web.json_response({"error": {"type": "upstream"}}, status=502)
        raise
    assert response is not None
    await response.write_eof()
    return response


def make_app(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Make an app that calls the upstream with aiohttp, from what it is given."""
    app = web.Application()
    app[UPSTREAM] = f"{upstream_url}/v1/chat/completions"
    app.cleanup_ctx.append(session_of)
    app.router.add_post(ROUTE, relay)
    instrument_app(app, registry)
    return app


async def make_own(name: str = "MODEL_URL") -> web.Application:
    """Make an app that sets up everything by itself, and has a route of its own."""
    telemetry = contextlib.ExitStack()
    registry = RolloutRegistry(telemetry.enter_context(configure()))

    async def close(_: web.Application) -> None:
        telemetry.close()

    app = web.Application()
    app[UPSTREAM] = f"{os.environ[name]}/chat/completions"
    app.cleanup_ctx.append(session_of)
    app.on_cleanup.append(close)
    app.router.add_post("/agents/{agent}/{kind}/v1/{call:.+}", relay)
    instrument_app(app, registry, rollout_id="agent")
    return app


def bearer(request: web.Request) -> str | None:
    """Take the rollout id from the agent's credential."""
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    return token if scheme == "Bearer" and token else None


def make_bearer(registry: RolloutRegistry, upstream_url: str) -> web.Application:
    """Make an app whose agents are told apart by their credential."""
    app = web.Application()
    app[UPSTREAM] = f"{upstream_url}/v1/chat/completions"
    app.cleanup_ctx.append(session_of)
    app.router.add_post("/v1/chat/completions", relay)
    instrument_app(app, registry, rollout_id=bearer)
    return app


async def futures(request: web.Request) -> web.StreamResponse:
    """Put the request on a queue, and wait for a future; the agent learns nothing."""
    exchange = exchange_from(request)
    body = await request.json()
    exchange.describe_request(body)
    session, url = request.app[SESSION], request.app[UPSTREAM]

    async def call() -> list[bytes] | dict[str, object]:
        if not body["stream"]:
            return await whole(session, url, body)
        return [event async for event in events(session, url, body)]

    future = exchange.watch(asyncio.create_task(call()))
    try:
        answer = await future
    except Exception:  # noqa: BLE001 - swallowed, as the seed of this library did
        answer = [b"data: [DONE]\n\n"] if body["stream"] else {"choices": []}
    if isinstance(answer, dict):
        return web.json_response(answer)
    response = await begin_stream(request)
    for event in answer:
        await response.write(event)
    await response.write_eof()
    return response


@asynccontextmanager
async def make_futures(telemetry: Telemetry) -> AsyncIterator[web.Application]:
    """Give an app that swallows every failure, but has its futures watched."""
    app = web.Application()
    app[UPSTREAM] = f"{os.environ['OPENAI_BASE_URL']}/chat/completions"
    app.cleanup_ctx.append(session_of)
    app.router.add_post(ROUTE, futures)
    instrument_app(app, RolloutRegistry(telemetry))
    yield app


class Host(InterceptionServer):
    """An interception server with a training loop for each of its rollouts."""

    def __init__(
        self, registry: RolloutRegistry, session: aiohttp.ClientSession, url: str
    ) -> None:
        super().__init__(registry, secret="sk-own-secret")
        self._session = session
        self._url = url
        self._loops: set[asyncio.Task[None]] = set()

    def register_rollout(
        self, rollout_id: str, *args: object, **kwargs: object
    ) -> "asyncio.Queue[str]":
        """Take in a rollout, and start its loop."""
        queue = super().register_rollout(rollout_id)
        self._loops.add(asyncio.create_task(self._train(queue)))
        return queue

    async def stop(self) -> None:
        """Stop the loops and the server."""
        for loop in self._loops:
            loop.cancel()
        await super().stop()

    async def _train(self, queue: "asyncio.Queue[str]") -> None:
        while True:
            intercept = self.intercepts[await queue.get()]
            body = {"model": intercept["model"], "messages": intercept["messages"]}
            try:
                if intercept["stream"]:
                    await self._stream(intercept, body | {"stream": True})
                else:
                    response = await whole(self._session, self._url, body)
                    self.deliver_response(intercept, response)
            except Exception as exc:  # noqa: BLE001 - the agent's future gets it
                self.deliver_response(intercept, None, exc)

    async def _stream(self, intercept: Intercept, body: dict[str, object]) -> None:
        chunks = intercept["chunk_queue"]
        assert chunks is not None
        async for event in events(self._session, self._url, body):
            if event.startswith(b"data: {"):
                chunks.put_nowait(json.loads(event.removeprefix(b"data: ")))
        chunks.put_nowait(None)
        intercept["response_future"].set_result(None)


@asynccontextmanager
async def make_server(
    registry: RolloutRegistry, upstream_url: str
) -> AsyncIterator[Host]:
    """Give an interception server whose loops call the upstream with aiohttp."""
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        yield Host(registry, session, f"{upstream_url}/v1/chat/completions")
