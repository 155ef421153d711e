"""The interception server beside the one of verifiers 0.3.1 that it stands in for."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import pytest

from otel_intercept import RolloutRegistry
from otel_intercept.semconv import Dialect
from otel_intercept.server import InterceptionServer, synthesize_stream
from otel_intercept.server.intercepts import PROTOCOLS
from otel_intercept.server.shapes import body_for
from otel_intercept.telemetry import Telemetry
from tests.served import CHAT, MESSAGES, ROUTES, Reply, call, events_of

pytestmark = pytest.mark.filterwarnings("ignore:Bare functions are deprecated")

# The package has no types; what is compared here is what it says at run time.
LEGACY: Any = importlib.import_module("verifiers.legacy.utils.interception_utils")
TYPES: Any = importlib.import_module("verifiers.legacy.types")

ASK = {"model": "m", "messages": MESSAGES}
Server: TypeAlias = Any


def response(**message: object) -> Any:
    """Make a response as verifiers' clients return it."""
    defaults = {"content": "hello", "finish_reason": "stop", "is_truncated": False}
    return TYPES.Response(
        id="c1",
        created=7,
        model="m",
        usage=TYPES.Usage(
            prompt_tokens=3, reasoning_tokens=1, completion_tokens=2, total_tokens=5
        ),
        message=TYPES.ResponseMessage(**{**defaults, **message}),
    )


TOOL_CALL = {"id": "t1", "name": "add", "arguments": '{"a": 1}'}
RESPONSES = {
    "text": response(),
    "parts": response(content=[{"type": "text", "text": "a"}] * 2),
    "tools": response(tool_calls=[TOOL_CALL], finish_reason="tool_calls"),
    "tools alone": response(content=None, tool_calls=[TOOL_CALL]),
    "broken arguments": response(tool_calls=[{**TOOL_CALL, "arguments": "{"}]),
    "nothing": response(content=None),
}


@pytest.mark.parametrize("dialect", PROTOCOLS, ids=str)
@pytest.mark.parametrize("kind", RESPONSES)
def test_bodies_are_those_of_verifiers(dialect: Dialect, kind: str) -> None:
    """Item 16: what verifiers' agents read is in its place, and says the same."""
    made = body_for(dialect, RESPONSES[kind])
    seed = LEGACY.serialize_intercept_response(RESPONSES[kind], PROTOCOLS[dialect])

    if dialect is Dialect.COMPLETIONS:
        # The original says tool_calls here, which the dialect does not know.
        seed["choices"][0]["finish_reason"] = "stop"
    assert covers(made, seed)


def covers(made: Any, seed: Any) -> bool:
    """Tell whether all that the original says is said; objects may say more."""
    if isinstance(seed, dict):
        return all(key in made and covers(made[key], seed[key]) for key in seed)
    if isinstance(seed, list):
        return len(made) == len(seed) and all(map(covers, made, seed))
    return bool(made == seed)


def test_reasoning_is_passed_on() -> None:
    """Reasoning and raw output items keep their place as well."""
    thoughtful = response(reasoning_content="hm")
    raw = response(openai_responses_output=[{"type": "message", "id": "x"}])

    chat = body_for(Dialect.CHAT_COMPLETIONS, thoughtful)
    responses = body_for(Dialect.RESPONSES, thoughtful)

    seed = LEGACY.serialize_intercept_response
    assert chat["choices"] == seed(thoughtful)["choices"]
    assert responses["output"] == seed(thoughtful, "openai_responses")["output"]
    expected = seed(raw, "openai_responses")["output"]
    assert body_for(Dialect.RESPONSES, raw)["output"] == expected


@pytest.mark.parametrize("kind", RESPONSES)
async def test_synthetic_chunks_are_those_of_verifiers(kind: str) -> None:
    """Item 38: the chunks of a synthetic stream say what verifiers' say."""
    chunks: list[list[Any]] = []
    for synthesize in (synthesize_stream, LEGACY.synthesize_stream):
        queue: asyncio.Queue[Any] = asyncio.Queue()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        await synthesize(
            {"chunk_queue": queue, "response_future": future}, RESPONSES[kind]
        )
        chunks.append([queue.get_nowait() for _ in range(queue.qsize())])

    made, seed = chunks
    assert len(made) == len(seed) == 3
    for ours, theirs in zip(made, seed, strict=True):
        assert without_nulls(ours) == without_nulls(theirs)


def without_nulls(value: Any) -> Any:
    """Leave out what says nothing."""
    if isinstance(value, dict):
        kept = {key: without_nulls(member) for key, member in value.items()}
        return {key: member for key, member in kept.items() if member is not None}
    if isinstance(value, list):
        return [without_nulls(member) for member in value]
    return value


@asynccontextmanager
async def legacy() -> AsyncIterator[Server]:
    """Serve the one of verifiers."""
    server = LEGACY.InterceptionServer(port=0)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@asynccontextmanager
async def own() -> AsyncIterator[Server]:
    """Serve ours."""
    server = InterceptionServer(RolloutRegistry(Telemetry()))
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


