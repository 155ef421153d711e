"""Scan an event stream as it is written: chunks, terminal event, error frame, usage.

Follows the WHATWG grammar for event streams, except that an event at the end of the
stream counts without its blank line. JSON is parsed only where a byte search says that
an event may be more than a chunk; nothing of a chunk is kept.
"""

import json
import re
from collections.abc import Mapping
from typing import Final, TypeAlias

import msgspec

from otel_intercept.dialect import (
    DONE,
    STREAM_GRAMMARS,
    ResponseFacts,
    error_words,
)
from otel_intercept.record import Attributes
from otel_intercept.semconv import Dialect

Written: TypeAlias = "bytes | bytearray | memoryview[int] | memoryview[bytes]"
"""What aiohttp writes."""

MAX_EVENT_BYTES: Final = 262_144
"""Data of one event beyond which it is judged by its beginning, not parsed."""

_BOM: Final = b"\xef\xbb\xbf"
_SLICE: Final = 65_536
_HEAD: Final = 256
_MAX_NAME: Final = 64
_SPARE: Final = 80
_LF: Final = 10
_CR: Final = 13
_COLON: Final = 58
_ONE_EVENT: Final = re.compile(rb"(?:event: (.*)\n)?data: (\{.*)\n\n")
_DONE_EVENT: Final = b"data: " + DONE + b"\n\n"
_SPECIAL_NAMES: Final = {
    dialect: grammar.special_names for dialect, grammar in STREAM_GRAMMARS.items()
}
_NULLS: Final = (b":null", b": null")
_HEAD_TYPE: Final = re.compile(rb'\s*\{\s*"type"\s*:\s*"([\w.]{1,64})"')
_decode: Final = msgspec.json.Decoder().decode
_HEAD_ERROR: Final = re.compile(rb'\s*\{\s*"error"\s*:\s*(?:\{\s*"|"[^"])')


