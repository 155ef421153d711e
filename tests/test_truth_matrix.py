"""Every outcome, dialect and shape on real sockets, checked on five sides each."""

import asyncio
import contextlib
import json
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import pytest
from aiohttp import web
from opentelemetry.trace import SpanKind, StatusCode

from otel_intercept import (
    Exchange,
    RolloutRegistry,
    Telemetry,
    exchange_from,
    instrument_app,
)
from otel_intercept.dialect import error_frame
from otel_intercept.outcome import error_class, is_error
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    Origin,
    Phase,
)
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve, logged
from tests.served import settle, until

SECRET = "sk-canary-90e31b"
TRACE_ID = "5f" * 16
O = ExchangeOutcome  # noqa: E741
E = ErrorType

ROUTES: Final = {
    Dialect.CHAT_COMPLETIONS: "chat/completions",
    Dialect.COMPLETIONS: "completions",
    Dialect.RESPONSES: "responses",
    Dialect.MESSAGES: "messages",
}
CHUNKS: Final = {
    Dialect.CHAT_COMPLETIONS: b'data: {"choices":[{"delta":{"content":"hi"}}]}\n\n',
    Dialect.COMPLETIONS: b'data: {"choices":[{"text":"hi"}]}\n\n',
    Dialect.RESPONSES: (
        b"event: response.output_text.delta\n"
        b'data: {"type":"response.output_text.delta","delta":"hi"}\n\n'
    ),
    Dialect.MESSAGES: (
        b"event: content_block_delta\n"
        b'data: {"type":"content_block_delta","delta":{"text":"hi"}}\n\n'
    ),
}
TERMINALS: Final = {
    Dialect.CHAT_COMPLETIONS: b"data: [DONE]\n\n",
    Dialect.COMPLETIONS: b"data: [DONE]\n\n",
    Dialect.RESPONSES: (
        b'event: response.completed\ndata: {"type":"response.completed"}\n\n'
    ),
    Dialect.MESSAGES: b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
}


class Scene:
    """One request as its handler sees it, with the parts that shapes are made of."""

    def __init__(
        self, request: web.Request, dialect: Dialect, agent_left: asyncio.Event
    ) -> None:
        self.request = request
        self.dialect = dialect
        self.agent_left = agent_left
        self.exchange: Exchange = exchange_from(request)
        self.future: asyncio.Future[None] = self.exchange.watch(
            asyncio.get_running_loop().create_future()
        )
        self.response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream"}
        )

    def fail_upstream(self) -> None:
        self.future.set_exception(TimeoutError(f"GET https://up/?key={SECRET}"))

    async def stream(self, *parts: bytes) -> None:
        await self.response.prepare(self.request)
        for part in parts:
            await self.response.write(part)

    @property
    def chunk(self) -> bytes:
        return CHUNKS[self.dialect]

    @property
    def terminal(self) -> bytes:
        return TERMINALS[self.dialect]


Labels = tuple[tuple[str, object], ...]
Play = Callable[[Scene], Awaitable[web.StreamResponse]]


async def answers(scene: Scene) -> web.StreamResponse:
    """Answer in JSON."""
    scene.future.set_result(None)
    await scene.future
    return web.json_response({"ok": True})


async def streams(scene: Scene) -> web.StreamResponse:
    """Stream two chunks with a keepalive between them."""
    await scene.stream(scene.chunk, b": keepalive\n\n", scene.chunk, scene.terminal)
    scene.future.set_result(None)
    await scene.response.write_eof()
    return scene.response


async def upstream_fails(scene: Scene) -> web.StreamResponse:
    """Let the upstream failure escape."""
    scene.fail_upstream()
    await scene.future
    raise AssertionError


async def answers_503(scene: Scene) -> web.StreamResponse:
    """Answer that the upstream is overloaded."""
    return web.json_response({"error": "busy"}, status=503)


async def answers_429(scene: Scene) -> web.StreamResponse:
    """Answer that the upstream limits the rate."""
    return web.json_response({"error": "slow down"}, status=429)


async def swallows(scene: Scene) -> web.StreamResponse:
    """Answer an empty object over a failure."""
    scene.fail_upstream()
    with contextlib.suppress(TimeoutError):
        await scene.future
    return web.json_response({})


async def ends_cleanly_over_failure(scene: Scene) -> web.StreamResponse:
    """End an empty stream cleanly over a failure."""
    await scene.stream(scene.terminal)
    scene.fail_upstream()
    with contextlib.suppress(TimeoutError):
        await scene.future
    await scene.response.write_eof()
    return scene.response