Make = Callable[[], Any]
each_server = pytest.mark.parametrize("make", [legacy, own])


async def answered(
    server: Server, body: object, answer: object, error: BaseException | None = None
) -> Reply:
    """Ask, and answer as CliAgentEnv does."""
    queue = server.register_rollout("r1", {})
    asking = asyncio.create_task(call(server, body=body))
    intercept = server.intercepts[await queue.get()]
    module = server if isinstance(server, InterceptionServer) else LEGACY
    if intercept["stream"]:
        await module.synthesize_stream(intercept, answer, error)
    else:
        module.deliver_response(intercept, answer, error)
    reply = await asking
    server.unregister_rollout("r1")
    return reply


@each_server
async def test_refusals_are_the_same(make: Make) -> None:
    """Items 4 to 6: both servers refuse with the same status and the same words."""
    async with make() as server:
        server.register_rollout("r1", {})
        replies = [
            await call(server, body=ASK, headers={}),
            await call(server, body=ASK, headers={"x-api-key": "wrong"}),
            await call(server, body=ASK, rollout_id="r2"),
            await call(server, body=ASK, rollout_id="r2", headers={}),
            await call(server, "vf/tools/x", {}),
            await call(server, "vf/model", {"messages": []}),
            await call(server, "vf/user", {}),
            await call(server, "vf/stop", {}),
            await call(server, "vf/tools", method="GET"),
        ]
        missing = await call(server, "v1/embeddings", {})

    assert [(reply.status, reply.json()) for reply in replies] == [
        (401, {"error": "Unauthorized"}),
        (401, {"error": "Unauthorized"}),
        (404, {"error": "Rollout not found"}),
        (401, {"error": "Unauthorized"}),
        (404, {"error": "Tool proxy unavailable"}),
        (404, {"error": "Model proxy unavailable"}),
        (200, {"messages": []}),
        (200, {"done": False, "stop_condition": None}),
        (200, {"tools": []}),
    ]
    assert missing.status == 404


@each_server
async def test_intercepts_are_the_same(make: Make) -> None:
    """Item 11: consumers find the same keys, and the same kinds of values."""
    async with make() as server:
        queue = server.register_rollout("r1", {})
        tasks = []
        found = []
        for route in ROUTES:
            tasks.append(asyncio.create_task(call(server, f"v1/{route}", ASK)))
            request_id = await queue.get()
            found.append((request_id, server.intercepts[request_id]))
        server.unregister_rollout("r1")
        replies = await asyncio.gather(*tasks)

    for (request_id, intercept), protocol in zip(
        found,
        (
            *("openai_chat_completions", "openai_completions"),
            *("openai_responses", "anthropic_messages"),
        ),
        strict=True,
    ):
        assert len(request_id) == 12
        assert list(intercept) == [
            *("request_id", "rollout_id", "protocol", "messages", "prompt", "input"),
            *("system", "model", "tools", "stream", "chunk_queue", "response_future"),
            "headers",
        ]
        assert intercept["protocol"] == protocol
        assert intercept["messages"] == MESSAGES
        assert intercept["response_future"].cancelled()
    for reply in replies:
        assert (reply.status, reply.json()) == (499, {"error": "Rollout cancelled"})


@each_server
@pytest.mark.parametrize("kind", RESPONSES)
async def test_streams_are_the_same(make: Make, kind: str) -> None:
    """Items 22 and 24: an agent that streams chat chunks cannot tell them apart."""
    async with make() as server:
        reply = await answered(server, {**ASK, "stream": True}, RESPONSES[kind])

    events = [data for _, data in events_of(reply.body)]
    assert reply.status == 200
    assert reply.headers["Content-Type"] == "text/event-stream"
    assert len(events) == 3
    assert events[2] == "[DONE]"
    assert all(name == "" for name, _ in events_of(reply.body))


@each_server
async def test_failures_have_the_same_form(make: Make) -> None:
    """Items 17 and 28: a failure is a 500, or a stream of [DONE] alone."""
    async with make() as server:
        whole = await answered(server, ASK, None, RuntimeError("x"))
        streamed = await answered(
            server, {**ASK, "stream": True}, None, RuntimeError("x")
        )

    assert (whole.status, list(whole.json())) == (500, ["error"])  # type: ignore[call-overload]  # any JSON
    assert (streamed.status, streamed.body) == (200, b"data: [DONE]\n\n")


@each_server
async def test_rollouts_and_requests_come_in_order(make: Make) -> None:
    """Items 8 and 13: request ids come first in, first out, and can be looked up."""
    async with make() as server:
        queue = server.register_rollout("r1", {})
        tasks = []
        for number in range(5):
            body = {**ASK, "model": str(number)}
            tasks.append(asyncio.create_task(call(server, f"v1/{CHAT}", body)))
            while queue.qsize() <= number:  # noqa: ASYNC110 - nothing sets an event
                await asyncio.sleep(0.001)
        models = [server.intercepts[queue.get_nowait()]["model"] for _ in range(5)]
        server.unregister_rollout("r1")
        await asyncio.gather(*tasks)

    assert models == ["0", "1", "2", "3", "4"]
