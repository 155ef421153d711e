"""Collect spans into one export request of bounded size."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from opentelemetry.sdk.trace import ReadableSpan

MAX_SPANS: Final = 4096
MAX_BYTES: Final = 3 * 1024 * 1024
"""Of encoded spans; below the 4 MiB that a gRPC server takes by default."""

Spans: TypeAlias = tuple[Sequence[bytes], Sequence[ReadableSpan]]
"""The spans of one record: each as a part of an OTLP request, and the same as the SDK's
spans where somebody wants those."""

NO_SPANS: Final[Spans] = ((), ())


class Batch:
    """The spans of some records that travel together, so that they share one fate.

    Attributes:
        records: How many records there are.
        size: Bytes of their encoded spans.
        encoded: Their spans as parts of an OTLP request.
        readable: Their spans as the SDK's, where somebody wants those.
    """

    __slots__ = ("encoded", "readable", "records", "size")

    def __init__(self) -> None:
        self.records = 0
        self.size = 0
        self.encoded: list[bytes] = []
        self.readable: list[ReadableSpan] = []

    def has_room_for(self, spans: int, size: int) -> bool:
        """Tell whether one more record fits. An empty batch takes any record.

        Args:
            spans: How many spans it has.
            size: Bytes of its encoded spans.
        """
        fits = len(self.encoded) + spans <= MAX_SPANS and self.size + size <= MAX_BYTES
        return fits or not self.records

    def add(self, spans: Spans, size: int) -> None:
        """Add one record's spans, and the bytes of those that are encoded."""
        encoded, readable = spans
        self.records += 1
        self.size += size
        self.encoded += encoded
        if readable:
            self.readable += readable
