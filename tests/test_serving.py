"""Requests of other people's servers: observed, and not changed in a byte."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from otel_intercept import ErrorType, RolloutRegistry, instrument_app
from otel_intercept.current import current_exchange
from otel_intercept.middleware.serving import Serving, serve_unchanged
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.served import outcomes, settle, until

SECRET = "sk-canary-51f0aa"
EVENT_STREAM = {"Content-Type": "text/event-stream"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answers(_request: web.Request) -> web.StreamResponse:
    """Answer in JSON."""
    return web.json_response({"ok": True})


async def raises(_request: web.Request) -> web.StreamResponse:
    """Let a secret escape."""
    raise RuntimeError(SECRET)


async def refuses(_request: web.Request) -> web.StreamResponse:
    """Answer by raising."""
    raise web.HTTPBadGateway(text=SECRET)


async def streams(request: web.Request) -> web.StreamResponse:
    """Stream to a clean end."""
    response = web.StreamResponse(headers=EVENT_STREAM)
    await response.prepare(request)
    await response.write(b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n')
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """Let a secret escape from the middle of a stream."""
    response = web.StreamResponse(headers=EVENT_STREAM)
    await response.prepare(request)
    await response.write(b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n')
    raise RuntimeError(SECRET)


def app_of(
    handler: Handler,
    registry: RolloutRegistry | None,
    path: str = "/v1/chat/completions",
) -> web.Application:
    """Make an app of one route, whose handler serves itself observed, or not."""
    app = web.Application()
    serving = Serving()

    async def handle(request: web.Request) -> web.StreamResponse:
        rollout = registry.get("r1") if registry is not None else None
        if rollout is None:
            return await handler(request)
        return await serve_unchanged(serving, request, handler, rollout)

    app.router.add_post(path, handle)
    return app


async def ask(url: str) -> tuple[int, bytes, object]:
    """Give status, as much of the body as came, and how the connection ended."""
    body = b""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions") as response,
    ):
        try:
            async for data in response.content.iter_any():
                body += data
        except aiohttp.ClientPayloadError as exc:
            return response.status, body, type(exc)
        return response.status, body, None


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (answers, "ok"),
        (raises, "handler_failed"),
        (refuses, "upstream_failed"),
        (streams, "ok"),
        (breaks_off, "cut"),
    ],
)
async def test_a_handler_is_observed_and_its_bytes_stay(
    serve: Serve,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    handler: Handler,
    outcome: str,
) -> None:
    """The agent gets what it got without us; we know how it ended, and no text."""
    rollout = registry.open("r1")
    plain = await ask(await serve(app_of(handler, None)))

    observed = await ask(await serve(app_of(handler, registry)))

    assert observed == plain
    await until(lambda: outcomes(recorder) == [outcome])
    assert (rollout.error is None) is (outcome == "ok")
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_tasks_of_a_handler_know_its_exchange(
    serve: Serve, registry: RolloutRegistry
) -> None:
    """The exchange is current in the handler and its tasks, and nowhere else."""
    seen: list[object] = []

    async def note() -> None:
        seen.append(current_exchange())

    async def handler(_request: web.Request) -> web.StreamResponse:
        await note()
        await asyncio.create_task(note())
        return web.json_response({})

    registry.open("r1")
    await ask(await serve(app_of(handler, registry)))
    await note()

    assert seen[0] is seen[1] is not None
    assert seen[2] is None


@pytest.mark.parametrize("unchanged", [True, False])
@pytest.mark.parametrize("by", ["the agent", "the source"])
async def test_an_agent_that_leaves_in_its_request_fails_nothing(
    serve: Serve,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    unchanged: bool,
    by: str,
) -> None:
    """What reading raises is the agent's; the same error of another source is not."""
    reads = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        reads.set()
        try:
            await request.read()
        except ConnectionError:
            if by == "the agent":
                raise
        raise ConnectionResetError(SECRET)

    app = web.Application()
    if unchanged:
        app = app_of(handler, registry, "/r1/v1/chat/completions")
    else:
        app.router.add_post("/{rollout_id}/v1/chat/completions", handler)
        instrument_app(app, registry)
    rollout = registry.open("r1")
    host, port = (await serve(app))[7:].split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /r1/v1/chat/completions HTTP/1.1\r\nHost: x\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    await reads.wait()

    writer.transport.abort()

    expected = "agent_gone" if by == "the agent" else "handler_failed"
    await until(lambda: outcomes(recorder) == [expected])
    assert (rollout.error is None) is (by == "the agent")
    warned = [it for it in caplog.records if it.name.startswith("otel_intercept")]
    assert bool(warned) is (by != "the agent" and not unchanged)


