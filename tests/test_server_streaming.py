"""The interception server's streams: chunks, keepalives, ends, failures and cuts."""

import asyncio
import gc
import logging
import sys
from itertools import pairwise

import aiohttp
import pytest

from otel_intercept import RolloutRegistry, StreamInterrupted
from otel_intercept.server import (
    ChunkQueue,
    Intercept,
    InterceptionServer,
    synthesize_stream,
)
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import logged
from tests.served import (
    MESSAGES,
    SECRET,
    answering,
    attribute,
    call,
    chat_body,
    chunk,
    consuming,
    events_of,
    exchange_spans,
    failure_of,
    outcomes,
    raw_agent,
    running,
    settle,
    until,
)
from tests.stopwatch import Stopwatch

ASK = {"model": "m", "messages": MESSAGES, "stream": True}
DONE = b"data: [DONE]\n\n"
TERMINALS = {
    "chat/completions": DONE,
    "completions": DONE,
    "messages": b'event: message_stop\ndata: {"type": "message_stop"}\n\n',
}


def chunks_of(intercept: Intercept) -> ChunkQueue:
    """Give the chunk queue of a streaming request."""
    chunks = intercept["chunk_queue"]
    assert chunks is not None
    return chunks


async def next_intercept(
    server: InterceptionServer, queue: "asyncio.Queue[str]"
) -> Intercept:
    """Wait for the next request."""
    return server.intercepts[await queue.get()]


async def test_chunks_pass_as_they_come(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Items 22 and 24: a 200 event stream of the chunks as they are, then [DONE]."""
    state: dict[str, object] = {}
    sent = [chunk("hé"), chunk("lo"), chunk(finish_reason="stop")]
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = await next_intercept(server, queue)
        for item in [*sent, None]:
            chunks_of(intercept).put_nowait(item)
        intercept["response_future"].set_result(None)

        reply = await waiting

    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert reply.headers["Cache-Control"] == "no-cache"
    assert [data for _, data in events_of(reply.body)] == [*sent, "[DONE]"]
    assert b'data: {"id": "c1", ' in reply.body
    assert reply.body.endswith(DONE)
    assert state == {}
    (span,) = exchange_spans(recorder)
    assert attribute(span, "intercept.exchange.outcome") == "ok"
    assert attribute(span, "intercept.stream.chunks") == 3


async def test_the_status_comes_before_the_upstream_has_answered(
    registry: RolloutRegistry,
) -> None:
    """Item 22: the agent has its 200 and first chunk while the upstream still works."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        reader, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)

        status_line = await reader.readline()
        await reader.readuntil(b"\r\n\r\n")
        chunks_of(intercept).put_nowait(chunk("first"))
        first = await reader.readuntil(b"\n\n")

        assert not intercept["response_future"].done()
        assert status_line.startswith(b"HTTP/1.1 200")
        assert b"first" in first
        writer.close()


async def test_an_agent_that_has_left_before_the_headers(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 23: a prepare that fails ends the handler, and is a typed interruption."""
    state: dict[str, object] = {}
    async with running(registry, keepalive_s=0.05) as server:
        queue = server.register_rollout("r1", state)
        _, writer = await raw_agent(server, ASK)
        # Request and FIN arrive together, so the server's first write meets the end.
        writer.close()
        intercept = await next_intercept(server, queue)

        await until(lambda: outcomes(recorder))

        assert not intercept["response_future"].done()
    assert outcomes(recorder) == ["cut"]
    # From 3.12 on aiohttp runs the handler before it reads the FIN.
    phases = {"prepare"} if sys.version_info < (3, 12) else {"prepare", "keepalive"}
    error_type, phase = failure_of(recorder)
    assert error_type == "agent_disconnected"
    assert phase in phases
    assert type(state["error"]) is StreamInterrupted


async def test_keepalives_fill_the_silence_and_lose_nothing(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 25: a comment per silent interval, and every chunk in its place."""
    async with running(registry, keepalive_s=0.01) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = await next_intercept(server, queue)
        for number in range(60):
            # Around the interval, where a timeout and an item meet.
            await asyncio.sleep(0.009 + number % 5 * 0.0005)
            chunks_of(intercept).put_nowait(chunk(str(number)))
        chunks_of(intercept).put_nowait(None)
        intercept["response_future"].set_result(None)

        reply = await waiting

    texts = [chunk(str(number)) for number in range(60)]
    assert [data for _, data in events_of(reply.body)] == [*texts, "[DONE]"]
    keepalives = reply.body.count(b": keepalive\n\n")
    assert 0 < keepalives < 180
    (span,) = exchange_spans(recorder)
    assert attribute(span, "intercept.stream.keepalives") == keepalives
    assert attribute(span, "intercept.stream.chunks") == 60


async def test_keepalives_keep_their_interval(registry: RolloutRegistry) -> None:
    """Item 25: after the interval without a write, again and again, and not earlier."""
    async with running(registry, keepalive_s=0.3) as server:
        queue = server.register_rollout("r1")
        loop = asyncio.get_running_loop()
        began = loop.time()
        reader, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        await reader.readuntil(b"\r\n\r\n")

        with Stopwatch() as watch:
            times = [watch.took_s]
            for _ in range(2):
                await reader.readuntil(b": keepalive\n\n")
                times.append(watch.took_s)
            two_took_s = loop.time() - began
            await asyncio.sleep(0.1)
            put_at = loop.time()
            chunks_of(intercept).put_nowait(chunk("x"))
            await reader.readuntil(b"}\n\n")
            times.append(watch.took_s)
            await reader.readuntil(b": keepalive\n\n")
            times.append(watch.took_s)
            one_took_s = loop.time() - put_at

        writer.close()
    assert two_took_s > 0.55
    assert one_took_s > 0.25
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert max(gaps) < 1
    assert gaps[2] < 0.3


async def test_a_chunk_that_says_nothing_does_not_put_off_keepalives(
    registry: RolloutRegistry,
) -> None:
    """The agent hears something within the interval, whatever the consumer puts."""
    async with running(registry, keepalive_s=0.05) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, "v1/messages", ASK))
        intercept = await next_intercept(server, queue)
        chunks_of(intercept).put_nowait(chunk("x"))
        for _ in range(30):
            await asyncio.sleep(0.01)
            chunks_of(intercept).put_nowait(chunk())
        chunks_of(intercept).put_nowait(None)
        intercept["response_future"].set_result(None)

        reply = await waiting

    assert reply.body.count(b": keepalive\n\n") >= 3


