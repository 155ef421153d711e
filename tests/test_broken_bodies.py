"""Requests whose body is not what its headers say."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from aiohttp import web

from otel_intercept import RolloutRegistry, instrument_app
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve, logged
from tests.served import failure_of, outcomes

SECRET = "sk-canary-e5c1a9"
PATH = "/rollout/r1/v1/chat/completions"
ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def reads(request: web.Request) -> web.StreamResponse:
    """Read the request outside of any call."""
    await request.read()
    return web.json_response({})


async def serve_app(
    serve: Serve, handler: Handler, registry: RolloutRegistry | None
) -> tuple[str, int]:
    """Serve a handler; return where."""
    app = web.Application()
    app.router.add_post(ROUTE, handler)
    if registry is not None:
        instrument_app(app, registry)
    host, port = (await serve(app)).removeprefix("http://").split(":")
    return host, int(port)


async def send_broken(place: tuple[str, int], encoding: str) -> bytes:
    """Be an agent whose body is not what its headers say; return the answer."""
    reader, writer = await asyncio.open_connection(*place)
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Encoding: {encoding}\r\n"
        f"Content-Length: {len(SECRET)}\r\n\r\n"
    )
    writer.write(head.encode())
    await asyncio.sleep(0.02)
    writer.write(SECRET.encode())
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_broken_body_that_escapes_is_the_handlers(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    encoding: str,
) -> None:
    """It is the handler's that lets it escape; nobody has left."""
    place = await serve_app(serve, reads, registry)
    registry.open("r1")

    answer = await send_broken(place, encoding)

    assert answer.startswith(b"HTTP/1.1 500")
    assert b"The agent left" not in answer
    assert SECRET.encode() not in answer
    assert SECRET not in logged(caplog)
    assert outcomes(recorder) == ["handler_failed"]
    assert failure_of(recorder) == ("handler_error", "handler")


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_broken_body_has_the_status_that_it_has_without_us(
    serve: Serve, encoding: str
) -> None:
    """Aiohttp answers 500 for what escapes from a handler, whosever fault it is."""
    place = await serve_app(serve, reads, None)

    answer = await send_broken(place, encoding)

    assert answer.startswith(b"HTTP/1.1 500")


async def test_a_handler_that_refuses_a_broken_body_is_rejected(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """An app that catches it, as it should, says whose fault it is."""

    async def refuses(request: web.Request) -> web.StreamResponse:
        try:
            return await reads(request)
        except web.RequestPayloadError:
            raise web.HTTPBadRequest from None

    place = await serve_app(serve, refuses, registry)
    rollout = registry.open("r1")

    answer = await send_broken(place, "gzip")

    assert answer.startswith(b"HTTP/1.1 400")
    assert outcomes(recorder) == ["rejected"]
    assert rollout.error is None
