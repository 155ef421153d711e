"""Collect spans into one export request of bounded size."""

from collections.abc import Sequence
from typing import Final, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan

MAX_SPANS: Final = 4096
MAX_BYTES: Final = 3 * 1024 * 1024
"""Of spans; below the 4 MiB that a gRPC server takes by default."""


class Spans(NamedTuple):
    """The spans of one record.

    Args:
        encoded: Each as a part of an OTLP request.
        readable: The same as the SDK's spans, if somebody wants those.
    """

    encoded: Sequence[bytes]
    readable: Sequence[ReadableSpan] = ()


class Batch:
    """The spans of some records that travel together, so that they share one fate.

    Attributes:
        records: How many records there are.
        size: Bytes of their encoded spans.
        encoded: Their spans as parts of an OTLP request.
        readable: Their spans as the SDK's, if somebody wants those.
    """

    __slots__ = ("encoded", "readable", "records", "size")

    def __init__(self) -> None:
        self.records = 0
        self.size = 0
        self.encoded: list[bytes] = []
        self.readable: list[ReadableSpan] = []

    def has_room_for(self, spans: Spans) -> bool:
        """Tell whether one more record fits. An empty batch takes any record."""
        if not self.records:
            return True
        return (
            len(self.encoded) + len(spans.encoded) <= MAX_SPANS
            and self.size + sum(map(len, spans.encoded)) <= MAX_BYTES
        )

    def add(self, spans: Spans) -> None:
        """Add one record's spans."""
        self.records += 1
        self.size += sum(map(len, spans.encoded))
        self.encoded.extend(spans.encoded)
        self.readable.extend(spans.readable)
