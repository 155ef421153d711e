"""OpenAI responses: an answer as a list of output items."""

from collections.abc import Sequence

from otel_intercept.server.completion import Completion, Usage
from otel_intercept.server.json_values import JsonObject


def responses_body(completion: Completion) -> JsonObject:
    """Write a ``response``; output items that came as such pass unchanged."""
    cut_short = incomplete_reason(completion.finish_reason) is not None
    output = _output(completion) if completion.output is None else completion.output
    return response_object(
        completion.completion_id,
        created=completion.created,
        model=completion.model,
        status="incomplete" if cut_short else "completed",
        output=output,
        finish_reason=completion.finish_reason,
        usage=completion.usage,
    )


def response_object(
    response_id: str,
    *,
    created: int,
    model: str,
    status: str,
    output: Sequence[JsonObject] = (),
    finish_reason: str | None = None,
    usage: Usage | None = None,
) -> JsonObject:
    """Write the object that is the whole body, and part of a stream's events."""
    reason = incomplete_reason(finish_reason)
    return {
        "id": response_id,
        "object": "response",
        "created_at": float(created),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": model,
        "output": list(output),
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None if usage is None else _usage_of(usage),
    }


def incomplete_reason(finish_reason: str | None) -> str | None:
    """Tell why a response is incomplete, or None where it is complete."""
    reasons = {"length": "max_output_tokens", "content_filter": "content_filter"}
    return reasons.get(finish_reason or "")


def message_item(item_id: str, text: str, *, status: str) -> JsonObject:
    """Write a message; one that is in progress has no content yet."""
    content = [output_text(text)] if status == "completed" else []
    return {
        "id": item_id,
        "type": "message",
        "role": "assistant",
        "status": status,
        "content": content,
    }


def output_text(text: str) -> JsonObject:
    """Write the content part that holds the visible text."""
    return {"type": "output_text", "text": text, "annotations": []}


def summary_text(text: str) -> JsonObject:
    """Write the part of a reasoning item that holds its text."""
    return {"type": "summary_text", "text": text}


def reasoning_item(item_id: str, text: str, *, status: str) -> JsonObject:
    """Write a reasoning item."""
    summary = [summary_text(text)] if text else []
    return {"id": item_id, "type": "reasoning", "summary": summary, "status": status}


def call_item(call_id: str, name: str, arguments: str, *, status: str) -> JsonObject:
    """Write a function call."""
    return {
        "id": call_id,
        "type": "function_call",
        "call_id": call_id,
        "name": name,
        "arguments": arguments,
        "status": status,
    }


def _output(completion: Completion) -> list[JsonObject]:
    own_id = completion.completion_id
    done = "completed"
    output: list[JsonObject] = []
    if completion.reasoning is not None or completion.thinking:
        reasoning = completion.reasoning or ""
        output.append(reasoning_item(f"rs_{own_id}", reasoning, status=done))
    if completion.text:
        output.append(message_item(f"msg_{own_id}", completion.text, status=done))
    output.extend(
        call_item(call.call_id, call.name, call.arguments, status=done)
        for call in completion.tool_calls
    )
    return output


def _usage_of(usage: Usage) -> JsonObject:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens or 0,
            "cache_write_tokens": 0,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens or 0},
        "total_tokens": usage.total_tokens,
    }
