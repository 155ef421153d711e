"""An app that is served without telemetry answers, and fails, as with it."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiohttp import web

from otel_intercept import (
    Exchange,
    ExchangeOutcome,
    Rollout,
    RolloutError,
    RolloutRegistry,
    Telemetry,
    exchange_from,
    instrument_app,
)
from tests.served import until

ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
CHAT = "/rollout/r1/v1/chat/completions"
SECRET = "sk-canary-c0ffee"
CHUNK = b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n'
DONE = b"data: [DONE]\n\n"
SWITCH = (
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

O = ExchangeOutcome  # noqa: E741 - the table below


class Served:
    """What the handler of a scene has at hand."""

    def __init__(self, registry: RolloutRegistry, request: web.Request) -> None:
        self.registry = registry
        self.request = request
        self.exchange: Exchange = exchange_from(request)
        self.loop = asyncio.get_running_loop()
        self.later: asyncio.Task[None] | None = None

    def call(self) -> "asyncio.Future[None]":
        """Watch a call, which the scene ends."""
        return self.exchange.watch(self.loop.create_future())

    def failing(self) -> "asyncio.Future[None]":
        """Watch a call that fails soon."""
        future = self.call()
        self.loop.call_soon(future.set_exception, ConnectionRefusedError(SECRET))
        return future

    async def stream(self) -> web.StreamResponse:
        """Begin a stream."""
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(self.request)
        await response.write(CHUNK)
        return response


Scene = Callable[[Served], Awaitable[web.StreamResponse]]


async def succeeds(served: Served) -> web.StreamResponse:
    """Answer from a future."""
    future = served.call()
    served.loop.call_soon(future.set_result, None)
    await future
    return web.json_response({"ok": True})


async def is_reported(served: Served) -> web.StreamResponse:
    """Answer for a failed call as the exchange says."""
    future = served.failing()
    await asyncio.wait((future,))
    failure = served.exchange.failure
    assert failure is not None
    return web.json_response({"error": failure.error_type}, status=500)


async def is_swallowed(served: Served) -> web.StreamResponse:
    """Answer as if all were well."""
    with contextlib.suppress(OSError):
        await served.failing()
    return web.json_response({})


async def is_never_asked(served: Served) -> web.StreamResponse:
    """Answer without having looked at a call that has failed."""
    _ = served.failing()
    await asyncio.sleep(0.01)
    return web.json_response({})


async def escapes(served: Served) -> web.StreamResponse:
    """Let the failure of a call through."""
    await served.failing()
    return web.Response()


async def hides_another(served: Served) -> web.StreamResponse:
    """Raise something else once a call has failed."""
    _ = served.failing()
    await asyncio.sleep(0.01)
    raise ValueError(SECRET)


async def is_made_again(served: Served) -> web.StreamResponse:
    """Call again, and succeed."""
    with contextlib.suppress(OSError):
        await served.failing()
    with served.exchange.upstream_call():
        await asyncio.sleep(0)
    return web.json_response({})


async def takes_too_long(served: Served) -> web.StreamResponse:
    """Give a call up at the handler's own deadline."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(served.call(), 0.01)
    return web.json_response({}, status=504)


async def is_shielded(served: Served) -> web.StreamResponse:
    """Give up waiting for a call, which fails when the agent has its answer."""
    future = served.call()

    async def fail_late() -> None:
        await until(lambda: served.exchange.outcome is not None)
        future.set_exception(ConnectionRefusedError(SECRET))

    served.later = asyncio.create_task(fail_late())
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(future), 0.01)
    return web.json_response({})


async def stops_first(served: Served) -> web.StreamResponse:
    """Fail once the host has noted that the prompt was too long."""
    future = served.call()
    rollout = served.registry.get("r1")
    assert rollout is not None
    assert rollout.state is not None
    rollout.state["prompt_too_long"] = True
    future.set_exception(ConnectionRefusedError(SECRET))
    with contextlib.suppress(OSError):
        await future
    return web.json_response({})


async def is_torn_down(served: Served) -> web.StreamResponse:
    """End the rollout under a call, and cancel that."""
    future = served.call()
    served.registry.close("r1")
    future.cancel()
    await asyncio.wait((future,))
    return web.json_response({}, status=499)


async def breaks_a_stream(served: Served) -> web.StreamResponse:
    """Fail behind the first chunk of a stream that nobody has described."""
    future = served.call()
    response = await served.stream()
    future.set_exception(ConnectionRefusedError(SECRET))
    await asyncio.sleep(0.01)
    await response.write(DONE)
    return response


