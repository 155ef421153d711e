"""One model answer, read from whatever shape a consumer delivers it in.

Consumers hand over what their own client returned: a verifiers ``Response``, or a body
of one of the four dialects, as SDK object or as dict. They are told apart by their
fields, so no SDK has to be imported.
"""

import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from otel_intercept.semconv import Dialect
from otel_intercept.server.json_values import (
    JsonObject,
    count,
    field,
    items,
    jsonable,
    text,
)

_RAW_OUTPUT: Final = "openai_responses_output"
"""Where verifiers keeps the output items of a Responses call as they came."""

_FINISH_OF_STOP: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call; ``arguments`` is JSON text, as the model wrote it."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts. ``input_tokens`` includes ``cached_tokens``, as OpenAI counts."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    reasoning_tokens: int | None = None
    cached_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """What every dialect can say of an answer.

    Args:
        completion_id: The upstream's id of the answer.
        created: Unix seconds.
        model: The model that answered.
        text: The visible text; empty without one.
        finish_reason: In the words of chat completions, or None when unknown.
        tool_calls: In the order of the model.
        reasoning: The reasoning as plain text, or None.
        thinking: Anthropic thinking blocks, which only that dialect passes on.
        usage: Token counts, or None when unknown.
        output: Output items of the Responses dialect as they came, or None.
    """

    completion_id: str
    created: int
    model: str
    text: str
    finish_reason: str | None
    tool_calls: tuple[ToolCall, ...] = ()
    reasoning: str | None = None
    thinking: tuple[JsonObject, ...] = ()
    usage: Usage | None = None
    output: tuple[JsonObject, ...] | None = None


def dialect_of_body(source: object) -> Dialect | None:
    """Tell which dialect a response body is in; None when it is in none of them."""
    choices = field(source, "choices")
    if isinstance(choices, list | tuple):
        texts = any(isinstance(field(choice, "text"), str) for choice in choices)
        if texts or field(source, "object") == "text_completion":
            return Dialect.COMPLETIONS
        return Dialect.CHAT_COMPLETIONS
    if field(source, "type") == "message" and _is_list(field(source, "content")):
        return Dialect.MESSAGES
    if field(source, "object") == "response" and _is_list(field(source, "output")):
        return Dialect.RESPONSES
    return None


def read_completion(source: object) -> Completion | None:
    """Read an answer; None when its shape is unknown.

    Only the first choice is read. Values of a wrong type count as absent.
    """
    dialect = dialect_of_body(source)
    if dialect is not None:
        return _READERS[dialect](source)
    message = field(source, "message")
    if message is None or isinstance(message, str):
        return None
    return _read_message(source, message, field(message, "finish_reason"))


def read_usage(source: object) -> Usage | None:
    """Read a usage object of any dialect; None without token counts."""
    usage = field(source, "usage")
    cached = _detail(usage, ("prompt_tokens_details", "input_tokens_details"), "cached")
    read = count(field(usage, "cache_read_input_tokens"))
    written = count(field(usage, "cache_creation_input_tokens")) or 0
    prompt = count(field(usage, "prompt_tokens"))
    if prompt is None:
        prompt = count(field(usage, "input_tokens"))
        if prompt is not None and cached is None:
            # Anthropic counts what the cache read and wrote beside the input.
            prompt += (read or 0) + written
            cached = read
    completion = _first_count(usage, "completion_tokens", "output_tokens")
    if prompt is None and completion is None:
        return None
    prompt, completion = prompt or 0, completion or 0
    reasoning = count(field(usage, "reasoning_tokens"))
    if reasoning is None:
        details = ("completion_tokens_details", "output_tokens_details")
        reasoning = _detail(usage, details, "reasoning")
    total = count(field(usage, "total_tokens"))
    if total is None:
        total = prompt + completion
    return Usage(prompt, completion, total, reasoning, cached)


def joined_text(content: object) -> str:
    """Give the text of a message's content: a string, or a list of parts."""
    if isinstance(content, str):
        return content
    return "".join(text(field(part, "text")) for part in items(content))


def _read_chat(source: object) -> Completion:
    choice = next(iter(items(field(source, "choices"))), None)
    message = field(choice, "message")
    return _read_message(source, message, field(choice, "finish_reason"))


