"""Anthropic messages: an answer as a list of content blocks."""

import json
from typing import Final

from otel_intercept.server.completion import Completion, ToolCall, Usage
from otel_intercept.server.json_values import JsonObject

_STOP_OF_FINISH: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def messages_body(completion: Completion) -> JsonObject:
    """Write a ``message``."""
    finish_reason = completion.finish_reason
    if finish_reason in (None, "stop"):
        finish_reason = "tool_calls" if completion.tool_calls else "stop"
    return {
        "id": completion.completion_id,
        "type": "message",
        "role": "assistant",
        "model": completion.model,
        "content": _content(completion),
        "stop_reason": stop_reason_of(finish_reason),
        "stop_sequence": None,
        "usage": usage_of(completion.usage),
    }


def stop_reason_of(finish_reason: str | None) -> str | None:
    """Translate a finish reason; an unknown one counts as the end of the turn."""
    if finish_reason is None:
        return None
    return _STOP_OF_FINISH.get(finish_reason, "end_turn")


def usage_of(usage: Usage | None) -> JsonObject:
    """Write token counts; SDKs read them unasked, so the unknown is 0."""
    if usage is None:
        return {"input_tokens": 0, "output_tokens": 0}
    counts: JsonObject = {
        "input_tokens": usage.input_tokens - (usage.cached_tokens or 0),
        "output_tokens": usage.output_tokens,
    }
    if usage.cached_tokens is not None:
        counts["cache_read_input_tokens"] = usage.cached_tokens
    return counts


def thinking_block(text: str) -> JsonObject:
    """Write reasoning that came without a signature."""
    return {"type": "thinking", "thinking": text, "signature": ""}


def _content(completion: Completion) -> list[JsonObject]:
    blocks = list(completion.thinking)
    if completion.reasoning and not blocks:
        blocks.append(thinking_block(completion.reasoning))
    if completion.text or not completion.tool_calls:
        blocks.append({"type": "text", "text": completion.text})
    blocks.extend(
        {
            "type": "tool_use",
            "id": call.call_id,
            "name": call.name,
            "input": _input_of(call),
        }
        for call in completion.tool_calls
    )
    return blocks


def _input_of(call: ToolCall) -> JsonObject:
    try:
        value: object = json.loads(call.arguments or "{}")
    except ValueError:
        value = None
    # The dialect demands an object; what the model wrote must still reach the agent.
    return value if isinstance(value, dict) else {"arguments": call.arguments}
