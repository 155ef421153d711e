"""The real SDKs raise what each dialect promises on our error bodies and frames."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import anthropic
import openai
import pytest
from aiohttp import web
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI

from otel_intercept.dialect import (
    dialect_of,
    error_body,
    error_frame,
    error_headers,
)
from otel_intercept.failure import Failure
from otel_intercept.semconv import Dialect, ErrorType, Origin, Phase
from otel_intercept.sse import SseScanner

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
FINGERPRINT = "00f067aa0ba902b7"
OPENAI = [Dialect.CHAT_COMPLETIONS, Dialect.COMPLETIONS, Dialect.RESPONSES]
FIRST_EVENTS = {
    Dialect.CHAT_COMPLETIONS: {
        "id": "c1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}],
    },
    Dialect.COMPLETIONS: {
        "id": "c1",
        "object": "text_completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "text": "a", "finish_reason": None}],
    },
    Dialect.RESPONSES: {
        "type": "response.output_text.delta",
        "sequence_number": 1,
        "item_id": "i1",
        "output_index": 0,
        "content_index": 0,
        "delta": "a",
        "logprobs": [],
    },
    Dialect.MESSAGES: {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "a"},
    },
}

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


def failure_of(error_type: ErrorType, *, retryable: bool) -> Failure:
    """Return a failure with recognisable private fields."""
    return Failure(
        error_type=error_type,
        phase=Phase.CHUNK,
        origin=Origin.UPSTREAM,
        exception_type="builtins.PermissionError",
        cause_types=("builtins.KeyError",),
        status_code=None,
        retryable=retryable,
        fingerprint=FINGERPRINT,
    )


def answer_500(failure: Failure, seen: list[str]) -> Answer:
    """Return a handler that answers each request with the failure's body."""

    async def answer(request: web.Request) -> web.StreamResponse:
        seen.append(request.path)
        return web.json_response(
            error_body(dialect_of(request.path), failure, trace_id=TRACE_ID),
            status=500,
            headers=error_headers(failure),
        )

    return answer


def answer_frame(failure: Failure) -> Answer:
    """Return a handler that streams one chunk, then the failure's frame."""

    async def answer(request: web.Request) -> web.StreamResponse:
        dialect = dialect_of(request.path)
        event = FIRST_EVENTS[dialect]
        name = event.get("type", "message")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(f"event: {name}\ndata: {json.dumps(event)}\n\n".encode())
        await response.write(error_frame(dialect, failure, trace_id=TRACE_ID))
        await response.write(b"data: [DONE]\n\n")
        await response.write_eof()
        return response

    return answer


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """Serve one handler on loopback, and give the base URL."""
    app = web.Application()
    app.router.add_post("/v1/{tail:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


async def call(dialect: Dialect, url: str, *, stream: bool, retries: int = 0) -> int:
    """Call with the dialect's real SDK, and count the events before its end."""
    if dialect is Dialect.MESSAGES:
        return await _call_anthropic(url, stream=stream, retries=retries)
    async with AsyncOpenAI(
        base_url=f"{url}/v1", api_key="k", max_retries=retries
    ) as client:
        events: AsyncIterator[object]
        if dialect is Dialect.CHAT_COMPLETIONS:
            if not stream:
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "a"}]
                )
                return 0
            events = aiter(
                await client.chat.completions.create(
                    model="m", messages=[{"role": "user", "content": "a"}], stream=True
                )
            )
        elif dialect is Dialect.COMPLETIONS:
            if not stream:
                await client.completions.create(model="m", prompt="a")
                return 0
            events = aiter(
                await client.completions.create(model="m", prompt="a", stream=True)
            )
        else:
            if not stream:
                await client.responses.create(model="m", input="a")
                return 0
            events = aiter(
                await client.responses.create(model="m", input="a", stream=True)
            )
        return await _count(events)


async def _call_anthropic(url: str, *, stream: bool, retries: int) -> int:
    async with AsyncAnthropic(base_url=url, api_key="k", max_retries=retries) as client:
        if not stream:
            await client.messages.create(
                model="m", max_tokens=1, messages=[{"role": "user", "content": "a"}]
            )
            return 0
        events = await client.messages.create(
            model="m",
            max_tokens=1,
            messages=[{"role": "user", "content": "a"}],
            stream=True,
        )
        return await _count(aiter(events))


async def _count(events: AsyncIterator[object]) -> int:
    return len([event async for event in events])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("dialect", OPENAI)
