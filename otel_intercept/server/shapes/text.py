"""OpenAI (text) completions: one text and a finish reason."""

from collections.abc import Mapping

from otel_intercept.server.completion import Completion
from otel_intercept.server.json_values import JsonObject
from otel_intercept.server.shapes.chat import head, usage_of
from otel_intercept.server.shapes.chunk import read_chunk
from otel_intercept.server.shapes.encoder import DONE_EVENT, data_event


def text_body(completion: Completion) -> JsonObject:
    """Write a ``text_completion``; tool calls and reasoning have no place in it."""
    body = head(completion, "text_completion")
    body["choices"] = [_choice(completion.text, completion.finish_reason)]
    if completion.usage is not None:
        body["usage"] = usage_of(completion.usage)
    return body


class TextEncoder:
    """Turns chat chunks into text chunks; everything else passes as it is."""

    __slots__ = ()

    def encode(self, chunk: Mapping[str, object]) -> bytes:
        """Write the chunk."""
        if chunk.get("object") != "chat.completion.chunk":
            return data_event(chunk)
        delta = read_chunk(chunk)
        body = {**chunk, "object": "text_completion", "choices": []}
        if chunk.get("choices"):
            body["choices"] = [_choice(delta.text, delta.finish_reason)]
        return data_event(body)

    def end(self, *, failed: bool = False) -> bytes:
        """Write ``[DONE]``."""
        return DONE_EVENT


def _choice(text: str, finish_reason: str | None) -> JsonObject:
    if finish_reason in {"tool_calls", "function_call"}:
        # The dialect knows no tools, and so no such reason.
        finish_reason = "stop"
    return {
        "text": text,
        "index": 0,
        "logprobs": None,
        "finish_reason": finish_reason,
    }
