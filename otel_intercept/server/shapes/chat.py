"""OpenAI chat completions: the neutral shape, so its chunks pass as they are."""

from collections.abc import Mapping

from otel_intercept.server.completion import Completion, Usage
from otel_intercept.server.json_values import JsonObject
from otel_intercept.server.shapes.encoder import DONE_EVENT, data_event


def chat_body(completion: Completion) -> JsonObject:
    """Write a ``chat.completion``."""
    message: JsonObject = {"role": "assistant", "content": completion.text}
    if completion.tool_calls:
        message["tool_calls"] = tool_calls(completion)
    if completion.reasoning is not None:
        message["reasoning_content"] = completion.reasoning
    choice: JsonObject = {
        "index": 0,
        "message": message,
        "finish_reason": completion.finish_reason,
    }
    body = head(completion, "chat.completion")
    body["choices"] = [choice]
    if completion.usage is not None:
        body["usage"] = usage_of(completion.usage)
    return body


def chat_chunks(completion: Completion, *, usage: bool) -> tuple[JsonObject, ...]:
    """Cut a whole answer into the two chunks of a synthetic stream.

    Args:
        completion: The answer.
        usage: Whether the last chunk carries the token counts.
    """
    delta: JsonObject = {"role": "assistant", "content": completion.text or None}
    if completion.tool_calls:
        delta["tool_calls"] = [
            {"index": index, **call}
            for index, call in enumerate(tool_calls(completion))
        ]
    if completion.reasoning is not None:
        delta["reasoning_content"] = completion.reasoning
    first = head(completion, "chat.completion.chunk")
    first["choices"] = [{"index": 0, "delta": delta, "finish_reason": None}]
    last = head(completion, "chat.completion.chunk")
    reason = completion.finish_reason
    last["choices"] = [{"index": 0, "delta": {}, "finish_reason": reason}]
    if usage and completion.usage is not None:
        last["usage"] = usage_of(completion.usage)
    return first, last


def head(completion: Completion, kind: str) -> JsonObject:
    """Write the fields that bodies and chunks of both OpenAI completions share."""
    return {
        "id": completion.completion_id,
        "object": kind,
        "created": completion.created,
        "model": completion.model,
    }


def tool_calls(completion: Completion) -> list[JsonObject]:
    """Write the tool calls of a message."""
    return [
        {
            "id": call.call_id,
            "type": "function",
            "function": {"name": call.name, "arguments": call.arguments},
        }
        for call in completion.tool_calls
    ]


def usage_of(usage: Usage) -> JsonObject:
    """Write the token counts of both OpenAI completions."""
    counts: JsonObject = {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.reasoning_tokens is not None:
        # At the top too, where verifiers writes it and its agents look.
        counts["reasoning_tokens"] = usage.reasoning_tokens
        details = {"reasoning_tokens": usage.reasoning_tokens}
        counts["completion_tokens_details"] = details
    if usage.cached_tokens is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    return counts


class ChatEncoder:
    """Writes every chunk as it is."""

    __slots__ = ()

    def encode(self, chunk: Mapping[str, object]) -> bytes:
        """Write the chunk."""
        return data_event(chunk)

    def end(self, *, failed: bool = False) -> bytes:
        """Write ``[DONE]``."""
        return DONE_EVENT
