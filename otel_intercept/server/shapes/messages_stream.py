"""Anthropic messages as a stream: content blocks that start, grow and stop."""

from collections.abc import Mapping
from typing import Final

from otel_intercept.server.json_values import JsonObject
from otel_intercept.server.shapes.chunk import Delta, ToolDelta, read_chunk
from otel_intercept.server.shapes.encoder import named_event
from otel_intercept.server.shapes.messages import (
    stop_reason_of,
    thinking_block,
    usage_of,
)

_STOP: Final = "message_stop"


class MessagesEncoder:
    """Turns chat chunks into Anthropic events; native events pass as they are.

    Blocks follow one another as the provider's do. A piece of a tool call whose block
    has stopped still goes to that block, where SDKs add it up.

    Args:
        model: What to call the model until a chunk names it.
    """

    __slots__ = (
        "_blocks",
        "_finish_reason",
        "_model",
        "_open",
        "_started",
        "_stopped",
        "_tools",
        "_usage",
    )

    def __init__(self, model: str) -> None:
        self._model = model
        self._started = False
        self._stopped = False
        self._blocks = 0
        self._open: str | None = None
        self._tools: dict[int, int] = {}
        self._finish_reason: str | None = None
        self._usage = usage_of(None)

    def encode(self, chunk: Mapping[str, object]) -> bytes:
        """Write the events of one chunk."""
        kind = chunk.get("type")
        if isinstance(kind, str):
            self._stopped = self._stopped or kind == _STOP
            return named_event(kind, chunk)
        if chunk.get("error"):
            return named_event("error", {"type": "error", "error": chunk["error"]})
        delta = read_chunk(chunk)
        events = [] if self._started else [self._start(delta)]
        if delta.reasoning:
            events += self._grow("thinking", "thinking_delta", delta.reasoning)
        if delta.text:
            events += self._grow("text", "text_delta", delta.text)
        for tool in delta.tools:
            events += self._grow_tool(tool)
        self._finish_reason = delta.finish_reason or self._finish_reason
        if delta.usage is not None:
            self._usage = usage_of(delta.usage)
        return b"".join(events)

    def end(self, *, failed: bool = False) -> bytes:
        """Write ``message_stop`` after what is open; nothing after a native one."""
        if self._stopped:
            return b""
        self._stopped = True
        events = []
        if self._started and not failed:
            events += self._close()
            delta = {
                "stop_reason": stop_reason_of(self._finish_reason),
                "stop_sequence": None,
            }
            events.append(_event("message_delta", delta=delta, usage=self._usage))
        events.append(_event(_STOP))
        return b"".join(events)

    def _start(self, delta: Delta) -> bytes:
        self._started = True
        message: JsonObject = {
            "id": delta.stream_id,
            "type": "message",
            "role": "assistant",
            "model": delta.model or self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage_of(None),
        }
        return _event("message_start", message=message)

    def _grow(self, kind: str, delta_type: str, added: str) -> list[bytes]:
        events = []
        if self._open != kind:
            block = thinking_block("") if kind == "thinking" else _text_block()
            events += self._begin(kind, block)
        delta = {"type": delta_type, kind: added}
        events.append(_delta(self._blocks - 1, delta))
        return events

    def _grow_tool(self, tool: ToolDelta) -> list[bytes]:
        events = []
        if tool.index not in self._tools:
            self._tools[tool.index] = self._blocks
            block: JsonObject = {
                "type": "tool_use",
                "id": tool.call_id,
                "name": tool.name,
                "input": {},
            }
            events += self._begin("tool_use", block)
        if tool.arguments:
            delta = {"type": "input_json_delta", "partial_json": tool.arguments}
            events.append(_delta(self._tools[tool.index], delta))
        return events

    def _begin(self, kind: str, block: JsonObject) -> list[bytes]:
        events = self._close()
        self._open = kind
        index = self._blocks
        self._blocks += 1
        start = _event("content_block_start", index=index, content_block=block)
        return [*events, start]

    def _close(self) -> list[bytes]:
        if self._open is None:
            return []
        self._open = None
        return [_event("content_block_stop", index=self._blocks - 1)]


def _event(kind: str, **fields: object) -> bytes:
    return named_event(kind, {"type": kind, **fields})


def _delta(index: int, delta: Mapping[str, object]) -> bytes:
    return _event("content_block_delta", index=index, delta=delta)


def _text_block() -> JsonObject:
    return {"type": "text", "text": ""}
