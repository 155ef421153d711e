"""OpenAI responses as a stream: numbered events around output items that grow."""

import secrets
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from otel_intercept.server.json_values import JsonObject, count, field
from otel_intercept.server.shapes.chunk import Delta, read_chunk
from otel_intercept.server.shapes.encoder import named_event
from otel_intercept.server.shapes.output_items import (
    MESSAGE,
    REASONING,
    CallItem,
    OutputItem,
    TextItem,
    TextKind,
)
from otel_intercept.server.shapes.responses import incomplete_reason, response_object

if TYPE_CHECKING:
    from otel_intercept.server.completion import Usage

_COMPLETED: Final = "response.completed"
_INCOMPLETE: Final = "response.incomplete"
_TERMINALS: Final = frozenset({_COMPLETED, _INCOMPLETE, "response.failed"})


class ResponsesEncoder:
    """Turns chat chunks into Responses events; native events pass as they are.

    Text and reasoning are done when something else begins. Function calls grow side by
    side until the end, because chunks may come back to an earlier one.

    Args:
        model: What to call the model until a chunk names it.
    """

    __slots__ = (
        "_created",
        "_current",
        "_ended",
        "_finish_reason",
        "_id",
        "_items",
        "_model",
        "_native",
        "_native_output",
        "_number",
        "_started",
        "_tools",
        "_usage",
    )

    def __init__(self, model: str) -> None:
        self._id = f"resp_{secrets.token_hex(12)}"
        self._created = int(time.time())
        self._model = model
        self._number = 0
        self._started = False
        self._ended = False
        self._items: list[OutputItem] = []
        self._current: TextItem | None = None
        self._tools: dict[int, CallItem] = {}
        self._finish_reason: str | None = None
        self._usage: Usage | None = None
        self._native: JsonObject | None = None
        self._native_output: dict[int, object] = {}

    def encode(self, chunk: Mapping[str, object]) -> bytes:
        """Write the events of one chunk."""
        kind = chunk.get("type")
        if isinstance(kind, str):
            self._note_native(kind, chunk)
            return named_event(kind, chunk)
        if chunk.get("error"):
            return self._event("error", {"error": chunk["error"]})
        delta = read_chunk(chunk)
        events = [] if self._started else [self._start(delta)]
        if delta.reasoning:
            events.append(self._grow(REASONING, delta.reasoning))
        if delta.text:
            events.append(self._grow(MESSAGE, delta.text))
        for tool in delta.tools:
            call = self._tools.get(tool.index)
            if call is None:
                call = CallItem(tool.call_id, len(self._items), tool.name)
                self._tools[tool.index] = call
                events.append(self._finish_current() + self._add(call))
            events.append(self._write(call.grow(tool.arguments)))
        self._finish_reason = delta.finish_reason or self._finish_reason
        self._usage = delta.usage or self._usage
        return b"".join(events)

    def end(self, *, failed: bool = False) -> bytes:
        """Write the terminal event with the whole response; nothing after a native one.

        It is ``response.incomplete`` where the finish reason says so.
        """
        if self._ended:
            return b""
        self._ended = True
        events = b""
        if not failed:
            events = self._finish_current()
            for call in self._tools.values():
                events += self._write(call.finish())
        cut_short = not failed and incomplete_reason(self._finish_reason) is not None
        kind = _INCOMPLETE if cut_short else _COMPLETED
        status = "failed" if failed else kind.removeprefix("response.")
        return events + self._event(kind, {"response": self._response(status)})

    def _note_native(self, kind: str, event: Mapping[str, object]) -> None:
        self._ended = self._ended or kind in _TERMINALS
        number = count(event.get("sequence_number"))
        self._number = self._number if number is None else number + 1
        response = event.get("response")
        if isinstance(response, Mapping):
            self._native = dict(response)
        if kind == "response.output_item.done":
            place = count(event.get("output_index"))
            index = len(self._native_output) if place is None else place
            self._native_output[index] = field(event, "item")

    def _start(self, delta: Delta) -> bytes:
        self._started = True
        self._id = delta.stream_id or self._id
        self._created = self._created if delta.created is None else delta.created
        self._model = delta.model or self._model
        fields = {"response": self._response("in_progress")}
        created = self._event("response.created", fields)
        return created + self._event("response.in_progress", fields)

    def _grow(self, kind: TextKind, added: str) -> bytes:
        events = b""
        item = self._current
        if item is None or item.kind is not kind:
            events = self._finish_current()
            # The first item of a kind is called as in a whole body.
            earlier = sum(
                isinstance(i, TextItem) and i.kind is kind for i in self._items
            )
            item_id = f"{kind.prefix}_{self._id}" + (f"_{earlier}" if earlier else "")
            item = self._current = TextItem(kind, item_id, len(self._items))
            events += self._add(item)
        return events + self._write(item.grow(added))

    def _add(self, item: OutputItem) -> bytes:
        self._items.append(item)
        return self._write(item.begin())

    def _finish_current(self) -> bytes:
        item, self._current = self._current, None
        return b"" if item is None else self._write(item.finish())

    def _write(self, events: list[tuple[str, JsonObject]]) -> bytes:
        return b"".join(self._event(kind, fields) for kind, fields in events)

    def _event(self, kind: str, fields: Mapping[str, object]) -> bytes:
        number = self._number
        self._number += 1
        return named_event(kind, {"type": kind, "sequence_number": number, **fields})

    def _response(self, status: str) -> JsonObject:
        if self._native is not None:
            output = [item for _, item in sorted(self._native_output.items())]
            return {**self._native, "status": status, "output": output}
        return response_object(
            self._id,
            created=self._created,
            model=self._model,
            status=status,
            output=[item.item("completed") for item in self._items],
            finish_reason=self._finish_reason,
            usage=self._usage,
        )