@pytest.mark.parametrize(
    ("keepalive_s", "put", "phase"), [(0.02, None, "keepalive"), (9, "x", "chunk")]
)
async def test_a_write_to_an_agent_that_has_left(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    keepalive_s: float,
    put: str | None,
    phase: str,
) -> None:
    """Items 26 and 27: the handler ends there, without waiting for the upstream."""
    state: dict[str, object] = {}
    async with running(registry, keepalive_s=keepalive_s) as server:
        queue = server.register_rollout("r1", state)
        reader, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        await reader.readuntil(b"\r\n\r\n")

        writer.transport.abort()
        await settle()
        if put is not None:
            chunks_of(intercept).put_nowait(chunk(put))
        await until(lambda: outcomes(recorder))

        assert not intercept["response_future"].done()
        assert intercept["request_id"] in server.intercepts
    assert outcomes(recorder) == ["cut"]
    assert failure_of(recorder) == ("agent_disconnected", phase)
    assert type(state["error"]) is StreamInterrupted


async def test_a_terminal_that_cannot_be_written(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 27: a [DONE] that does not get through is an interruption too."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        reader, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()
        await settle()

        await server.synthesize_stream(intercept, None)
        await until(lambda: outcomes(recorder))

    assert failure_of(recorder) == ("agent_disconnected", "chunk")
    assert type(state["error"]) is StreamInterrupted


@pytest.mark.parametrize("bad", [{"x": {1}}, {"x": b"bytes"}, {"x": object()}])
async def test_a_chunk_without_a_json_form_cuts_the_stream(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    bad: dict[str, object],
) -> None:
    """Item 27: no [DONE] follows, the connection is cut, and no text is logged."""
    caplog.set_level(logging.DEBUG)
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        reader, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        chunks_of(intercept).put_nowait(chunk("x"))
        chunks_of(intercept).put_nowait(bad)

        received = await reader.read()

        writer.close()
    assert DONE not in received
    assert not received.endswith(b"0\r\n\r\n")
    assert outcomes(recorder) == ["cut"]
    assert failure_of(recorder) == ("handler_error", "handler")
    assert type(state["error"]) is StreamInterrupted
    assert "object at 0x" not in logged(caplog)


@pytest.mark.parametrize("text", [None, "partial"])
@pytest.mark.parametrize("path", ["v1/chat/completions", "v1/completions"])
async def test_a_failed_stream_still_ends(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    text: str | None,
    path: str,
) -> None:
    """Item 28: [DONE], the wait for the future and the end of the body all happen."""
    caplog.set_level(logging.DEBUG)
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        waiting = asyncio.create_task(call(server, path, ASK))
        intercept = await next_intercept(server, queue)
        if text is not None:
            chunks_of(intercept).put_nowait(chunk(text))
        error = ConnectionResetError(f"https://up/?key={SECRET}")

        await server.synthesize_stream(intercept, None, error)
        reply = await waiting

    assert reply.status == 200
    assert reply.body.endswith(DONE)
    assert (reply.body == DONE) == (text is None)
    assert outcomes(recorder) == ["silent_empty"]
    assert failure_of(recorder) == ("upstream_connection", "response_future")
    assert type(state["error"]) is StreamInterrupted
    assert SECRET not in logged(caplog) + repr(state)
    assert SECRET.encode() not in recorder.exported_bytes() + reply.body


@pytest.mark.parametrize("path", ["chat/completions", "completions", "messages"])
async def test_a_stream_without_a_chunk_is_its_terminal_alone(
    recorder: TelemetryRecorder, registry: RolloutRegistry, path: str
) -> None:
    """An empty stream is not dressed up, so that it is seen as silent and empty."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)

        async with consuming(server, queue, answering(None)):
            reply = await call(server, f"v1/{path}", ASK)

    assert reply.body == TERMINALS[path]
    assert outcomes(recorder) == ["silent_empty"]
    assert type(state["error"]) is StreamInterrupted


async def test_an_empty_response_stream_is_its_terminal_alone(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The terminal of the Responses dialect carries the whole, empty response."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")

        async with consuming(server, queue, answering(None)):
            reply = await call(server, "v1/responses", {**ASK, "model": "asked"})

    ((name, data),) = events_of(reply.body)
    assert isinstance(data, dict)
    assert name == data["type"] == "response.completed"
    assert data["sequence_number"] == 0
    assert data["response"]["output"] == []
    assert data["response"]["model"] == "asked"
    assert outcomes(recorder) == ["silent_empty"]


async def test_a_failed_future_ends_a_stream_without_its_none(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A consumer that forgets the None on failure does not hang its agent."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = await next_intercept(server, queue)
        chunks_of(intercept).put_nowait(chunk("x"))

        server.deliver_response(intercept, None, TimeoutError())
        reply = await waiting

    assert reply.body.endswith(DONE)
    assert outcomes(recorder) == ["silent_empty"]


@pytest.mark.parametrize("by", ["unregister", "exception"])
async def test_a_cancelled_stream_is_cut_and_no_error(
    recorder: TelemetryRecorder, registry: RolloutRegistry, by: str
) -> None:
    """Item 29: teardown truncates the body, and leaves the state alone."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = await next_intercept(server, queue)

        if by == "unregister":
            server.unregister_rollout("r1")
        else:
            await server.synthesize_stream(intercept, None, asyncio.CancelledError())

        with pytest.raises(aiohttp.ClientPayloadError):
            await waiting
    assert state == {}
    assert outcomes(recorder) == ["cancelled"]


async def test_stop_cancels_a_handler_that_writes_to_a_slow_agent(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 30: a handler cancelled in the chunk loop ends, and stop does not hang."""
    async with running(registry, shutdown_timeout_s=0.1) as server:
        queue = server.register_rollout("r1")
        # Nobody reads, so the socket and the buffers fill up.
        _, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        for _ in range(64):
            chunks_of(intercept).put_nowait(chunk("x" * 1_000_000))
        await settle()

        with Stopwatch() as watch:
            await server.stop()

        writer.transport.abort()
    assert watch.took_s < 3
    assert outcomes(recorder) == ["cancelled"]
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_an_agent_that_leaves_with_its_answer_has_it(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 31, corrected: behind the terminal event a failing end harms nobody."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        reader, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        for item in (chunk("x"), None):
            chunks_of(intercept).put_nowait(item)
        await reader.readuntil(b"[DONE]\n\n")

        writer.transport.abort()
        await settle()
        intercept["response_future"].set_result(None)
        await until(lambda: outcomes(recorder))

    assert outcomes(recorder) == ["ok"]
    assert "error" not in state


async def test_a_failure_after_the_agent_has_left_is_seen_and_not_printed(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Item 33: asyncio prints no text of a late failure; it has a span of its own."""
    caplog.set_level(logging.DEBUG)
    async with running(registry, keepalive_s=0.01) as server:
        queue = server.register_rollout("r1")
        _, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        writer.transport.abort()
        await until(lambda: outcomes(recorder))

        await server.synthesize_stream(intercept, None, TimeoutError(SECRET))
        del intercept
        await settle()
        gc.collect()

        assert server.intercepts == {}
    (late,) = [span for span in recorder.spans() if span.name == "failure"]
    assert attribute(late, "error.type") == "upstream_timeout"
    assert "never retrieved" not in caplog.text
    assert SECRET not in logged(caplog)
    assert SECRET.encode() not in recorder.exported_bytes()


@pytest.mark.parametrize("error", [TimeoutError("x"), None])
async def test_synthesizing_without_a_response(
    registry: RolloutRegistry, error: TimeoutError | None
) -> None:
    """Item 37: None is put at once, and the future gets the error, or None."""
    chunks: asyncio.Queue[object] = asyncio.Queue()
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    step = synthesize_stream(
        {"chunk_queue": chunks, "response_future": future}, None, error
    )

    with pytest.raises(StopIteration):
        step.send(None)

    assert chunks.get_nowait() is None
    assert chunks.empty()
    assert future.exception() is error


async def test_synthesizing_a_response() -> None:
    """Item 38: one chunk of content, one that finishes, None, and then the result."""
    chunks: asyncio.Queue[object] = asyncio.Queue()
    future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    body = chat_body("hello")

    await synthesize_stream({"chunk_queue": chunks, "response_future": future}, body)

    first, second, end = (chunks.get_nowait() for _ in range(3))
    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first["choices"] == [
        {
            "index": 0,
            "delta": {"role": "assistant", "content": "hello"},
            "finish_reason": None,
        }
    ]
    assert second["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    for made in (first, second):
        assert made["object"] == "chat.completion.chunk"
        assert (made["id"], made["created"], made["model"]) == ("c1", 7, "m")
    assert end is None
    assert chunks.empty()
    assert await future is body


async def test_synthesizing_needs_a_stream(registry: RolloutRegistry) -> None:
    """Item 38: a request that is no stream is a mistake of the consumer."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body={**ASK, "stream": False}))
        intercept = await next_intercept(server, queue)

        with pytest.raises(RuntimeError, match="deliver_response"):
            await server.synthesize_stream(intercept, chat_body())

        server.deliver_response(intercept, chat_body())
        assert (await waiting).status == 200


async def test_synthesizing_something_unknown_fails_the_request(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A response of no known shape is raised at the consumer, and ends the stream."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = await next_intercept(server, queue)

        with pytest.raises(TypeError, match="no known shape"):
            await server.synthesize_stream(intercept, object())

        assert (await waiting).body == DONE
    assert outcomes(recorder) == ["silent_empty"]


@pytest.mark.parametrize(
    ("path", "frame", "terminal"),
    [
        ("chat/completions", b'data: {"error":', b"data: [DONE]"),
        ("completions", b'data: {"error":', b"data: [DONE]"),
        ("responses", b'event: error\ndata: {"type":"error"', b"response.completed"),
        ("messages", b'event: error\ndata: {"type":"error"', b"message_stop"),
    ],
)
@pytest.mark.parametrize("text", [None, "partial"])
async def test_an_error_frame_precedes_the_terminal_when_asked_for(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    path: str,
    frame: bytes,
    terminal: bytes,
    text: str | None,
) -> None:
    """In error_frame mode the agent is told, in its dialect and without any text."""
    state: dict[str, object] = {}
    async with running(registry, stream_failure="error_frame") as server:
        queue = server.register_rollout("r1", state)
        waiting = asyncio.create_task(call(server, f"v1/{path}", ASK))
        intercept = await next_intercept(server, queue)
        if text is not None:
            chunks_of(intercept).put_nowait(chunk(text))

        await server.synthesize_stream(intercept, None, TimeoutError(SECRET))
        reply = await waiting

    assert 0 <= reply.body.index(frame) < reply.body.rindex(terminal)
    assert b"upstream_timeout" in reply.body
    assert SECRET.encode() not in reply.body
    assert outcomes(recorder) == ["error_frame"]
    assert type(state["error"]) is StreamInterrupted


async def test_error_frame_mode_waits_with_keepalives(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The wait for the future is filled with keepalives, and a good end stays good."""
    async with running(
        registry, stream_failure="error_frame", keepalive_s=0.02
    ) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = await next_intercept(server, queue)
        for item in (chunk("x"), None):
            chunks_of(intercept).put_nowait(item)
        await settle()
        intercept["response_future"].set_result(None)

        reply = await waiting

    assert reply.body.count(b": keepalive\n\n") >= 2
    assert reply.body.endswith(DONE)
    assert outcomes(recorder) == ["ok"]


async def test_error_frame_mode_is_cut_by_teardown_as_well(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 29 holds in both modes: a cancelled stream is truncated and no error."""
    async with running(registry, stream_failure="error_frame") as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        await queue.get()

        server.unregister_rollout("r1")

        with pytest.raises(aiohttp.ClientPayloadError):
            await waiting
    assert outcomes(recorder) == ["cancelled"]


async def test_a_long_backlog_does_not_starve_the_loop(
    registry: RolloutRegistry,
) -> None:
    """While thousands of chunks are written, others get their turn."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        reader, writer = await raw_agent(server, ASK)
        intercept = await next_intercept(server, queue)
        await reader.readuntil(b"\r\n\r\n")
        backlog = 3200
        for _ in range(backlog):
            chunks_of(intercept).put_nowait(chunk("x"))
        remaining = []

        while not chunks_of(intercept).empty():
            remaining.append(chunks_of(intercept).qsize())
            await asyncio.sleep(0)

        writer.close()
    steps = [a - b for a, b in pairwise(remaining)]
    assert max(steps) <= 33


async def test_a_stream_that_is_described_by_its_answer(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Usage that the chunks leave out is taken from the answer in the future."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")

        async with consuming(server, queue, answering(chat_body())):
            reply = await call(server, body=ASK)

    assert b"usage" not in reply.body
    (span,) = [span for span in recorder.spans() if span.name == "chat m"]
    assert attribute(span, "gen_ai.usage.input_tokens") == 3
    assert attribute(span, "gen_ai.usage.output_tokens") == 2


class Hostile:
    """An answer that raises when it is read."""

    @property
    def choices(self) -> object:
        """Raise."""
        raise RuntimeError(SECRET)


@pytest.mark.parametrize(
    "answer",
    ["text", 3, {"a": 1}, chat_body(choices=5), Hostile()],
    ids=["text", "number", "mapping", "broken", "hostile"],
)
async def test_a_future_with_any_result_ends_a_stream_well(
    recorder: TelemetryRecorder, registry: RolloutRegistry, answer: object
) -> None:
    """What the future of a stream holds is optional, and may be anything."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = await next_intercept(server, queue)
        for item in (chunk("x"), None):
            chunks_of(intercept).put_nowait(item)

        intercept["response_future"].set_result(answer)
        reply = await waiting

    assert reply.body.endswith(DONE)
    assert outcomes(recorder) == ["ok"]
