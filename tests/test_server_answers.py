"""The interception server's whole answers, and what is told of them."""

import asyncio
import logging

import aiohttp
import pytest

from otel_intercept import (
    InterceptionError,
    RolloutRegistry,
    Telemetry,
)
from otel_intercept.server import InterceptionServer, deliver_response
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import logged
from tests.served import (
    CHAT,
    MESSAGES,
    SECRET,
    answering,
    attribute,
    base_url,
    call,
    chat_body,
    consuming,
    exchange_spans,
    outcomes,
    raw_agent,
    refused,
    running,
    settle,
    until,
)

ASK = {"model": "m", "messages": MESSAGES}


async def test_a_failed_call_is_a_redacted_500(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Item 17: the agent gets class and trace id, the state a typed error, no text."""
    caplog.set_level(logging.DEBUG)
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state, trace_id="ab" * 16)
        error = TimeoutError(f"GET https://up/v1?key={SECRET}")

        async with consuming(server, queue, answering(error=error)):
            reply = await call(server, body=ASK)

    assert reply.status == 500
    assert reply.json() == {
        "error": {
            "message": "The model call timed out.",
            "type": "server_error",
            "param": None,
            "code": "upstream_timeout",
            "error_type": "upstream_timeout",
            "trace_id": "ab" * 16,
        }
    }
    assert "x-should-retry" not in reply.headers
    error_on_state = state["error"]
    assert type(error_on_state) is InterceptionError
    assert error_on_state.__cause__ is error_on_state.__context__ is None
    assert SECRET not in logged(caplog) + repr(error_on_state)
    assert SECRET.encode() not in recorder.exported_bytes() + reply.body
    assert outcomes(recorder) == ["upstream_failed"]


async def test_retrying_in_vain_is_discouraged(registry: RolloutRegistry) -> None:
    """A failure that would repeat itself carries x-should-retry: false."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")

        async with consuming(server, queue, answering(error=refused(400))):
            in_vain = await call(server, body=ASK)
        async with consuming(server, queue, answering(error=TimeoutError())):
            worth_it = await call(server, body=ASK)

    assert in_vain.headers["x-should-retry"] == "false"
    assert "x-should-retry" not in worth_it.headers


async def test_cancellations_are_no_errors(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 18: a cancelled future, and one that fails with a cancellation, give 499."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        waiting = asyncio.create_task(call(server, body=ASK))
        server.intercepts[await queue.get()]["response_future"].cancel()
        cancelled = await waiting

        async with consuming(server, queue, answering(error=asyncio.CancelledError())):
            delivered = await call(server, body=ASK)

    for reply in (cancelled, delivered):
        assert (reply.status, reply.json()) == (499, {"error": "Rollout cancelled"})
    assert state == {}
    assert outcomes(recorder) == ["cancelled", "cancelled"]


@pytest.mark.parametrize(
    "response", [object(), 5, chat_body(model=object()), {"a": {1, 2}}]
)
async def test_an_answer_without_a_json_form_is_a_failure(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    response: object,
) -> None:
    """Item 19, done better: it is a redacted 500, and no longer silent."""
    caplog.set_level(logging.DEBUG)
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)

        async with consuming(server, queue, answering(response)):
            reply = await call(server, body=ASK)

    assert reply.status == 500
    assert b"handler_error" in reply.body
    assert type(state["error"]) is InterceptionError
    assert outcomes(recorder) == ["handler_failed"]
    assert "object at 0x" not in logged(caplog)


async def test_an_agent_that_leaves_while_waiting_is_gone(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 20: the request stays open for its consumer, and the state untouched."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        queue = server.register_rollout("r1", state)
        _, writer = await raw_agent(server, ASK)
        intercept = server.intercepts[await queue.get()]

        writer.transport.abort()
        await settle()
        assert not intercept["response_future"].done()
        server.deliver_response(intercept, chat_body())
        await until(lambda: outcomes(recorder))

    assert state == {}
    assert outcomes(recorder) == ["agent_gone"]


async def test_delivering_is_careful(registry: RolloutRegistry) -> None:
    """Item 21: missing and done futures are left alone; an error beats a response."""
    loop = asyncio.get_running_loop()
    pending: asyncio.Future[object] = loop.create_future()
    done: asyncio.Future[object] = loop.create_future()
    done.set_result("first")
    error = ValueError()

    deliver_response({}, "response")
    deliver_response({"response_future": done}, "second", error)
    deliver_response({"response_future": pending}, None, None)

    assert await done == "first"
    assert not pending.done()
    InterceptionServer.deliver_response({"response_future": pending}, "both", error)
    assert pending.exception() is error


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"error": "first"}, {"error": "first"}),
        ({"prompt_too_long": True}, {"prompt_too_long": True}),
    ],
)
async def test_the_state_is_left_alone_when_it_is_settled(
    registry: RolloutRegistry, before: dict[str, object], after: dict[str, object]
) -> None:
    """Item 34: an earlier error or a clean stop stays; the agent's 500 is the same."""
    async with running(registry) as server:
        queue = server.register_rollout("r1", before)

        async with consuming(server, queue, answering(error=TimeoutError())):
            reply = await call(server, body=ASK)

    assert reply.status == 500
    assert b"upstream_timeout" in reply.body
    assert before == after


