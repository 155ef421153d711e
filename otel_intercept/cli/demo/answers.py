"""The scripted answers: whole bodies and event streams of the four dialects."""

import json
from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias

from otel_intercept.semconv import Dialect

Json: TypeAlias = dict[str, object]

MODEL: Final = "scripted-1"
"""The model's name says that there is no model."""

TOOL: Final = "add"
TOOL_ARGUMENTS: Final = {"a": 20, "b": 22}

DONE: Final = b"data: [DONE]\n\n"
"""Ends the streams of chat completions and completions."""

_TEXT: Final = "This answer is scripted: there is no model behind it."
_ID: Final = "scripted"
_CREATED: Final = 0
_PROMPT_TOKENS: Final = 12
_CALL_ID: Final = "call_scripted"


def whole(dialect: Dialect, *, tool: bool) -> Json:
    """Return the JSON body of a good answer.

    Args:
        dialect: Whose shape it has.
        tool: Whether the answer is a call of the agent's tool instead of text.
    """
    match dialect:
        case Dialect.MESSAGES:
            return _message(tool=tool)
        case Dialect.RESPONSES:
            return _response(tool=tool)
        case Dialect.COMPLETIONS:
            return _completion(_TEXT, "stop") | {"usage": _usage()}
        case _:
            return _chat(tool=tool)


def events(dialect: Dialect) -> Iterator[bytes]:
    """Yield the events of a good stream as on the wire, the terminal one last."""
    match dialect:
        case Dialect.MESSAGES:
            yield from map(_named, _message_events())
        case Dialect.RESPONSES:
            yield from map(_named, _response_events())
        case Dialect.COMPLETIONS:
            for word in _words():
                yield _data(_completion(word, None))
            yield _data(_completion("", "stop"))
            yield DONE
        case _:
            for delta, reason in _chat_deltas():
                yield _data(_chunk(delta, reason))
            yield DONE


def error(dialect: Dialect, *, kind: str, code: str | None, message: str) -> Json:
    """Return an error body in the provider's shape."""
    fields: Json = {"type": kind, "message": message}
    if dialect is Dialect.MESSAGES:
        return {"type": "error", "error": fields}
    return {"error": fields | {"param": None, "code": code}}


def error_event(dialect: Dialect, *, kind: str, message: str) -> bytes:
    """Return an error frame, as providers put it into a stream that began with 200."""
    body = error(dialect, kind=kind, code=None, message=message)
    if dialect in {Dialect.MESSAGES, Dialect.RESPONSES}:
        return _named({"type": "error"} | body)
    return _data(body)


def _usage() -> Json:
    words = len(_words())
    return {
        "prompt_tokens": _PROMPT_TOKENS,
        "completion_tokens": words,
        "total_tokens": _PROMPT_TOKENS + words,
    }


def _words() -> list[str]:
    return [f"{word} " for word in _TEXT.split()]


def _arguments() -> str:
    return json.dumps(TOOL_ARGUMENTS)


def _chat(*, tool: bool) -> Json:
    message: Json = {"role": "assistant", "content": None if tool else _TEXT}
    if tool:
        message["tool_calls"] = [_tool_call()]
    choice = {
        "index": 0,
        "message": message,
        "finish_reason": "tool_calls" if tool else "stop",
    }
    return _frame("chat.completion", choice) | {"usage": _usage()}


def _tool_call() -> Json:
    return {
        "id": _CALL_ID,
        "type": "function",
        "function": {"name": TOOL, "arguments": _arguments()},
    }


def _chat_deltas() -> Iterator[tuple[Json, str | None]]:
    yield {"role": "assistant", "content": ""}, None
    for word in _words():
        yield {"content": word}, None
    yield {}, "stop"


def _chunk(delta: Json, reason: str | None) -> Json:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return _frame("chat.completion.chunk", choice)


def _completion(text: str, reason: str | None) -> Json:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": reason}
    return _frame("text_completion", choice)


def _frame(kind: str, choice: Mapping[str, object]) -> Json:
    return {
        "id": _ID,
        "object": kind,
        "created": _CREATED,
        "model": MODEL,
        "choices": [choice],
    }


def _message(*, tool: bool) -> Json:
    return _message_head() | {
        "content": [_block(tool=tool)],
        "stop_reason": "tool_use" if tool else "end_turn",
        "usage": {
            "input_tokens": _PROMPT_TOKENS,
            "output_tokens": len(_words()),
        },
    }


def _message_head() -> Json:
    return {
        "id": _ID,
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": _PROMPT_TOKENS, "output_tokens": 0},
    }


def _block(*, tool: bool) -> Json:
    if tool:
        return {
            "type": "tool_use",
            "id": _CALL_ID,
            "name": TOOL,
            "input": TOOL_ARGUMENTS,
        }
    return {"type": "text", "text": _TEXT}


def _message_events() -> Iterator[Json]:
    yield {"type": "message_start", "message": _message_head()}
    block: Json = {"type": "text", "text": ""}
    yield {"type": "content_block_start", "index": 0, "content_block": block}
    for word in _words():
        delta = {"type": "text_delta", "text": word}
        yield {"type": "content_block_delta", "index": 0, "delta": delta}
    yield {"type": "content_block_stop", "index": 0}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn", "stop_sequence": None},
        "usage": {"output_tokens": len(_words())},
    }
    yield {"type": "message_stop"}


def _response(*, tool: bool) -> Json:
    words = len(_words())
    return {
        "id": _ID,
        "object": "response",
        "created_at": _CREATED,
        "status": "completed",
        "model": MODEL,
        "output": [_item(tool=tool)],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": {
            "input_tokens": _PROMPT_TOKENS,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": words,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": _PROMPT_TOKENS + words,
        },
    }


def _item(*, tool: bool) -> Json:
    if tool:
        return {
            "type": "function_call",
            "id": _ID,
            "call_id": _CALL_ID,
            "name": TOOL,
            "arguments": _arguments(),
            "status": "completed",
        }
    return {
        "type": "message",
        "id": _ID,
        "role": "assistant",
        "status": "completed",
        "content": [_part(_TEXT)],
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}


def _response_events() -> Iterator[Json]:
    created = _response(tool=False) | {"status": "in_progress", "output": []}
    item = _item(tool=False)
    begun = item | {"status": "in_progress", "content": []}
    at: Json = {"item_id": _ID, "output_index": 0, "content_index": 0}
    text = "response.output_text"
    bodies: list[Json] = [
        {"type": "response.created", "response": created},
        {"type": "response.output_item.added", "output_index": 0, "item": begun},
        at | {"type": "response.content_part.added", "part": _part("")},
    ]
    bodies += [
        *(
            at | {"type": f"{text}.delta", "delta": word, "logprobs": []}
            for word in _words()
        ),
        at | {"type": f"{text}.done", "text": _TEXT, "logprobs": []},
        at | {"type": "response.content_part.done", "part": _part(_TEXT)},
        {"type": "response.output_item.done", "output_index": 0, "item": item},
        {"type": "response.completed", "response": _response(tool=False)},
    ]
    for number, body in enumerate(bodies):
        yield body | {"sequence_number": number}


def _data(body: Mapping[str, object]) -> bytes:
    return f"data: {json.dumps(body)}\n\n".encode()


def _named(body: Mapping[str, object]) -> bytes:
    return f"event: {body['type']}\n".encode() + _data(body)