def _read_message(source: object, message: object, finish_reason: object) -> Completion:
    reasoning = field(message, "reasoning_content")
    if reasoning is None:
        reasoning = field(message, "reasoning")
    output = field(message, _RAW_OUTPUT)
    return _completion(
        source,
        created=field(source, "created"),
        visible=joined_text(field(message, "content")),
        finish_reason=finish_reason,
        tool_calls=map(_read_tool_call, items(field(message, "tool_calls"))),
        reasoning=reasoning if isinstance(reasoning, str) else None,
        thinking=_objects(field(message, "thinking_blocks")),
        output=_objects(output) if _is_list(output) else None,
    )


def _read_text_completion(source: object) -> Completion:
    choice = next(iter(items(field(source, "choices"))), None)
    return _completion(
        source,
        created=field(source, "created"),
        visible=text(field(choice, "text")),
        finish_reason=field(choice, "finish_reason"),
    )


def _read_anthropic(source: object) -> Completion:
    blocks = items(field(source, "content"))
    thinking = [block for block in blocks if field(block, "type") in _THINKING]
    said = "".join(text(field(block, "thinking")) for block in thinking)
    stop_reason = text(field(source, "stop_reason"))
    return _completion(
        source,
        created=None,
        visible=joined_text([b for b in blocks if field(b, "type") == "text"]),
        finish_reason=_FINISH_OF_STOP.get(stop_reason),
        tool_calls=(
            ToolCall(
                text(field(block, "id")),
                text(field(block, "name")),
                _json_text(field(block, "input")),
            )
            for block in blocks
            if field(block, "type") == "tool_use"
        ),
        reasoning=said or None,
        thinking=_objects(thinking),
    )


def _read_responses(source: object) -> Completion:
    output = items(field(source, "output"))
    calls = [
        ToolCall(
            text(field(item, "call_id")),
            text(field(item, "name")),
            _json_text(field(item, "arguments")),
        )
        for item in output
        if field(item, "type") == "function_call"
    ]
    messages = [item for item in output if field(item, "type") == "message"]
    reasoning = [item for item in output if field(item, "type") == "reasoning"]
    return _completion(
        source,
        created=field(source, "created_at"),
        visible="".join(joined_text(field(item, "content")) for item in messages),
        finish_reason=_finish_of_response(source, calls),
        tool_calls=calls,
        reasoning="".join(joined_text(field(i, "summary")) for i in reasoning) or None,
    )


_THINKING: Final = ("thinking", "redacted_thinking")
_READERS: Final[Mapping[Dialect, Callable[[object], Completion]]] = {
    Dialect.CHAT_COMPLETIONS: _read_chat,
    Dialect.COMPLETIONS: _read_text_completion,
    Dialect.MESSAGES: _read_anthropic,
    Dialect.RESPONSES: _read_responses,
}


def _completion(
    source: object,
    *,
    created: object,
    visible: str,
    finish_reason: object,
    tool_calls: Iterable[ToolCall] = (),
    reasoning: str | None = None,
    thinking: tuple[JsonObject, ...] = (),
    output: tuple[JsonObject, ...] | None = None,
) -> Completion:
    seconds = created if isinstance(created, int | float) else time.time()
    return Completion(
        completion_id=text(field(source, "id")) or f"gen_{secrets.token_hex(12)}",
        created=int(seconds),
        model=text(field(source, "model")),
        text=visible,
        finish_reason=finish_reason if isinstance(finish_reason, str) else None,
        tool_calls=tuple(tool_calls),
        reasoning=reasoning,
        thinking=thinking,
        usage=read_usage(source),
        output=output,
    )


def _read_tool_call(call: object) -> ToolCall:
    function = field(call, "function") or call
    return ToolCall(
        text(field(call, "id")),
        text(field(function, "name")),
        _json_text(field(function, "arguments")),
    )


def _finish_of_response(source: object, calls: list[ToolCall]) -> str:
    if field(source, "status") == "incomplete":
        why = field(field(source, "incomplete_details"), "reason")
        return "content_filter" if why == "content_filter" else "length"
    return "tool_calls" if calls else "stop"


def _json_text(value: object) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(jsonable(value))


def _objects(value: object) -> tuple[JsonObject, ...]:
    copies = (jsonable(member) for member in items(value))
    return tuple(copy for copy in copies if isinstance(copy, dict))


def _first_count(source: object, *names: str) -> int | None:
    counts = (count(field(source, name)) for name in names)
    return next((found for found in counts if found is not None), None)


def _detail(usage: object, places: tuple[str, str], kind: str) -> int | None:
    counts = (count(field(field(usage, place), f"{kind}_tokens")) for place in places)
    return next((found for found in counts if found is not None), None)


def _is_list(value: object) -> bool:
    return isinstance(value, list | tuple)
