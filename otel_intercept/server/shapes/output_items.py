"""The output items of a Responses stream, each with the events of its life."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from otel_intercept.server.json_values import JsonObject
from otel_intercept.server.shapes.responses import (
    call_item,
    message_item,
    output_text,
    reasoning_item,
    summary_text,
)

Events: TypeAlias = list[tuple[str, JsonObject]]
"""Event types with their fields, still without type and sequence number."""


class OutputItem(Protocol):
    """One item that begins, grows and finishes."""

    def begin(self) -> Events:
        """Give the events that announce it."""
        ...

    def grow(self, added: str) -> Events:
        """Take in more text, and give the events that say so."""
        ...

    def finish(self) -> Events:
        """Give the events that complete it."""
        ...

    def item(self, status: str) -> JsonObject:
        """Give the whole item as it stands."""
        ...


class _WriteItem(Protocol):
    def __call__(self, item_id: str, text: str, *, status: str) -> JsonObject: ...


@dataclass(frozen=True, slots=True)
class TextKind:
    """How an item with one part of text is written.

    Args:
        prefix: How its id begins.
        part_index: The field that names the part.
        part_event: The stem of the events of its part.
        text_event: The stem of the events of its text.
        item: Writes the item.
        part: Writes the part.
        extra: Fields that the events of its text have besides.
    """

    prefix: str
    part_index: str
    part_event: str
    text_event: str
    item: _WriteItem
    part: Callable[[str], JsonObject]
    extra: tuple[str, ...] = ()


MESSAGE: Final = TextKind(
    prefix="msg",
    part_index="content_index",
    part_event="response.content_part",
    text_event="response.output_text",
    item=message_item,
    part=output_text,
    extra=("logprobs",),
)
REASONING: Final = TextKind(
    prefix="rs",
    part_index="summary_index",
    part_event="response.reasoning_summary_part",
    text_event="response.reasoning_summary_text",
    item=reasoning_item,
    part=summary_text,
)


class TextItem:
    """The visible text, or the reasoning as one part of a summary.

    Args:
        kind: Which of the two.
        item_id: Its id.
        output_index: Its place in the output.
    """

    __slots__ = ("_id", "_index", "_parts", "kind")

    def __init__(self, kind: TextKind, item_id: str, output_index: int) -> None:
        self.kind = kind
        self._id = item_id
        self._index = output_index
        self._parts: list[str] = []

    def begin(self) -> Events:
        """Announce the item and its part."""
        part = self._place() | {"part": self.kind.part("")}
        return [
            _added(self._index, self.item("in_progress")),
            (f"{self.kind.part_event}.added", part),
        ]

    def grow(self, added: str) -> Events:
        """Add text."""
        self._parts.append(added)
        return [(f"{self.kind.text_event}.delta", self._text("delta", added))]

    def finish(self) -> Events:
        """Complete text, part and item."""
        kind = self.kind
        text = "".join(self._parts)
        part = self._place() | {"part": kind.part(text)}
        return [
            (f"{kind.text_event}.done", self._text("text", text)),
            (f"{kind.part_event}.done", part),
            _done(self._index, self.item("completed")),
        ]

    def item(self, status: str) -> JsonObject:
        """Give the item."""
        return self.kind.item(self._id, "".join(self._parts), status=status)

    def _place(self) -> JsonObject:
        place: JsonObject = {"item_id": self._id, "output_index": self._index}
        return place | {self.kind.part_index: 0}

    def _text(self, name: str, text: str) -> JsonObject:
        return self._place() | {name: text} | {key: [] for key in self.kind.extra}


class CallItem:
    """A function call."""

    __slots__ = ("_id", "_index", "_name", "_parts")

    def __init__(self, call_id: str, output_index: int, name: str) -> None:
        self._id = call_id
        self._index = output_index
        self._name = name
        self._parts: list[str] = []

    def begin(self) -> Events:
        """Announce the call."""
        return [_added(self._index, self.item("in_progress"))]

    def grow(self, added: str) -> Events:
        """Add to the arguments."""
        if not added:
            return []
        self._parts.append(added)
        delta = self._place() | {"delta": added}
        return [("response.function_call_arguments.delta", delta)]

    def finish(self) -> Events:
        """Complete arguments and call."""
        whole = {"name": self._name, "arguments": "".join(self._parts)}
        return [
            ("response.function_call_arguments.done", self._place() | whole),
            _done(self._index, self.item("completed")),
        ]

    def item(self, status: str) -> JsonObject:
        """Give the call."""
        return call_item(self._id, self._name, "".join(self._parts), status=status)

    def _place(self) -> JsonObject:
        return {"item_id": self._id, "output_index": self._index}


def _added(index: int, item: JsonObject) -> tuple[str, JsonObject]:
    return "response.output_item.added", {"output_index": index, "item": item}


def _done(index: int, item: JsonObject) -> tuple[str, JsonObject]:
    return "response.output_item.done", {"output_index": index, "item": item}