async def ends_cleanly_after_chunks(scene: Scene) -> web.StreamResponse:
    """End a started stream cleanly over a failure."""
    await scene.stream(scene.chunk, scene.terminal)
    scene.fail_upstream()
    with contextlib.suppress(TimeoutError):
        await scene.future
    await scene.response.write_eof()
    return scene.response


async def streams_nothing(scene: Scene) -> web.StreamResponse:
    """Send the terminal event alone."""
    await scene.stream(scene.terminal)
    await scene.response.write_eof()
    return scene.response


async def breaks_off(scene: Scene) -> web.StreamResponse:
    """Let the failure escape after the first chunk."""
    await scene.stream(scene.chunk)
    scene.fail_upstream()
    await scene.future
    raise AssertionError


async def breaks_off_json(scene: Scene) -> web.StreamResponse:
    """Raise in the middle of a JSON body."""
    scene.response.content_type = "application/json"
    await scene.stream(b'{"half": ')
    raise ValueError(SECRET)


async def loses_the_agent(scene: Scene) -> web.StreamResponse:
    """Go on writing to an agent that has left."""
    await scene.stream(scene.chunk)
    await scene.agent_left.wait()
    while True:
        await scene.response.write(scene.chunk)
        await asyncio.sleep(0.01)


async def sends_error_frame(scene: Scene) -> web.StreamResponse:
    """Pass on an error object of the upstream."""
    await scene.stream(
        scene.chunk, b'data: {"error": {"type": "overloaded_error"}}\n\n'
    )
    await scene.response.write(scene.terminal)
    await scene.response.write_eof()
    return scene.response


async def sends_our_error_frame(scene: Scene) -> web.StreamResponse:
    """Send the dialect's own error frame over a failure."""
    await scene.stream(scene.chunk)
    scene.fail_upstream()
    with contextlib.suppress(TimeoutError):
        await scene.future
    await asyncio.sleep(0)
    frame = error_frame(scene.dialect, scene.exchange.failure, trace_id=TRACE_ID)
    await scene.response.write(frame + scene.terminal)
    await scene.response.write_eof()
    return scene.response


async def forgets_the_terminal(scene: Scene) -> web.StreamResponse:
    """End a stream without its terminal event."""
    await scene.stream(scene.chunk)
    await scene.response.write_eof()
    return scene.response


async def answers_a_page(scene: Scene) -> web.StreamResponse:
    """Answer a page of HTML, as a load balancer does."""
    return web.Response(text="<html>busy</html>", content_type="text/html")


async def raises(scene: Scene) -> web.StreamResponse:
    """Raise before anything was answered."""
    raise ValueError(SECRET)


async def answers_too_late(scene: Scene) -> web.StreamResponse:
    """Answer after the agent has left."""
    await scene.agent_left.wait()
    await until(lambda: scene.request.transport is None)
    return web.json_response({"ok": True})


async def is_cancelled(scene: Scene) -> web.StreamResponse:
    """Answer 499 to a cancelled future."""
    scene.future.cancel()
    try:
        await scene.future
    except asyncio.CancelledError:
        return web.json_response({"error": "Rollout cancelled"}, status=499)
    raise AssertionError


async def is_cancelled_in_the_stream(scene: Scene) -> web.StreamResponse:
    """Be cancelled after the first chunk."""
    await scene.stream(scene.chunk)
    scene.future.cancel()
    await scene.future
    raise AssertionError


async def stops_then_fails(scene: Scene) -> web.StreamResponse:
    """Fail after a clean stop."""
    state = scene.request.app[STATE]
    state["prompt_too_long"] = True
    return await upstream_fails(scene)


async def stops_then_breaks_off(scene: Scene) -> web.StreamResponse:
    """Break off after a clean stop."""
    state = scene.request.app[STATE]
    state["prompt_too_long"] = True
    return await breaks_off(scene)


async def refuses(scene: Scene) -> web.StreamResponse:
    """Answer 400."""
    return web.json_response({"error": "no"}, status=400)


STATE: Final = web.AppKey("state", dict[str, object])


@dataclass(frozen=True)
class Shape:
    """What a handler does, and what must come of it.

    ``status`` None: the agent got no answer. ``whole``: the body ended properly.
    """

    play: Play
    stream: bool
    outcome: ExchangeOutcome
    status: int | None
    whole: bool = True
    error_type: ErrorType | None = None
    phase: Phase | None = None
    origin: Origin = Origin.UPSTREAM
    agent_leaves: bool = False


