"""The OpenAI and Anthropic SDKs against the interception server, unchanged."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anthropic
import openai
import pytest
from opentelemetry.trace import SpanKind

from otel_intercept import InterceptionError, RolloutRegistry, StreamInterrupted
from otel_intercept.server import Intercept, InterceptionServer, StreamFailure
from otel_intercept.testing import TelemetryRecorder
from tests.sdks import DIALECTS, AnyError, Sdks, ServerError, told
from tests.served import (
    SECRET,
    Consumer,
    answering,
    attribute,
    base_url,
    chat_body,
    consuming,
    exchange_spans,
    outcomes,
    refused,
    running,
)

TOOL_CALLS = [
    {
        "id": "call_1",
        "type": "function",
        "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'},
    },
    {"id": "call_2", "type": "function", "function": {"name": "now", "arguments": ""}},
]
WITH_TOOLS = chat_body(
    choices=[
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Let me see.",
                "reasoning_content": "Hm.",
                "tool_calls": TOOL_CALLS,
            },
            "finish_reason": "tool_calls",
        }
    ]
)


@asynccontextmanager
async def agent(
    registry: RolloutRegistry,
    consumer: Consumer,
    *,
    state: dict[str, object] | None = None,
    max_retries: int = 0,
    stream_failure: StreamFailure = "done",
) -> AsyncIterator[Sdks]:
    """Serve a rollout with a consumer, and give its agent's clients."""
    async with running(registry, stream_failure=stream_failure) as server:
        queue = server.register_rollout("r1", state)
        async with (
            consuming(server, queue, consumer),
            Sdks(base_url(server), server.secret, max_retries=max_retries) as sdks,
        ):
            yield sdks


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_dialect_answers(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str, stream: bool
) -> None:
    """Item 32, done better: each dialect gets its own shape, also streamed."""
    async with agent(registry, answering(chat_body("hello"))) as sdks:
        text = await (sdks.stream(dialect) if stream else sdks.ask(dialect))

    (span,) = exchange_spans(recorder)
    assert text == "hello"
    assert attribute(span, "intercept.exchange.outcome") == "ok"
    assert attribute(span, "intercept.exchange.stream") is stream
    (wait,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    assert attribute(wait, "gen_ai.usage.input_tokens") == 3
    assert attribute(wait, "gen_ai.usage.output_tokens") == 2


async def test_openai_tools(registry: RolloutRegistry) -> None:
    """Tool calls arrive in chat completions and responses, whole and streamed."""
    async with agent(registry, answering(WITH_TOOLS)) as sdks:
        client = sdks.openai
        chat = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "hi"}]
        )
        async with client.chat.completions.stream(
            model="m", messages=[{"role": "user", "content": "hi"}]
        ) as chunks:
            streamed_chat = await chunks.get_final_completion()
        response = await client.responses.create(model="m", input="hi")
        async with client.responses.stream(model="m", input="hi") as events:
            streamed_response = await events.get_final_response()

    for choice in (chat.choices[0], streamed_chat.choices[0]):
        assert choice.finish_reason == "tool_calls"
        calls = choice.message.tool_calls
        assert calls is not None
        names = [call.function.name for call in calls if call.type == "function"]
        assert names == ["add", "now"]
        assert calls[0].type == "function"
        assert json.loads(calls[0].function.arguments) == {"a": 1, "b": 2}
    for output in (response.output, streamed_response.output):
        kinds = [item.type for item in output]
        assert kinds == ["reasoning", "message", "function_call", "function_call"]
        made = [item for item in output if item.type == "function_call"]
        assert [item.call_id for item in made] == ["call_1", "call_2"]
        assert json.loads(made[0].arguments) == {"a": 1, "b": 2}
    assert response.output_text == streamed_response.output_text == "Let me see."
    assert streamed_response.usage is not None
    assert streamed_response.usage.total_tokens == 5