async def test_a_rollout_without_a_state_can_fail(registry: RolloutRegistry) -> None:
    """Item 34: no state is no problem; the rollout itself knows its error."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        rollout = registry.get("r1")

        async with consuming(server, queue, answering(error=TimeoutError())):
            await call(server, body=ASK)

    assert rollout is not None
    assert type(rollout.error) is InterceptionError


async def test_requests_for_unknown_rollouts_make_no_span(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 6: an unknown rollout is counted as rejected, and nothing more."""
    async with running(registry) as server:
        reply = await call(server, body=ASK, rollout_id=SECRET)

    assert (reply.status, reply.json()) == (404, {"error": "Rollout not found"})
    assert exchange_spans(recorder) == []
    assert (
        recorder.value(
            "intercept.exchanges", {"intercept.exchange.outcome": "rejected"}
        )
        == 1
    )
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_a_rollout_that_is_open_but_not_registered_is_not_found(
    registry: RolloutRegistry,
) -> None:
    """Only registered rollouts are served, and only while they are open."""
    registry.open("r1")
    async with running(registry) as server:
        unregistered = await call(server, body=ASK)
        server.register_rollout("r1")
        registry.close("r1")
        closed = await call(server, body=ASK)

    assert (unregistered.status, closed.status) == (404, 404)


async def test_the_secret_and_the_prompt_stay_inside(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither credential nor prompt nor query leaves by log, telemetry or repr."""
    caplog.set_level(logging.DEBUG)
    async with running(registry, secret=SECRET) as server:
        queue = server.register_rollout("r1")
        ask = {"model": "m", "messages": [{"role": "user", "content": SECRET}]}

        async with consuming(server, queue, answering(chat_body(SECRET))):
            reply = await call(server, f"v1/{CHAT}?token={SECRET}", ask)

        assert SECRET not in repr(server) + repr(vars(server)["_table"])
    assert reply.status == 200
    assert SECRET not in logged(caplog)
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_requests_that_are_no_http_are_not_logged_as_text(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """What aiohttp logs of a malformed request is constant text."""
    caplog.set_level(logging.DEBUG)
    async with running(registry) as server:
        for line in (f"GET /{SECRET} HTTP/9.9", f"{SECRET} / HTTP/1.1", SECRET):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(f"{line}\r\nX: {SECRET}\r\n\r\n".encode())
            await reader.read()
            writer.close()

    assert "could not handle" in caplog.text
    assert SECRET not in logged(caplog)


async def test_the_trace_can_be_given(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Registering passes trace id and attributes on to the rollout."""
    async with running(registry) as server:
        server.register_rollout(
            "r1", trace_id="0a" * 16, attributes={"env.name": "maths"}
        )
        server.unregister_rollout("r1")

    (root,) = [span for span in recorder.spans() if span.name == "rollout"]
    assert root.context is not None
    assert f"{root.context.trace_id:032x}" == "0a" * 16
    assert attribute(root, "env.name") == "maths"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("fails", [False, True])
async def test_without_telemetry_the_bytes_are_the_same(
    registry: RolloutRegistry, stream: bool, fails: bool
) -> None:
    """An agent cannot tell whether telemetry is on."""
    consumer = answering(error=TimeoutError()) if fails else answering(chat_body())
    replies = []
    for rollouts in (registry, RolloutRegistry(Telemetry())):
        async with running(rollouts) as server:
            queue = server.register_rollout("r1", trace_id="ab" * 16)
            async with consuming(server, queue, consumer):
                replies.append(await call(server, body={**ASK, "stream": stream}))

    first, second = replies
    assert (first.status, first.body) == (second.status, second.body)
    assert first.headers.keys() == second.headers.keys()


async def test_the_base_url_takes_any_id(registry: RolloutRegistry) -> None:
    """A rollout id of unusual characters is found under its quoted path."""
    async with running(registry) as server:
        queue = server.register_rollout("a b/ü")
        async with (
            consuming(server, queue, answering(chat_body())),
            aiohttp.ClientSession() as session,
            session.post(
                f"{base_url(server, 'a%20b%2F%C3%BC')}/v1/{CHAT}",
                headers={"x-api-key": server.secret},
                json=ASK,
            ) as response,
        ):
            assert response.status == 200