SHAPES: Final = {
    "answers": Shape(answers, False, O.OK, 200),
    "streams": Shape(streams, True, O.OK, 200),
    "upstream_fails": Shape(
        upstream_fails, False, O.UPSTREAM_FAILED, 500, True,
        E.UPSTREAM_TIMEOUT, Phase.RESPONSE_FUTURE,
    ),
    "upstream_fails_before_the_stream": Shape(
        upstream_fails, True, O.UPSTREAM_FAILED, 500, True,
        E.UPSTREAM_TIMEOUT, Phase.RESPONSE_FUTURE,
    ),
    "answers_503": Shape(
        answers_503, False, O.UPSTREAM_FAILED, 503, True,
        E.UPSTREAM_OVERLOADED, Phase.HANDLER,
    ),
    "answers_429_to_a_stream": Shape(
        answers_429, True, O.UPSTREAM_FAILED, 429, True,
        E.UPSTREAM_RATE_LIMITED, Phase.HANDLER,
    ),
    "swallows": Shape(
        swallows, False, O.SILENT_EMPTY, 200, True,
        E.UPSTREAM_TIMEOUT, Phase.RESPONSE_FUTURE,
    ),
    "ends_cleanly_over_failure": Shape(
        ends_cleanly_over_failure, True, O.SILENT_EMPTY, 200, True,
        E.UPSTREAM_TIMEOUT, Phase.RESPONSE_FUTURE,
    ),
    "ends_cleanly_after_chunks": Shape(
        ends_cleanly_after_chunks, True, O.SILENT_EMPTY, 200, True,
        E.UPSTREAM_TIMEOUT, Phase.RESPONSE_FUTURE,
    ),
    "streams_nothing": Shape(
        streams_nothing, True, O.SILENT_EMPTY, 200, True, E.UPSTREAM_EMPTY, Phase.EOF
    ),
    "breaks_off": Shape(
        breaks_off, True, O.CUT, 200, False,
        E.UPSTREAM_TIMEOUT, Phase.RESPONSE_FUTURE,
    ),
    "breaks_off_json": Shape(
        breaks_off_json, False, O.CUT, 200, False,
        E.HANDLER_ERROR, Phase.HANDLER, Origin.PROXY,
    ),
    "loses_the_agent": Shape(
        loses_the_agent, True, O.CUT, None, False,
        E.AGENT_DISCONNECTED, Phase.CHUNK, Origin.AGENT, True,
    ),
    "sends_error_frame": Shape(
        sends_error_frame, True, O.ERROR_FRAME, 200, True,
        E.UPSTREAM_OVERLOADED, Phase.CHUNK,
    ),
    "sends_our_error_frame": Shape(
        sends_our_error_frame, True, O.ERROR_FRAME, 200, True,
        E.UPSTREAM_TIMEOUT, Phase.RESPONSE_FUTURE,
    ),
    "forgets_the_terminal": Shape(
        forgets_the_terminal, True, O.NO_TERMINAL, 200, True,
        E.UPSTREAM_TRUNCATED, Phase.EOF,
    ),
    "answers_a_page_to_a_stream": Shape(
        answers_a_page, True, O.NO_TERMINAL, 200, True,
        E.UPSTREAM_BAD_RESPONSE, Phase.EOF,
    ),
    "raises": Shape(
        raises, False, O.HANDLER_FAILED, 500, True,
        E.HANDLER_ERROR, Phase.HANDLER, Origin.PROXY,
    ),
    "raises_before_the_stream": Shape(
        raises, True, O.HANDLER_FAILED, 500, True,
        E.HANDLER_ERROR, Phase.HANDLER, Origin.PROXY,
    ),
    "answers_too_late": Shape(
        answers_too_late, False, O.AGENT_GONE, None, False, agent_leaves=True
    ),
    "answers_a_stream_too_late": Shape(
        answers_too_late, True, O.AGENT_GONE, None, False, agent_leaves=True
    ),
    "is_cancelled": Shape(is_cancelled, False, O.CANCELLED, 499),
    "is_cancelled_in_the_stream": Shape(
        is_cancelled_in_the_stream, True, O.CANCELLED, 200, False
    ),
    "stops_then_fails": Shape(stops_then_fails, False, O.CLEAN_STOP, 500),
    "stops_then_breaks_off": Shape(
        stops_then_breaks_off, True, O.CLEAN_STOP, 200, False
    ),
    "refuses": Shape(refuses, False, O.REJECTED, 400),
    "refuses_a_stream": Shape(refuses, True, O.REJECTED, 400),
}  # fmt: skip


def test_the_matrix_holds_every_outcome() -> None:
    """No outcome of the contract is left out, in either shape in which it can occur."""
    streaming = {shape.outcome for shape in SHAPES.values() if shape.stream}
    plain = {shape.outcome for shape in SHAPES.values() if not shape.stream}

    assert streaming == set(O)
    assert plain == set(O) - {O.ERROR_FRAME, O.NO_TERMINAL}