async def is_late_in_a_stream(served: Served) -> web.StreamResponse:
    """Watch a call first when the stream has begun."""
    response = await served.stream()
    with contextlib.suppress(OSError):
        await served.failing()
    await response.write(DONE)
    return response


async def switches(served: Served) -> web.StreamResponse:
    """Fail once a WebSocket is open."""
    future = served.call()
    socket = web.WebSocketResponse()
    await socket.prepare(served.request)
    future.set_exception(ConnectionRefusedError(SECRET))
    await asyncio.sleep(0.01)
    await socket.send_str("over")
    await socket.close()
    return socket


@asynccontextmanager
async def serving(
    registry: RolloutRegistry, scene: Scene, exchanges: list[Exchange]
) -> AsyncIterator[int]:
    """Serve a scene on a free port."""

    async def handle(request: web.Request) -> web.StreamResponse:
        served = Served(registry, request)
        exchanges.append(served.exchange)
        return await scene(served)

    app = web.Application()
    app.router.add_route("*", ROUTE, handle)
    instrument_app(app, registry)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        host: tuple[str, int] = runner.addresses[0]
        yield host[1]
    finally:
        await runner.cleanup()


async def ask(port: int, version: str, headers: bytes) -> bytes:
    """Ask as an agent does, and return every byte of the answer but the time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = b"Upgrade" if headers else b"close"
    method = "GET" if headers else "POST"
    writer.write(f"{method} {CHAT} HTTP/{version}\r\n".encode())
    writer.write(b"Host: h\r\nConnection: " + connection + b"\r\n")
    writer.write(headers + b"Content-Length: 0\r\n\r\n")
    answer = b""
    if headers:
        answer = await reader.readuntil(b"over")
        writer.write(b"\x88\x80\x00\x00\x00\x00")
    answer += await reader.read()
    writer.close()
    await writer.wait_closed()
    return re.sub(rb"\r\nDate: [^\r]*", b"", answer)


@pytest.mark.parametrize(
    ("scene", "outcome", "failures"),
    [
        (succeeds, O.OK, 0),
        (is_reported, O.UPSTREAM_FAILED, 1),
        (is_swallowed, O.SILENT_EMPTY, 1),
        (is_never_asked, O.SILENT_EMPTY, 1),
        (escapes, O.UPSTREAM_FAILED, 1),
        (hides_another, O.UPSTREAM_FAILED, 1),
        (is_made_again, O.OK, 0),
        (takes_too_long, O.UPSTREAM_FAILED, 1),
        (is_shielded, O.OK, 1),
        (stops_first, O.CLEAN_STOP, 0),
        (is_torn_down, O.CANCELLED, 0),
        (breaks_a_stream, O.SILENT_EMPTY, 1),
        (is_late_in_a_stream, O.SILENT_EMPTY, 1),
        (switches, O.SILENT_EMPTY, 1),
    ],
)
async def test_the_agent_and_the_state_cannot_tell_whether_there_is_telemetry(
    registry: RolloutRegistry,
    scene: Scene,
    outcome: ExchangeOutcome,
    failures: int,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bytes, outcome, count and the typed error are the same; no log has the text."""
    headers = SWITCH if scene is switches else b""
    for version in ("1.1",) if headers else ("1.0", "1.1"):
        said: list[object] = []
        for rollouts in (registry, RolloutRegistry(Telemetry())):
            state: dict[str, object] = {}
            rollout = rollouts.open("r1", state=state, trace_id="5f" * 16)
            exchanges: list[Exchange] = []
            async with serving(rollouts, scene, exchanges) as port:
                answer = await ask(port, version, headers)
                (exchange,) = exchanges
                # What fails late comes after the answer.
                await until(partial(has_ended, exchange, failures))
            rollouts.close("r1")
            error = state.get("error")
            if isinstance(error, RolloutError):
                said.append(
                    (type(error), error.failure.error_type, error.failure.phase)
                )
            said.append((answer, exchange.called_upstream, rollout.outcome))

            assert exchange.outcome is outcome
            assert rollout.failures == failures
            assert isinstance(error, RolloutError) is (failures > 0)
            assert answer
            assert SECRET.encode() not in answer

        half = len(said) // 2
        assert said[:half] == said[half:]
    printed = "".join(capsys.readouterr()) + caplog.text
    assert SECRET not in printed
    assert "never retrieved" not in printed


def has_ended(exchange: Exchange, failures: int) -> bool:
    """Tell whether an exchange has ended, and its failures have been counted."""
    rollout = exchange.rollout
    assert isinstance(rollout, Rollout)
    return exchange.outcome is not None and rollout.failures >= failures
