"""Read spans back from a file of OTLP JSON lines."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from otel_intercept.errors import ConfigurationError
from otel_intercept.record import AttributeValue

_BEGINNING: Final = b'{"resourceSpans"'
_RESOURCE_SPANS: Final = "resourceSpans"
_ERROR_CODES: Final = (2, "STATUS_CODE_ERROR")
_NO_PARENT: Final = frozenset({"", "0" * 16})
_TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_SPAN_ID: Final = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event of a span in a file.

    Args:
        name: The event's name.
        at_ns: When, in Unix nanoseconds.
        attributes: Its attributes.
    """

    name: str
    at_ns: int
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, slots=True)
class SpanLine:
    """A span in a file.

    Args:
        trace_id: 32 hex digits.
        span_id: 16 hex digits.
        parent_span_id: 16 hex digits, or None for a root.
        name: The span's name.
        kind: The number of the kind in OTLP: 1 internal, 2 server, 3 client.
        start_ns: When it started, in Unix nanoseconds.
        end_ns: When it ended, in Unix nanoseconds.
        is_error: Whether its status is ERROR.
        attributes: Its attributes.
        events: Its events.
        linked_span_ids: Ids of the spans that it links to.
        service_name: The ``service.name`` of its resource, or None.
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None
    name: str
    kind: int
    start_ns: int
    end_ns: int
    is_error: bool
    attributes: Mapping[str, AttributeValue]
    events: tuple[EventLine, ...]
    linked_span_ids: tuple[str, ...]
    service_name: str | None


def read_spans(path: Path) -> Iterator[SpanLine]:
    """Read the spans of a file, in its order.

    A line that was torn by a crash, and what is no span in an otherwise good line, is
    left out. The file is read line by line, so it may be large.

    Args:
        path: A file of OTLP JSON lines, by any exporter.

    Yields:
        One object per span.

    Raises:
        ConfigurationError: The file cannot be read, or has lines of which none is OTLP
            JSON. The message holds nothing of the file.
    """
    seen = good = 0
    try:
        with path.open("rb") as file:
            for line in file:
                if not line.strip():
                    continue
                seen += 1
                good += line.startswith(_BEGINNING)
                request = _request(line)
                if request is not None:
                    good += 1
                    yield from _spans(request)
    except OSError:
        readable = False
    else:
        readable = True
    if not readable:
        raise ConfigurationError("the file cannot be read")
    if seen and not good:
        raise ConfigurationError("the file has no OTLP JSON lines with spans")


def _request(line: bytes) -> Mapping[str, object] | None:
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if isinstance(request, dict) and isinstance(request.get(_RESOURCE_SPANS), list):
        return request
    return None


def _spans(request: Mapping[str, object]) -> Iterator[SpanLine]:
    for resource in _objects(request, _RESOURCE_SPANS):
        attributes = _attributes(_object(resource, "resource"))
        name = attributes.get("service.name")
        service = name if isinstance(name, str) else None
        for scope in _objects(resource, "scopeSpans"):
            for item in _objects(scope, "spans"):
                span = _span(item, service)
                if span is not None:
                    yield span


def _span(item: Mapping[str, object], service: str | None) -> SpanLine | None:
    trace_id = _text(item, "traceId").lower()
    span_id = _text(item, "spanId").lower()
    if not (_TRACE_ID.fullmatch(trace_id) and _SPAN_ID.fullmatch(span_id)):
        return None
    parent = _text(item, "parentSpanId").lower()
    kind = item.get("kind")
    return SpanLine(
        trace_id=trace_id,
        span_id=span_id,
        parent_span_id=None if parent in _NO_PARENT else parent,
        name=_text(item, "name"),
        kind=kind if isinstance(kind, int) else 0,
        start_ns=_whole(item.get("startTimeUnixNano")),
        end_ns=_whole(item.get("endTimeUnixNano")),
        is_error=_object(item, "status").get("code") in _ERROR_CODES,
        attributes=_attributes(item),
        events=tuple(_event(event) for event in _objects(item, "events")),
        linked_span_ids=tuple(
            _text(link, "spanId").lower() for link in _objects(item, "links")
        ),
        service_name=service,
    )


def _event(item: Mapping[str, object]) -> EventLine:
    return EventLine(
        name=_text(item, "name"),
        at_ns=_whole(item.get("timeUnixNano")),
        attributes=_attributes(item),
    )


def _attributes(item: Mapping[str, object]) -> dict[str, AttributeValue]:
    attributes: dict[str, AttributeValue] = {}
    for pair in _objects(item, "attributes"):
        value = _value(_object(pair, "value"))
        if value is not None:
            attributes[_text(pair, "key")] = value
    return attributes


def _value(value: Mapping[str, object]) -> AttributeValue | None:
    match value:
        case {"stringValue": str(text)}:
            return text
        case {"boolValue": bool(flag)}:
            return flag
        case {"intValue": str() | int() as number}:
            return _whole(number)
        case {"doubleValue": float() | int() as number}:
            return float(number)
        case {"arrayValue": {"values": list(items)}}:
            return _texts(items)
        case _:
            return None


def _texts(items: Iterable[object]) -> tuple[str, ...]:
    return tuple(
        text
        for item in items
        if isinstance(item, dict) and isinstance(text := item.get("stringValue"), str)
    )


def _object(item: Mapping[str, object], key: str) -> Mapping[str, object]:
    value = item.get(key)
    return value if isinstance(value, dict) else {}


def _objects(item: Mapping[str, object], key: str) -> Iterator[Mapping[str, object]]:
    value = item.get(key)
    if isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, dict))


def _text(item: Mapping[str, object], key: str) -> str:
    value = item.get(key)
    return value if isinstance(value, str) else ""


def _whole(value: object) -> int:
    if isinstance(value, int):
        return value
    # A longer text is no 64-bit number, and Python refuses to read a much longer one.
    if isinstance(value, str) and len(value) <= 20:
        try:
            return int(value)
        except ValueError:
            return 0
    return 0