async def test_an_error_body_makes_openai_raise_once(
    dialect: Dialect, stream: bool
) -> None:
    """A 500 becomes InternalServerError, and x-should-retry stops the repeats."""
    failure = failure_of(ErrorType.UPSTREAM_RATE_LIMITED, retryable=False)
    seen: list[str] = []

    async with serving(answer_500(failure, seen)) as url:
        with pytest.raises(openai.InternalServerError) as caught:
            await call(dialect, url, stream=stream, retries=2)

    error = caught.value
    assert (error.type, error.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert error.param is None
    assert error.body == {
        "message": "The upstream's rate limit was reached.",
        "type": "rate_limit_error",
        "param": None,
        "code": "rate_limit_exceeded",
        "error_type": "upstream_rate_limited",
        "trace_id": TRACE_ID,
    }
    assert len(seen) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_body_makes_anthropic_raise_once(stream: bool) -> None:
    """A 500 becomes InternalServerError, and x-should-retry stops the repeats."""
    failure = failure_of(ErrorType.UPSTREAM_RATE_LIMITED, retryable=False)
    seen: list[str] = []

    async with serving(answer_500(failure, seen)) as url:
        with pytest.raises(anthropic.InternalServerError) as caught:
            await call(Dialect.MESSAGES, url, stream=stream, retries=2)

    error = caught.value
    assert error.type == "rate_limit_error"
    assert error.api_message == "The upstream's rate limit was reached."
    assert error.body == {
        "type": "error",
        "error": {
            "message": "The upstream's rate limit was reached.",
            "type": "rate_limit_error",
            "error_type": "upstream_rate_limited",
            "trace_id": TRACE_ID,
        },
    }
    assert len(seen) == 1


@pytest.mark.parametrize("dialect", [Dialect.CHAT_COMPLETIONS, Dialect.MESSAGES])
async def test_a_retryable_failure_lets_the_sdk_repeat_the_call(
    dialect: Dialect,
) -> None:
    """Without x-should-retry the SDK repeats a 500, so the header above stopped it."""
    failure = failure_of(ErrorType.UPSTREAM_OVERLOADED, retryable=True)
    seen: list[str] = []

    async with serving(answer_500(failure, seen)) as url:
        with pytest.raises((openai.InternalServerError, anthropic.InternalServerError)):
            await call(dialect, url, stream=False, retries=1)

    assert len(seen) == 2


@pytest.mark.parametrize("dialect", OPENAI)
async def test_an_error_frame_makes_openai_raise_inside_a_stream(
    dialect: Dialect,
) -> None:
    """A frame in a 200 stream becomes APIError, though [DONE] follows."""
    failure = failure_of(ErrorType.UPSTREAM_OVERLOADED, retryable=True)

    async with serving(answer_frame(failure)) as url:
        with pytest.raises(openai.APIError) as caught:
            await call(dialect, url, stream=True)

    error = caught.value
    assert type(error) is openai.APIError
    assert error.message == "The upstream is overloaded."
    assert error.type == "service_unavailable_error"
    assert error.code == "server_is_overloaded"
    assert isinstance(error.body, dict)
    assert error.body["error_type"] == "upstream_overloaded"
    assert error.body["trace_id"] == TRACE_ID


async def test_an_error_frame_makes_anthropic_raise_inside_a_stream() -> None:
    """A frame in a 200 stream becomes APIStatusError with the error's type."""
    failure = failure_of(ErrorType.UPSTREAM_OVERLOADED, retryable=True)

    async with serving(answer_frame(failure)) as url:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await call(Dialect.MESSAGES, url, stream=True)

    error = caught.value
    assert error.status_code == 200
    assert error.type == "overloaded_error"
    assert isinstance(error.body, dict)
    assert error.body["error"]["error_type"] == "upstream_overloaded"
    assert error.body["error"]["trace_id"] == TRACE_ID


async def test_a_stream_without_the_frame_ends_without_an_error() -> None:
    """The raising above comes from the frame: the same stream without it is clean."""

    async def answer(request: web.Request) -> web.StreamResponse:
        event = json.dumps(FIRST_EVENTS[Dialect.CHAT_COMPLETIONS])
        return web.Response(
            text=f"data: {event}\n\ndata: [DONE]\n\n", content_type="text/event-stream"
        )

    async with serving(answer) as url:
        events = await call(Dialect.CHAT_COMPLETIONS, url, stream=True)

    assert events == 1


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("error_type", ErrorType)
def test_every_error_type_has_a_constant_wording(
    error_type: ErrorType, dialect: Dialect
) -> None:
    """Each error type gives its shape in each dialect, and no private field."""
    failure = failure_of(error_type, retryable=True)

    body = error_body(dialect, failure, trace_id=TRACE_ID)

    error = body["error"]
    assert isinstance(error, dict)
    assert error["error_type"] == error_type.value
    assert body == error_body(dialect, None, trace_id=TRACE_ID, error_type=error_type)
    if dialect is Dialect.MESSAGES:
        assert body["type"] == "error"
        assert set(error) == {"type", "message", "error_type", "trace_id"}
        assert error["type"] in {
            "invalid_request_error",
            "authentication_error",
            "permission_error",
            "not_found_error",
            "rate_limit_error",
            "api_error",
            "overloaded_error",
            "timeout_error",
        }
    else:
        assert set(body) == {"error"}
        assert set(error) == {
            "type", "message", "param", "code", "error_type", "trace_id"
        }  # fmt: skip
    for text in (FINGERPRINT, "PermissionError", "KeyError"):
        assert text not in json.dumps(body)
        assert text.encode() not in error_frame(dialect, failure, trace_id=TRACE_ID)


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("error_type", ErrorType)
def test_the_scanner_sees_our_own_frames(
    error_type: ErrorType, dialect: Dialect
) -> None:
    """A frame that a proxy in front of us wrote is an error frame to our scanner."""
    failure = failure_of(error_type, retryable=True)
    error = error_body(dialect, failure, trace_id=None)["error"]
    assert isinstance(error, dict)
    scanner = SseScanner(dialect)

    scanner.feed(error_frame(dialect, failure, trace_id=None))

    assert scanner.error == (error["type"], error.get("code"))
    assert scanner.chunks == 0
    assert "trace_id" not in error


def test_without_a_failure_the_body_is_unspecific() -> None:
    """No failure and no error type gives _OTHER, and nothing about retries."""
    error = error_body(Dialect.CHAT_COMPLETIONS, None, trace_id=None)["error"]

    assert isinstance(error, dict)
    assert error["error_type"] == "_OTHER"
    assert error_headers(None) == {}
