"""A relay between an agent and a scripted upstream, for tests."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from multidict import CIMultiDictProxy

from otel_intercept import RolloutRegistry
from otel_intercept.server import ErrorBodies, make_relay_app, relay_runner
from tests.served import CHAT, Reply, chat_body, until

Script = Callable[[web.Request], Awaitable[web.StreamResponse]]

CHUNK = (
    b'data: {"object":"chat.completion.chunk","choices":[{"delta":{"content":"a"}}]}'
)
EVENT = CHUNK + b"\n\n"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Received:
    """One request as the upstream got it."""

    method: str
    path: str
    headers: CIMultiDictProxy[str]
    body: bytes


@dataclass(slots=True)
class Upstream:
    """A model API that does what its script says."""

    script: Script
    url: str = ""
    received: list[Received] = field(default_factory=list)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Note the request, and follow the script."""
        body = await request.read()
        self.received.append(
            Received(request.method, request.raw_path, request.headers, body)
        )
        try:
            return await self.script(request)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


@dataclass(frozen=True, slots=True)
class Relay:
    """A served relay."""

    url: str
    upstream: Upstream
    server: web.Server

    async def agents_have_left(self) -> None:
        """Wait until the relay has noticed that nobody is connected any more."""
        await until(
            lambda: all(one.transport is None for one in self.server.connections)
        )

    async def call(
        self,
        path: str = f"/rollout/r1/v1/{CHAT}",
        data: bytes = b'{"model": "m"}',
        *,
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        """Send one request, and read all of the answer."""
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                method, self.url + path, data=data or None, headers=headers
            ) as response,
        ):
            body = await response.read()
            return Reply(response.status, body, response.headers)


async def answers(request: web.Request) -> web.StreamResponse:
    """Answer with a chat completion."""
    return web.json_response(chat_body())


async def streams(request: web.Request) -> web.StreamResponse:
    """Answer with a stream."""
    response = await begin_stream(request)
    for _ in range(3):
        await response.write(EVENT)
    await response.write(DONE)
    return response


async def hangs(request: web.Request) -> web.StreamResponse:
    """Never answer."""
    await asyncio.Event().wait()
    raise AssertionError


async def begin_stream(request: web.Request) -> web.StreamResponse:
    """Begin a stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response


def refuses(
    status: int, body: object = None, headers: Mapping[str, str] | None = None
) -> Script:
    """Make a script that answers with an error."""

    async def script(request: web.Request) -> web.StreamResponse:
        return web.json_response(body or {}, status=status, headers=headers)

    return script


@asynccontextmanager
async def relaying(
    registry: RolloutRegistry,
    script: Script,
    *,
    idle_close_s: float = 900.0,
    max_rollouts: int = 100,
    error_bodies: ErrorBodies = "redact",
    control_secret: str | None = None,
    upstream_key: str | None = None,
    read_timeout_s: float | None = 30.0,
    client_max_size: int = 1 << 20,
    own_runner: bool = True,
) -> AsyncIterator[Relay]:
    """Serve a relay and its upstream for the length of a block."""
    upstream = Upstream(script)
    upstream_app = web.Application(client_max_size=1 << 30)
    upstream_app.router.add_route("*", "/{path:.*}", upstream.handle)
    upstream_runner = web.AppRunner(
        upstream_app,
        handler_cancellation=True,
        auto_decompress=False,
        shutdown_timeout=0.1,
        access_log=None,
    )
    async with listening(upstream_runner) as upstream.url:
        app = make_relay_app(
            registry,
            upstream=upstream.url,
            idle_close_s=idle_close_s,
            max_rollouts=max_rollouts,
            error_bodies=error_bodies,
            control_secret=control_secret,
            upstream_key=upstream_key,
            read_timeout_s=read_timeout_s,
            client_max_size=client_max_size,
        )
        runner = (
            relay_runner(app, shutdown_timeout_s=0.5)
            if own_runner
            else web.AppRunner(app, shutdown_timeout=0.5)
        )
        async with listening(runner) as url:
            assert runner.server is not None
            yield Relay(url, upstream, runner.server)


@asynccontextmanager
async def listening(runner: web.AppRunner) -> AsyncIterator[str]:
    """Listen on a free port of loopback for the length of a block."""
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