async def test_anthropic_tools(registry: RolloutRegistry) -> None:
    """Thinking, text and tool use arrive in messages, whole and streamed."""
    async with agent(registry, answering(WITH_TOOLS)) as sdks:
        client = sdks.anthropic
        whole = await client.messages.create(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        )
        async with client.messages.stream(
            model="m", max_tokens=9, messages=[{"role": "user", "content": "hi"}]
        ) as events:
            streamed = await events.get_final_message()

    for content in (whole.content, streamed.content):
        kinds = [block.type for block in content]
        assert kinds == ["thinking", "text", "tool_use", "tool_use"]
        inputs = [block.input for block in content if block.type == "tool_use"]
        assert inputs == [{"a": 1, "b": 2}, {}]
    for reason, usage in (
        (whole.stop_reason, whole.usage),
        (streamed.stop_reason, streamed.usage),
    ):
        assert reason == "tool_use"
        assert (usage.input_tokens, usage.output_tokens) == (3, 2)


@pytest.mark.parametrize("dialect", ["chat", "messages"])
async def test_a_failure_is_retried_twice_and_told_apart(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str
) -> None:
    """Item 36: a 500 makes three exchanges that carry their retry count."""
    counts: list[str | None] = []

    async def failing(server: InterceptionServer, intercept: Intercept) -> None:
        counts.append(intercept["headers"].get("x-stainless-retry-count"))
        server.deliver_response(intercept, None, ConnectionResetError(SECRET))

    state: dict[str, object] = {}
    async with agent(registry, failing, state=state, max_retries=2) as sdks:
        with pytest.raises(ServerError) as raised:
            await sdks.ask(dialect)

    assert counts == ["0", "1", "2"]
    retries = [
        attribute(span, "intercept.exchange.retry_count")
        for span in exchange_spans(recorder)
    ]
    assert retries == [0, 1, 2]
    assert outcomes(recorder) == ["upstream_failed"] * 3
    status, body = told(raised.value)
    assert status == 500
    assert "upstream_connection" in body
    assert SECRET not in body + str(raised.value)
    assert type(state["error"]) is InterceptionError


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_failure_that_would_repeat_is_not_retried(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str
) -> None:
    """x-should-retry: false reaches the SDK, so one request is all there is."""
    async with agent(registry, answering(error=refused(400)), max_retries=2) as sdks:
        with pytest.raises(ServerError) as raised:
            await sdks.ask(dialect)

    assert outcomes(recorder) == ["upstream_failed"]
    assert "upstream_bad_request" in told(raised.value)[1]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_failed_stream_looks_empty_and_is_asked_for_once(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str
) -> None:
    """Item 36: the SDK sees a clean, empty stream; only the state knows better."""
    state: dict[str, object] = {}
    failing = answering(error=TimeoutError())
    async with agent(registry, failing, state=state, max_retries=2) as sdks:
        text = await sdks.stream(dialect)

    assert text == ""
    assert outcomes(recorder) == ["silent_empty"]
    assert type(state["error"]) is StreamInterrupted


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_an_error_frame_makes_the_sdk_raise(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str
) -> None:
    """In error_frame mode no SDK can take a failed stream for an empty one."""
    failing = answering(error=TimeoutError())
    async with agent(registry, failing, stream_failure="error_frame") as sdks:
        with pytest.raises(AnyError) as raised:
            await sdks.stream(dialect)

    assert "timed out" in str(raised.value)
    assert outcomes(recorder) == ["error_frame"]


async def test_refusals_are_the_errors_that_sdks_promise(
    registry: RolloutRegistry,
) -> None:
    """A wrong key raises AuthenticationError, an unknown rollout NotFoundError."""
    async with running(registry) as server:
        server.register_rollout("r1")
        async with (
            Sdks(base_url(server), "wrong") as stranger,
            Sdks(base_url(server, "other"), server.secret) as lost,
        ):
            for dialect in DIALECTS:
                with pytest.raises(
                    (openai.AuthenticationError, anthropic.AuthenticationError)
                ):
                    await stranger.ask(dialect)
                with pytest.raises((openai.NotFoundError, anthropic.NotFoundError)):
                    await lost.ask(dialect)


async def test_cancelled_requests_are_errors_to_the_sdk(
    registry: RolloutRegistry,
) -> None:
    """Item 18: a torn-down rollout answers 499, and the SDK does not retry it."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        async with Sdks(base_url(server), server.secret, max_retries=2) as sdks:
            asking = asyncio.create_task(sdks.ask("chat"))
            await queue.get()

            server.unregister_rollout("r1")

            with pytest.raises(openai.APIStatusError) as raised:
                await asking
    assert raised.value.status_code == 499