class SseScanner:
    """An incremental scanner of one event stream, fed with what was written.

    How the bytes are cut into feeds makes no difference to the result. Pending data is
    bounded by ``max_event_bytes``, time is linear in the bytes. Not thread-safe.

    A chunk is an event with data that is no terminal event, ping or error frame. An
    event without data counts as nothing, unless its name says ping or error.

    Args:
        dialect: Decides which events are terminal, pings and errors.
        max_event_bytes: Data of one event that may be kept and parsed.

    Attributes:
        chunks: Chunks so far.
        idle: Whether the next byte begins an event.
        keepalives: Comment lines and ping events so far.
        plain: Whether the latest feed was one whole event in which no needle is found.
        terminal: Whether a terminal event has come.
        error: Type and code of the first error frame, each an upstream's word of at
            most 64 characters or None; a numeric status code comes as its digits.
        truncated_events: Events above ``max_event_bytes`` so far.
    """

    __slots__ = (
        "_bom",
        "_data",
        "_facts",
        "_grammar",
        "_head",
        "_limit",
        "_line",
        "_name",
        "_needles",
        "_skip_lf",
        "_special_names",
        "chunks",
        "error",
        "idle",
        "keepalives",
        "plain",
        "terminal",
        "truncated_events",
    )

    def __init__(
        self, dialect: Dialect, *, max_event_bytes: int = MAX_EVENT_BYTES
    ) -> None:
        self.chunks = 0
        self.keepalives = 0
        self.plain = False
        self.terminal = False
        self.error: tuple[str | None, str | None] | None = None
        self.truncated_events = 0
        self._grammar = STREAM_GRAMMARS[dialect]
        self._needles = self._grammar.needles
        self._special_names = _SPECIAL_NAMES[dialect]
        self._facts: ResponseFacts | None = None
        self._limit = max_event_bytes
        self._bom: bytes | None = b""
        self._skip_lf = False
        self.idle = True
        self._line = bytearray()
        self._name = b""
        self._data: bytes | bytearray | None = None
        self._head: bytes | None = None

    @property
    def response(self) -> Attributes:
        """The ``gen_ai.*`` attributes that events have carried so far."""
        return self._facts.attributes if self._facts else ()

    def feed(self, data: Written) -> int:
        """Take in the next bytes of the stream.

        Never raises on any bytes.

        Returns:
            How many chunks these bytes completed.
        """
        if type(data) is not bytes:
            data = bytes(data)
        before = self.chunks
        self.plain = False
        if not (self.idle and self._take_event(data)):
            # Slices bound what splitting a large feed into lines takes.
            for start in range(0, len(data), _SLICE):
                self._scan(data[start : start + _SLICE])
        return self.chunks - before

    def end(self) -> int:
        """Take in the end of the stream: an unfinished event counts now. Idempotent.

        Returns:
            How many chunks this completed: 0 or 1.
        """
        before = self.chunks
        if self._line:
            self._field(bytes(self._line))
            self._line.clear()
        self._dispatch()
        return self.chunks - before

    def _take_event(self, data: bytes) -> bool:
        """Take in the common feed, one whole event; anything else is left as it is."""
        event = _ONE_EVENT.fullmatch(data)
        if event is None or _CR in data or len(data) > self._limit:
            if data != _DONE_EVENT:
                return False
            self.terminal = True
        else:
            name, text = event[1] or b"", event[2]
            if name in self._special_names or self._may_matter(text):
                self._count(name, _parsed(text), b"")
            else:
                self.chunks += 1
                self.plain = True
        self._bom = None
        return True

    def _may_matter(self, data: bytes) -> bool:
        # Of the searches in bytes, rfind is by far the fastest.
        for needle in self._needles:
            at = data.rfind(needle)
            if at >= 0 and not (
                data.startswith(_NULLS, at + len(needle))
                and data.rfind(needle, 0, at) < 0
            ):
                return True
        return False

    def _scan(self, data: bytes) -> None:
        if self._bom is not None:
            data = self._bom + data
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._bom = data
                self.idle = not data
                return
            self._bom = None
            data = data.removeprefix(_BOM)
        if self._skip_lf and data:
            self._skip_lf = False
            data = data.removeprefix(b"\n")
        if not data:
            return
        lines = data.splitlines()
        last = data[-1]
        partial = b"" if last in (_LF, _CR) else lines.pop()
        self._skip_lf = last == _CR
        if self._line and lines:
            self._hold(lines[0])
            lines[0] = bytes(self._line)
            self._line.clear()
        for line in lines:
            if line:
                self._field(line)
            else:
                self._dispatch()
        if partial:
            self._hold(partial)
        self.idle = not (
            self._line or self._name or self._data is not None or self._skip_lf
        )

    def _hold(self, partial: bytes) -> None:
        """Keep part of a line, as much as can change how its event is judged."""
        held = len(self._line) + (len(self._data) if self._data is not None else 0)
        # Spare room for an event name that follows data which fills the limit.
        self._line += partial[: max(self._limit + _SPARE - held, 0)]

    def _field(self, line: bytes) -> None:
        if line[0] == _COLON:
            self.keepalives += 1
            return
        field, _, value = line.partition(b":")
        if field == b"data":
            self._add_data(value.removeprefix(b" "))
        elif field == b"event":
            self._name = value.removeprefix(b" ")[: _MAX_NAME + 1]

    def _add_data(self, value: bytes) -> None:
        if self._head is not None:
            return
        data = self._data
        if data is None:
            data = value
        else:
            if type(data) is not bytearray:
                data = bytearray(data)
            data += b"\n"
            data += value
        if len(data) > self._limit:
            self._head = bytes(data[: min(_HEAD, self._limit)])
            data = b""
        self._data = data

    def _dispatch(self) -> None:
        """Count the event that a blank line has ended, and forget it."""
        data, head, name = self._data, self._head, self._name
        if data is None and not name:
            return
        self._data = self._head = None
        self._name = b""
        if head is not None:
            self.truncated_events += 1
            self._count(name, {}, head)
            return
        data = bytes(data or b"")
        if data.startswith(DONE):
            self.terminal = True
        elif not data.strip():
            self._count_empty(name)
        elif name in self._special_names or self._may_matter(data):
            self._count(name, _parsed(data), b"")
        else:
            self.chunks += 1

    def _count_empty(self, name: bytes) -> None:
        kind = name.decode("latin-1")
        if kind in self._grammar.errors:
            self._fail({})
        elif kind in self._grammar.keepalives:
            self.keepalives += 1

    def _count(self, name: bytes, event: Mapping[str, object], head: bytes) -> None:
        """Count an event by its name and JSON data, or by the head of its data."""
        grammar = self._grammar
        kinds = {name.decode("latin-1")}
        if grammar.typed:
            kind = event.get("type")
            if type(kind) is str:
                kinds.add(kind)
            elif match := _HEAD_TYPE.match(head):
                kinds.add(match[1].decode("latin-1"))
        if event.get("error") or kinds & grammar.errors or _HEAD_ERROR.match(head):
            self._fail(event)
        elif kinds & grammar.terminals:
            self.terminal = True
        elif kinds & grammar.keepalives:
            self.keepalives += 1
            return
        else:
            self.chunks += 1
        if self._facts is None:
            self._facts = ResponseFacts()
        self._facts.add_event(event, grammar)

    def _fail(self, event: Mapping[str, object]) -> None:
        if self.error is None:
            self.error = error_words(event)


def _parsed(data: bytes) -> Mapping[str, object]:
    """Parse a JSON object; anything else gives an empty mapping."""
    try:
        value = _decode(data)
    except (ValueError, RecursionError, msgspec.MsgspecError):
        # The slower parser takes what is merely not quite JSON.
        try:
            value = json.loads(data.decode("utf-8", "replace"))
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, dict) else {}