async def play(
    serve: Serve,
    telemetry: Telemetry,
    dialect: Dialect,
    shape: Shape,
) -> tuple[bytes, dict[str, object], RolloutRegistry]:
    """Serve one exchange; return the raw bytes that the agent got, and the state."""
    registry = RolloutRegistry(telemetry)
    state: dict[str, object] = {}
    agent_left = asyncio.Event()
    over = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        scene = Scene(request, dialect, agent_left)
        scene.exchange.describe_request(await request.json())
        try:
            return await shape.play(scene)
        finally:
            over.set()

    app = web.Application()
    app[STATE] = state
    app.router.add_post("/rollout/{rollout_id}/v1/" + ROUTES[dialect], handler)
    instrument_app(app, registry)
    host, port = (await serve(app))[7:].split(":")
    registry.open("r1", state=state, trace_id=TRACE_ID)

    body = json.dumps({"model": "scripted-1", "stream": shape.stream}).encode()
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST /rollout/r1/v1/{ROUTES[dialect]}?key={SECRET} HTTP/1.1\r\n"
        f"Host: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )
    received = b""
    if shape.agent_leaves:
        await settle()
    else:
        received = await reader.read()
    writer.close()
    agent_left.set()
    await over.wait()
    await settle(30 if shape.agent_leaves else 0)
    registry.close("r1")
    return re.sub(rb"Date: [^\r]*", b"Date: -", received), state, registry


def is_whole(received: bytes) -> bool:
    """Tell whether a raw answer ended as HTTP says it should."""
    head, _, body = received.partition(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    if length:
        return len(body) == int(length[1])
    return body.endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("dialect", list(ROUTES))
@pytest.mark.parametrize("name", list(SHAPES))
async def test_all_sides_agree(
    name: str,
    dialect: Dialect,
    recorder: TelemetryRecorder,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bytes, state, span with event, metric points and logs tell the same story."""
    caplog.set_level(logging.DEBUG)
    shape = SHAPES[name]
    failing = is_error(shape.outcome)

    received, state, _ = await play(serve, recorder.telemetry, dialect, shape)
    recorder.flush()

    if shape.status is not None:
        assert received.startswith(f"HTTP/1.1 {shape.status} ".encode())
        assert is_whole(received) is shape.whole
    assert SECRET.encode() not in received

    error = state.get("error")
    assert (type(error) if error else None) is error_class(shape.outcome)

    (span,) = [span for span in recorder.spans() if span.kind is SpanKind.SERVER]
    (root,) = [span for span in recorder.spans() if span.name == "rollout"]
    attributes = dict(span.attributes or {})
    assert attributes["intercept.exchange.outcome"] == shape.outcome
    assert attributes.get("error.type") == shape.error_type
    expected = StatusCode.ERROR if failing else StatusCode.UNSET
    assert span.status.status_code is expected
    assert span.status.description is None
    assert root.status.status_code is expected
    assert (root.attributes or {}).get("error.type") == shape.error_type
    if failing:
        (event,) = span.events
        facts = dict(event.attributes or {})
        assert event.name == "exception"
        assert facts["error.type"] == shape.error_type
        assert facts["intercept.failure.phase"] == shape.phase
        assert facts["intercept.failure.origin"] == shape.origin
    else:
        assert not span.events

    points = {
        (point.name, tuple(sorted(point.attributes.items()))): point.value
        for point in recorder.metrics()
        if point.name in {"intercept.exchanges", "intercept.failures"} and point.value
    }
    exchange: Labels = (
        ("intercept.exchange.dialect", dialect.value),
        ("intercept.exchange.outcome", shape.outcome.value),
        ("intercept.exchange.stream", shape.stream),
    )
    expected_points = {("intercept.exchanges", exchange): 1.0}
    if shape.error_type and shape.phase:
        failure: Labels = (
            ("error.type", shape.error_type.value),
            ("intercept.failure.origin", shape.origin.value),
            ("intercept.failure.phase", shape.phase.value),
        )
        expected_points["intercept.failures", failure] = 1
    assert points == expected_points

    assert SECRET not in logged(caplog)
    assert SECRET.encode() not in recorder.exported_bytes()
    loud = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert loud == []
    assert recorder.telemetry.balance().open == 0


@pytest.mark.parametrize("dialect", list(ROUTES))
@pytest.mark.parametrize(
    "name", [name for name, shape in SHAPES.items() if not shape.agent_leaves]
)
async def test_the_agents_bytes_do_not_depend_on_telemetry(
    name: str, dialect: Dialect, recorder: TelemetryRecorder, serve: Serve
) -> None:
    """With telemetry disabled the agent gets the same bytes, to the last one."""
    shape = SHAPES[name]

    on, _, _ = await play(serve, recorder.telemetry, dialect, shape)
    off, _, _ = await play(serve, Telemetry(), dialect, shape)

    assert on == off
