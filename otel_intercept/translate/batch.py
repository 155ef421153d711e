"""Collect spans into one export request of bounded size."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

MAX_SPANS: Final = 4096
MAX_BYTES: Final = 3 * 1024 * 1024
"""Estimated; below the 4 MiB that a gRPC server takes by default."""

_SPAN_BYTES: Final = 160
_ITEM_BYTES: Final = 24
_BYTES_PER_CHARACTER: Final = 4


class Batch:
    """The spans of some records that travel together, so that they share one fate."""

    __slots__ = ("records", "size", "spans")

    def __init__(self) -> None:
        self.records = 0
        self.size = 0
        self.spans: list[ReadableSpan] = []

    def has_room_for(self, spans: Sequence[ReadableSpan], size: int) -> bool:
        """Tell whether one more record fits. An empty batch takes any record."""
        if not self.records:
            return True
        return (
            len(self.spans) + len(spans) <= MAX_SPANS and self.size + size <= MAX_BYTES
        )

    def add(self, spans: Iterable[ReadableSpan], size: int) -> None:
        """Add one record's spans."""
        self.records += 1
        self.size += size
        self.spans.extend(spans)


def estimated_size(spans: Iterable[ReadableSpan]) -> int:
    """Return an upper estimate of the spans' size on the wire, in bytes."""
    return sum(_span_size(span) for span in spans)


def _span_size(span: ReadableSpan) -> int:
    size = _SPAN_BYTES + _value_size(span.name) + _ITEM_BYTES * len(span.links)
    size += _attributes_size(span.attributes or {})
    for event in span.events:
        size += _SPAN_BYTES + _attributes_size(event.attributes or {})
    return size


def _attributes_size(attributes: Mapping[str, object]) -> int:
    return sum(
        _ITEM_BYTES + len(key) + _value_size(value) for key, value in attributes.items()
    )


def _value_size(value: object) -> int:
    if isinstance(value, str):
        return len(value) if value.isascii() else _BYTES_PER_CHARACTER * len(value)
    if isinstance(value, Sequence):
        return sum(_ITEM_BYTES + _value_size(item) for item in value)
    return _ITEM_BYTES
