"""Requests that are sent on as they come, and cannot be read to their end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.served import attribute, failure_of, outcomes
from tests.test_broken_bodies import (
    PATH,
    ROUTE,
    SECRET,
    Handler,
    reads,
    send_broken,
)

UPSTREAM: web.AppKey[str] = web.AppKey("upstream", str)


async def swallows(request: web.Request) -> web.StreamResponse:
    """Be an upstream that reads what comes, as far as it comes."""
    with contextlib.suppress(Exception):
        await request.read()
    return web.json_response({})


async def reads_in_the_call(request: web.Request) -> web.StreamResponse:
    """Read the request as a part of the call."""
    with exchange_from(request).upstream_call():
        await request.read()
    return web.json_response({})


async def sends_on(request: web.Request) -> web.StreamResponse:
    """Have aiohttp's client send the request on as it comes."""
    async with aiohttp.ClientSession() as session:
        with exchange_from(request).upstream_call():
            async with session.post(
                request.app[UPSTREAM], data=request.content
            ) as answer:
                return web.json_response(await answer.json())


async def sends_parts_on(request: web.Request) -> web.StreamResponse:
    """Do the same by a generator of one's own."""

    async def parts() -> AsyncIterator[bytes]:
        async for part in request.content.iter_any():
            yield part

    async with aiohttp.ClientSession() as session:
        with exchange_from(request).upstream_call():
            async with session.post(request.app[UPSTREAM], data=parts()) as answer:
                return web.json_response(await answer.json())


async def reads_in_a_task(request: web.Request) -> web.StreamResponse:
    """Read the request in a task that is watched as the upstream's."""
    await exchange_from(request).watch(asyncio.create_task(request.read()))
    return web.json_response({})


async def answers_all_the_same(request: web.Request) -> web.StreamResponse:
    """Answer for a call that failed."""
    try:
        return await sends_on(request)
    except (OSError, aiohttp.ClientError):
        return web.json_response({"error": "no luck"}, status=502)


async def wraps(request: web.Request) -> web.StreamResponse:
    """Raise an error of one's own for it, as SDKs do."""
    with exchange_from(request).upstream_call():
        try:
            await request.read()
        except OSError as exc:
            raise RuntimeError(SECRET) from exc
    return web.json_response({})


CALLS = [
    reads_in_the_call,
    sends_on,
    sends_parts_on,
    reads_in_a_task,
    answers_all_the_same,
    wraps,
]


async def serve_app(
    serve: Serve, handler: Handler, registry: RolloutRegistry
) -> tuple[str, int]:
    """Serve a handler, and an upstream for it; return where."""
    upstream = web.Application()
    upstream.router.add_post("/", swallows)
    app = web.Application()
    app[UPSTREAM] = await serve(upstream)
    app.router.add_post(ROUTE, handler)
    instrument_app(app, registry)
    host, port = (await serve(app)).removeprefix("http://").split(":")
    return host, int(port)


async def leave_midway(place: tuple[str, int]) -> None:
    """Be an agent that leaves in the middle of its request."""
    _, writer = await asyncio.open_connection(*place)
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n"
    writer.write(head.encode() + b"x" * 1_000)
    await asyncio.sleep(0.05)
    writer.transport.abort()
    await asyncio.sleep(0.05)


@pytest.mark.parametrize("handler", [reads, *CALLS])
async def test_an_agent_that_leaves_midway_is_gone(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    handler: Handler,
) -> None:
    """That a request could not be sent on whole is no failure of the upstream."""
    place = await serve_app(serve, handler, registry)
    rollout = registry.open("r1")

    await leave_midway(place)

    assert outcomes(recorder) == ["agent_gone"]
    assert rollout.error is None
    assert rollout.failures == 0
    assert {attribute(span, "error.type") for span in recorder.spans()} == {None}


@pytest.mark.parametrize(
    "handler", [reads_in_the_call, sends_parts_on, reads_in_a_task]
)
async def test_a_broken_body_is_no_failure_of_the_upstream(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    handler: Handler,
) -> None:
    """It is the handler's that lets it escape, with or without a call around it."""
    place = await serve_app(serve, handler, registry)
    registry.open("r1")

    await send_broken(place, "gzip")

    assert outcomes(recorder) == ["handler_failed"]
    assert failure_of(recorder) == ("handler_error", "handler")


async def test_an_upstream_that_fails_after_a_broken_body_has_failed(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """What is raised while something else is handled is a failure of its own."""

    async def calls_all_the_same(request: web.Request) -> web.StreamResponse:
        try:
            await request.read()
        except web.RequestPayloadError:
            with exchange_from(request).upstream_call():
                raise aiohttp.ServerDisconnectedError(SECRET)  # noqa: B904
        return web.json_response({})

    place = await serve_app(serve, calls_all_the_same, registry)
    registry.open("r1")

    await send_broken(place, "gzip")

    assert outcomes(recorder) == ["upstream_failed"]
    assert failure_of(recorder)[1] == "upstream_call"


async def test_an_upstream_that_resets_while_the_agent_uploads_has_failed(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A connection that is lost on the other side is the upstream's, as ever."""

    async def resets(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with await asyncio.start_server(resets, "127.0.0.1", 0) as upstream:
        port = upstream.sockets[0].getsockname()[1]

        async def sends(request: web.Request) -> web.StreamResponse:
            async with aiohttp.ClientSession() as session:
                with exchange_from(request).upstream_call():
                    await session.post(f"http://127.0.0.1:{port}", data=request.content)
            return web.json_response({})

        place = await serve_app(serve, sends, registry)
        rollout = registry.open("r1")
        reader, writer = await asyncio.open_connection(*place)
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000\r\n\r\n"
        writer.write(head.encode() + b"x" * 1_000)
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 500")
        writer.close()

    assert outcomes(recorder) == ["upstream_failed"]
    assert failure_of(recorder) == ("upstream_connection", "upstream_call")
    assert rollout.error is not None


async def test_an_upstream_whose_answer_breaks_off_has_failed(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """Aiohttp's client reads answers as its server reads requests."""

    async def breaks_off(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(breaks_off, "127.0.0.1", 0) as upstream:
        port = upstream.sockets[0].getsockname()[1]

        async def calls(request: web.Request) -> web.StreamResponse:
            async with aiohttp.ClientSession() as session:
                with exchange_from(request).upstream_call():
                    async with session.get(f"http://127.0.0.1:{port}") as answer:
                        await answer.read()
            return web.json_response({})

        reader, writer = await asyncio.open_connection(
            *await serve_app(serve, calls, registry)
        )
        registry.open("r1")
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 500")
        writer.close()

    assert outcomes(recorder) == ["upstream_failed"]
    assert failure_of(recorder) == ("upstream_truncated", "upstream_call")


async def test_a_deadline_for_a_slow_upload_is_what_it_was(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """Only what the request itself raised is the agent's, and it has raised nothing."""

    async def hurries(request: web.Request) -> web.StreamResponse:
        with exchange_from(request).upstream_call():
            await asyncio.wait_for(request.read(), 0.05)
        return web.json_response({})

    reader, writer = await asyncio.open_connection(
        *await serve_app(serve, hurries, registry)
    )
    registry.open("r1")
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
    writer.write(head.encode())
    assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 500")
    writer.close()

    assert outcomes(recorder) == ["upstream_failed"]
    assert failure_of(recorder) == ("upstream_timeout", "upstream_call")
