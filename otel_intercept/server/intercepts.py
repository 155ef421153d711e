"""What a consumer works with: intercepted requests, and how it answers them."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias, TypedDict

from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Dialect
from otel_intercept.server.completion import read_completion
from otel_intercept.server.json_values import JsonObject
from otel_intercept.server.shapes.chat import chat_chunks

Protocol: TypeAlias = Literal[
    "anthropic_messages",
    "openai_responses",
    "openai_completions",
    "openai_chat_completions",
]

PROTOCOLS: Final[Mapping[Dialect, Protocol]] = {
    Dialect.MESSAGES: "anthropic_messages",
    Dialect.RESPONSES: "openai_responses",
    Dialect.COMPLETIONS: "openai_completions",
    Dialect.CHAT_COMPLETIONS: "openai_chat_completions",
}

ChunkQueue: TypeAlias = asyncio.Queue[Mapping[str, object] | None]
ToolHandler: TypeAlias = Callable[[str, JsonObject], object]
UserHandler: TypeAlias = Callable[[list[object]], object]
StopHandler: TypeAlias = Callable[[], object]
ModelHandler: TypeAlias = Callable[[list[object], object], object]


class Intercept(TypedDict):
    """One intercepted request, as a consumer finds it in ``server.intercepts``.

    ``protocol`` is the dialect's name, as verifiers spells it. ``chunk_queue`` is None
    unless the agent asked for a stream; it takes chat chunks or native events, and None
    at the end. ``headers`` are lower-case and without the credential.
    """

    request_id: str
    rollout_id: str
    protocol: Protocol
    messages: object
    prompt: object
    input: object
    system: object
    model: object
    tools: object
    stream: object
    chunk_queue: ChunkQueue | None
    response_future: asyncio.Future[object]
    headers: dict[str, str]


class Registration(TypedDict):
    """One registered rollout, as found in ``server.active_rollouts``.

    ``owned`` tells whether registering opened the rollout. ``requests`` are the ids of
    its intercepts.
    """

    request_id_queue: asyncio.Queue[str]
    state: object
    tool_handler: ToolHandler | None
    tool_defs: object
    user_handler: UserHandler | None
    stop_handler: StopHandler | None
    model_handler: ModelHandler | None
    rollout: Rollout
    owned: bool
    requests: set[str]


def deliver_response(
    intercept: Mapping[str, object],
    response: object,
    error: BaseException | None = None,
) -> None:
    """Answer a request: with an error if there is one, else with the response.

    Does nothing when the request has been answered or cancelled. Without a response
    and an error the request stays open.

    Args:
        intercept: Which request.
        response: A verifiers ``Response``, or a body of any dialect as object or dict.
        error: What the model call raised. The agent and telemetry get its class only.
    """
    if error is not None or response is not None:
        _settle(intercept, response, error)


async def synthesize_stream(
    intercept: Mapping[str, object],
    response: object,
    error: BaseException | None = None,
) -> None:
    """Answer a streaming request with a response that came in one piece.

    Without a response, or with an error, the stream ends at once and the future gets
    the error, or None. Never suspends.

    Args:
        intercept: Which request.
        response: As for `deliver_response`.
        error: What the model call raised.

    Raises:
        RuntimeError: The agent did not ask for a stream.
        TypeError: The response has no known shape; the request fails with this error.
    """
    chunk_queue = intercept.get("chunk_queue")
    if error is not None or response is None:
        if isinstance(chunk_queue, asyncio.Queue):
            chunk_queue.put_nowait(None)
        _settle(intercept, None, error)
        return
    if not isinstance(chunk_queue, asyncio.Queue):
        raise RuntimeError(  # noqa: TRY004 - a mistake in time, not in type
            "the agent did not ask for a stream: use deliver_response"
        )
    completion = read_completion(response)
    if completion is None:
        unreadable = TypeError("the response has no known shape")
        await synthesize_stream(intercept, None, unreadable)
        raise unreadable
    # Chat agents expect token counts only where they asked for them.
    usage = intercept.get("protocol") in {"anthropic_messages", "openai_responses"}
    for chunk in chat_chunks(completion, usage=usage):
        chunk_queue.put_nowait(chunk)
    chunk_queue.put_nowait(None)
    deliver_response(intercept, response)


def _settle(
    intercept: Mapping[str, object], response: object, error: BaseException | None
) -> None:
    future = intercept.get("response_future")
    if not isinstance(future, asyncio.Future) or future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(response)