async def test_a_cancelled_handler_is_cancelled(
    serve: Serve, recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Teardown that cancels a handler of another server is no failure."""
    tasks: list[asyncio.Task[object]] = []

    async def handler(_request: web.Request) -> web.StreamResponse:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        await asyncio.sleep(60)
        raise AssertionError

    rollout = registry.open("r1")
    url = await serve(app_of(handler, registry))
    agent = asyncio.create_task(ask(url))
    await until(lambda: tasks)
    tasks[0].cancel()
    with pytest.raises(aiohttp.ServerDisconnectedError):
        await agent

    assert outcomes(recorder) == ["cancelled"]
    assert rollout.error is None


@pytest.mark.parametrize("unchanged", [True, False])
async def test_a_handler_cancelled_in_its_stream_is_no_error(
    serve: Serve,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    unchanged: bool,
) -> None:
    """What stands above it could have ended the stream: it was torn down."""

    @web.middleware
    async def passes(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(request)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENT_STREAM)
        await response.prepare(request)
        raise asyncio.CancelledError

    app = web.Application(middlewares=[passes])
    if unchanged:
        app.add_subapp("/sub", app_of(handler, registry))
    else:
        inner = web.Application()
        inner.router.add_post("/v1/chat/completions", handler)
        instrument_app(inner, registry, rollout_id=lambda _request: "r1")
        app.add_subapp("/sub", inner)
    rollout = registry.open("r1")

    await ask(await serve(app) + "/sub")

    assert outcomes(recorder) == ["cancelled"]
    assert rollout.error is None


@pytest.mark.parametrize("unchanged", [True, False])
async def test_a_cancelled_handler_leaves_no_garbage(
    serve: Serve, registry: RolloutRegistry, unchanged: bool
) -> None:
    """Agents that leave, which cancels, leave nothing for the garbage collector."""
    writers = []

    async def handler(request: web.Request) -> web.StreamResponse:
        writers.append(weakref.ref(request.writer))
        await asyncio.sleep(60)
        raise AssertionError

    if unchanged:
        app = app_of(handler, registry)
    else:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handler)
        instrument_app(app, registry, rollout_id=lambda _request: "r1")
    registry.open("r1")
    url = await serve(app, handler_cancellation=True)

    gc.disable()
    try:
        agent = asyncio.create_task(ask(url))
        await until(lambda: writers)
        agent.cancel()
        await asyncio.wait((agent,))
        await settle()

        assert [writer() for writer in writers] == [None]
    finally:
        gc.enable()


@pytest.mark.parametrize("unchanged", [True, False])
@pytest.mark.parametrize(
    ("answered", "outcome"), [(504, "upstream_failed"), (499, "cancelled")]
)
async def test_a_deadline_above_the_handler_is_a_failure(
    serve: Serve,
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    unchanged: bool,
    answered: int,
    outcome: str,
) -> None:
    """Who cancels the handler and answers 504 in its place has not torn it down."""

    @web.middleware
    async def hurries(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(0.05):
                return await handler(request)
        except TimeoutError:
            return web.json_response({}, status=answered)

    async def handler(_request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(60)
        raise AssertionError

    app = web.Application(middlewares=[hurries])
    if unchanged:
        app.add_subapp("/sub", app_of(handler, registry))
    else:
        inner = web.Application()
        inner.router.add_post("/v1/chat/completions", handler)
        instrument_app(inner, registry, rollout_id=lambda _request: "r1")
        app.add_subapp("/sub", inner)
    rollout = registry.open("r1")

    status, _, _ = await ask(await serve(app) + "/sub")

    assert status == answered
    assert outcomes(recorder) == [outcome]
    if answered == 504:
        assert rollout.error is not None
        assert rollout.error.failure.error_type is ErrorType.UPSTREAM_TIMEOUT
    else:
        assert rollout.error is None


async def test_a_middleware_changes_what_a_last_handler_answers(
    serve: Serve, recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An answer that is not aiohttp's to send next is not sent before."""

    @web.middleware
    async def adds(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        response.headers["X-Added"] = "late"
        return response

    async def handle(request: web.Request) -> web.StreamResponse:
        return await serve_unchanged(serving, request, answers, rollout, last=True)

    app, serving = web.Application(middlewares=[adds]), Serving()
    app.router.add_post("/v1/chat/completions", handle)
    rollout = registry.open("r1")
    url = await serve(app)

    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{url}/v1/chat/completions") as response,
    ):
        added = response.headers.get("X-Added")

    assert added == "late"
    await until(lambda: outcomes(recorder) == ["ok"])
