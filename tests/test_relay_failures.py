"""What the relay makes of upstreams that fail and of agents that leave."""

import asyncio
import json
import logging

import aiohttp
import pytest
from aiohttp import web

from otel_intercept import InterceptionError, RolloutRegistry, StreamInterrupted
from otel_intercept.server import ErrorBodies, make_relay_app, relay_runner
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import logged
from tests.relayed import (
    CHUNK,
    DONE,
    EVENT,
    Script,
    begin_stream,
    hangs,
    listening,
    refuses,
    relaying,
)
from tests.served import (
    CHAT,
    SECRET,
    attribute,
    exchange_spans,
    failure_of,
    outcomes,
    settle,
    until,
)

ERROR = {"error": {"message": SECRET, "type": "x", "code": "y"}}


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (400, "upstream_bad_request"),
        (401, "upstream_auth"),
        (404, "upstream_bad_request"),
        (408, "upstream_timeout"),
        (429, "upstream_rate_limited"),
        (500, "upstream_server_error"),
        (503, "upstream_overloaded"),
        (529, "upstream_overloaded"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, "messages"])
async def test_an_upstreams_error_is_typed_and_redacted(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    status: int,
    error_type: str,
    path: str,
) -> None:
    """The agent gets the status in the dialect's redacted form; the rollout fails."""
    script = refuses(status, ERROR, {"X-Secret": SECRET, "Retry-After": "7"})
    async with relaying(registry, script) as relay:
        reply = await relay.call(f"/rollout/r1/v1/{path}")
        rollout = registry.get("r1")

    assert reply.status == status
    assert reply.headers["Retry-After"] == "7"
    assert SECRET not in reply.body.decode() + str(reply.headers)
    body = reply.json()
    assert isinstance(body, dict)
    assert (body.get("type") == "error") == (path == "messages")
    assert body["error"]["error_type"] == error_type
    assert rollout is not None
    assert body["error"]["trace_id"] == rollout.trace_id
    assert type(rollout.error) is InterceptionError
    assert outcomes(recorder) == ["upstream_failed"]
    assert failure_of(recorder) == (error_type, "upstream_call")
    (span,) = exchange_spans(recorder)
    (event,) = span.events
    assert (event.attributes or {})["intercept.failure.status_code"] == status
    assert attribute(span, "http.response.status_code") == status


@pytest.mark.parametrize(
    ("status", "error", "error_type"),
    [
        (400, {"code": "context_length_exceeded"}, "upstream_context_length"),
        (400, {"code": "content_filter"}, "upstream_content_filter"),
        (400, {"type": "overloaded_error"}, "upstream_overloaded"),
        (413, {"type": "request_too_large"}, "upstream_context_length"),
        (500, {"code": SECRET, "type": 5}, "upstream_server_error"),
        (400, "text", "upstream_bad_request"),
    ],
)
async def test_known_codes_refine_the_type(
    registry: RolloutRegistry, status: int, error: object, error_type: str
) -> None:
    """A code from the closed list says more than the status; agents rely on some."""
    async with relaying(registry, refuses(status, {"error": error})) as relay:
        reply = await relay.call()

    body = reply.json()
    assert isinstance(body, dict)
    assert body["error"]["error_type"] == error_type
    if error_type == "upstream_context_length":
        assert body["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("value", ["soon", "1e9", SECRET, "7" * 20, "-1", ""])
async def test_only_numbers_say_when_to_retry(
    registry: RolloutRegistry, value: str
) -> None:
    """A header that could carry text is not passed on with an error."""
    headers = {"Retry-After": value, "x-should-retry": value}
    async with relaying(registry, refuses(503, ERROR, headers)) as relay:
        reply = await relay.call()

    assert "Retry-After" not in reply.headers
    assert "x-should-retry" not in reply.headers


async def test_the_upstreams_word_on_retrying_counts(registry: RolloutRegistry) -> None:
    """Its x-should-retry reaches the SDK, which obeys it."""
    async with relaying(
        registry, refuses(500, {}, {"x-should-retry": "false"})
    ) as relay:
        reply = await relay.call()

    assert reply.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("size", [10, 200_000])
async def test_errors_pass_unchanged_when_asked_for(
    recorder: TelemetryRecorder, registry: RolloutRegistry, size: int
) -> None:
    """With error_bodies="pass" the agent gets the upstream's body and headers."""
    error = {"error": {"code": "content_filter", "message": SECRET * size}}
    script = refuses(400, error, {"X-Secret": SECRET})
    async with relaying(registry, script, error_bodies="pass") as relay:
        reply = await relay.call()

    assert (reply.status, reply.json()) == (400, error)
    assert reply.headers["X-Secret"] == SECRET
    assert outcomes(recorder) == ["upstream_failed"]
    expected = "upstream_content_filter" if size == 10 else "upstream_bad_request"
    assert failure_of(recorder) == (expected, "upstream_call")
    assert SECRET.encode() not in recorder.exported_bytes()


@pytest.mark.parametrize("error_bodies", ["redact", "pass"])
@pytest.mark.parametrize(("status", "fails"), [(404, False), (405, False), (500, True)])
async def test_probing_for_an_endpoint_is_no_failure(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    error_bodies: ErrorBodies,
    status: int,
    fails: bool,
) -> None:
    """A 4xx away from the model routes is an answer; a 5xx is a failure anywhere."""
    script = refuses(status, ERROR)
    async with relaying(registry, script, error_bodies=error_bodies) as relay:
        reply = await relay.call("/rollout/r1/v1/models", b"", method="GET")
        rollout = registry.get("r1")

    assert reply.status == status
    assert (SECRET.encode() in reply.body) == (error_bodies == "pass")
    assert rollout is not None
    assert (rollout.error is not None) == fails
    assert outcomes(recorder) == ["upstream_failed" if fails else "rejected"]


async def test_an_error_inside_a_200_is_not_silent(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An error object in a good answer passes unchanged, and fails the rollout."""
    body = {"error": {"message": SECRET, "code": 429, "type": "rate_limit_error"}}

    async def script(request: web.Request) -> web.StreamResponse:
        return web.json_response(body)

    async with relaying(registry, script) as relay:
        reply = await relay.call()
        rollout = registry.get("r1")

    assert (reply.status, reply.json()) == (200, body)
    assert rollout is not None
    assert type(rollout.error) is StreamInterrupted
    assert outcomes(recorder) == ["silent_empty"]
    assert failure_of(recorder) == ("upstream_rate_limited", "upstream_call")


@pytest.mark.parametrize("body", [b"", b'{"choices": [', b"[]"])
async def test_a_200_without_a_json_object_is_not_silent(
    recorder: TelemetryRecorder, registry: RolloutRegistry, body: bytes
) -> None:
    """What no SDK can parse passes unchanged, and fails the rollout."""

    async def script(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body, content_type="application/json")

    async with relaying(registry, script) as relay:
        reply = await relay.call()

    assert (reply.status, reply.body) == (200, body)
    assert outcomes(recorder) == ["silent_empty"]
    assert failure_of(recorder) == ("upstream_bad_response", "upstream_call")


async def test_an_error_frame_passes_and_is_seen(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An error inside a stream reaches the agent as it is, and fails the rollout."""
    frame = b'data: {"error":{"message":"x","type":"overloaded_error"}}\n\n'

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        await response.write(EVENT + frame + DONE)
        return response

    async with relaying(registry, script) as relay:
        reply = await relay.call()

    assert reply.body == EVENT + frame + DONE
    assert outcomes(recorder) == ["error_frame"]
    assert failure_of(recorder) == ("upstream_overloaded", "chunk")


async def test_an_unreachable_upstream_is_a_502(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A connection that cannot be made gives a redacted 502, in the dialect's shape."""
    caplog.set_level(logging.DEBUG)
    app = make_relay_app(registry, upstream="http://127.0.0.1:9")
    async with (
        listening(relay_runner(app)) as url,
        aiohttp.ClientSession() as session,
        session.post(f"{url}/rollout/r1/v1/messages", json={}) as response,
    ):
        body = await response.json()

    assert response.status == 502
    assert body["type"] == "error"
    assert body["error"]["error_type"] == "upstream_connection"
    assert "127.0.0.1:9" not in str(body)
    assert "Connect call" not in logged(caplog)
    assert outcomes(recorder) == ["upstream_failed"]


async def test_a_silent_upstream_is_a_504(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An upstream that does not answer in time gives a redacted 504."""
    async with relaying(registry, hangs, read_timeout_s=0.1) as relay:
        reply = await relay.call()

    assert reply.status == 504
    assert b"upstream_timeout" in reply.body
    assert failure_of(recorder) == ("upstream_timeout", "upstream_call")


@pytest.mark.parametrize(
    "answer", [b"", b"garbage\r\n\r\n", b"HTTP/1.1 2x0 OK\r\n\r\n"]
)
async def test_an_upstream_that_speaks_no_http_is_a_502(
    recorder: TelemetryRecorder, registry: RolloutRegistry, answer: bytes
) -> None:
    """Hanging up or talking nonsense instead of an answer gives a redacted 502."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        app = make_relay_app(registry, upstream=f"http://127.0.0.1:{port}")
        async with (
            listening(relay_runner(app)) as url,
            aiohttp.ClientSession() as session,
            session.post(f"{url}/rollout/r1/v1/{CHAT}", data=b"{}") as response,
        ):
            assert response.status == 502
            assert b"garbage" not in await response.read()

    assert outcomes(recorder) == ["upstream_failed"]


def cuts(*parts: bytes, length: int | None = None) -> Script:
    """Make a script that breaks off after some bytes."""

    async def script(request: web.Request) -> web.StreamResponse:
        content_type = "text/event-stream" if length is None else "application/json"
        response = web.StreamResponse(headers={"Content-Type": content_type})
        response.content_length = length
        await response.prepare(request)
        for part in parts:
            await response.write(part)
            await asyncio.sleep(0.02)
        assert request.transport is not None
        request.transport.abort()
        return response

    return script


@pytest.mark.parametrize(
    "script",
    [cuts(), cuts(EVENT), cuts(EVENT, CHUNK), cuts(b'{"a"', length=100)],
    ids=["at once", "after a chunk", "in a chunk", "in a body"],
)
@pytest.mark.parametrize("error_bodies", ["redact", "pass"])
async def test_a_cut_of_the_upstream_is_a_cut_for_the_agent(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    script: Script,
    error_bodies: ErrorBodies,
) -> None:
    """An answer that breaks off never ends cleanly, and the rollout fails."""
    async with relaying(registry, script, error_bodies=error_bodies) as relay:
        with pytest.raises(aiohttp.ClientPayloadError):
            await relay.call()
        rollout = registry.get("r1")

    assert rollout is not None
    assert type(rollout.error) is StreamInterrupted
    assert outcomes(recorder) == ["cut"]
    assert failure_of(recorder) == ("upstream_truncated", "upstream_call")


async def test_a_stream_that_falls_silent_is_cut(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The read timeout holds in the middle of a stream as well."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        await response.write(EVENT)
        return await hangs(request)

    async with relaying(registry, script, read_timeout_s=1.0) as relay:
        with pytest.raises(aiohttp.ClientPayloadError):
            await relay.call()

    assert failure_of(recorder) == ("upstream_timeout", "upstream_call")


async def test_a_stream_without_its_terminal_is_seen(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A stream that ends cleanly but too early is passed on, and fails the rollout."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        await response.write(EVENT)
        return response

    async with relaying(registry, script) as relay:
        reply = await relay.call()

    assert reply.body == EVENT
    assert outcomes(recorder) == ["no_terminal"]


@pytest.mark.parametrize("begun", [False, True])
async def test_an_agent_that_leaves_ends_the_upstreams_call(
    recorder: TelemetryRecorder, registry: RolloutRegistry, begun: bool
) -> None:
    """The upstream's request is closed within a second, and nobody has failed."""

    async def script(request: web.Request) -> web.StreamResponse:
        if begun:
            response = await begin_stream(request)
            await response.write(EVENT)
        return await hangs(request)

    async with relaying(registry, script) as relay:
        _, writer = await asyncio.open_connection(*relay.url[7:].split(":"))
        writer.write(
            f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 2\r\n\r\n{}".encode()
        )
        await until(lambda: relay.upstream.received)
        await settle()

        writer.transport.abort()
        await until(relay.upstream.cancelled.is_set, timeout_s=1)

        await until(lambda: outcomes(recorder))
        rollout = registry.get("r1")
    assert rollout is not None
    assert rollout.error is None
    assert outcomes(recorder) == ["agent_gone"]


async def test_an_agent_that_leaves_while_being_written_to(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A write that fails ends the upstream's call at once."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        while True:
            await response.write(EVENT * 100)
            await asyncio.sleep(0.001)

    async with relaying(registry, script) as relay:
        reader, writer = await asyncio.open_connection(*relay.url[7:].split(":"))
        writer.write(
            f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 2\r\n\r\n{}".encode()
        )
        await reader.readuntil(EVENT)

        writer.transport.abort()
        await until(relay.upstream.cancelled.is_set, timeout_s=2)

        await until(lambda: outcomes(recorder))
    assert outcomes(recorder)[0] in {"cut", "agent_gone"}


async def test_an_answer_that_nobody_waits_for(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An answer that comes just after the agent has left is let go of."""
    left = asyncio.Event()

    async def script(request: web.Request) -> web.StreamResponse:
        await left.wait()
        return await begin_stream(request)

    async with relaying(registry, script) as relay:
        # Again where the relay has noticed it before the answer came.
        for before in range(20):
            left.clear()
            _, writer = await asyncio.open_connection(*relay.url[7:].split(":"))
            writer.write(
                f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n"
                "Content-Length: 2\r\n\r\n{}".encode()
            )
            while len(relay.upstream.received) <= before:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.005)
            writer.transport.abort()
            await relay.agents_have_left()
            left.set()
            while len(outcomes(recorder)) <= before:  # noqa: ASYNC110 - no event
                await asyncio.sleep(0.005)
            if outcomes(recorder)[-1] != "agent_gone":
                break

    span = exchange_spans(recorder)[-1]
    (event,) = span.events
    assert attribute(span, "error.type") == "agent_disconnected"
    assert (event.attributes or {})["intercept.failure.phase"] == "prepare"


async def test_an_error_whose_body_breaks_off_is_still_that_error(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The status alone types a failure whose body never arrives whole."""

    async def script(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=503)
        response.content_length = 1000
        await response.prepare(request)
        await response.write(b'{"error":')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with relaying(registry, script) as relay:
        reply = await relay.call()

    assert reply.status == 503
    assert failure_of(recorder) == ("upstream_overloaded", "upstream_call")


async def test_an_agent_that_leaves_while_sending(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An upload that breaks off never reaches the upstream."""
    async with relaying(registry, hangs) as relay:
        _, writer = await asyncio.open_connection(*relay.url[7:].split(":"))
        writer.write(
            f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 9\r\n\r\n{".encode()
        )
        await until(lambda: len(registry) == 1)
        writer.close()

        await until(lambda: outcomes(recorder))

    assert relay.upstream.received == []
    assert outcomes(recorder) == ["agent_gone"]


async def test_raw_text_goes_to_triage_alone(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator who asks for it finds the raw failure on the triage logger."""
    caplog.set_level(logging.DEBUG, logger="otel_intercept.triage")
    triage = logging.getLogger("otel_intercept.triage")
    triage.addHandler(caplog.handler)
    try:
        async with relaying(registry, hangs, read_timeout_s=0.05) as relay:
            await relay.call()
    finally:
        triage.removeHandler(caplog.handler)

    assert "SocketTimeoutError" in caplog.text
    assert "SocketTimeoutError" not in logged(caplog)


async def test_a_call_is_never_sent_twice(registry: RolloutRegistry) -> None:
    """Neither a failure nor a lost connection makes the relay try again."""
    async with relaying(registry, cuts()) as relay:
        with pytest.raises(aiohttp.ClientPayloadError):
            await relay.call()
        relay.upstream.script = refuses(500)
        await relay.call(data=json.dumps({}).encode())

        assert len(relay.upstream.received) == 2
