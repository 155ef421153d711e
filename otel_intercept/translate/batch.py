"""Collect spans into one export request of bounded size."""

from collections.abc import Sequence
from typing import Final, TypeAlias

from opentelemetry.sdk.trace import ReadableSpan

MAX_SPANS: Final = 4096
MAX_BYTES: Final = 3 * 1024 * 1024
"""Of encoded spans; below the 4 MiB that a gRPC server takes by default."""

Spans: TypeAlias = tuple[Sequence[bytes], Sequence[ReadableSpan]]
"""The spans of one record: each as an OTLP message, and the same as the SDK's
spans where somebody wants those."""

NO_SPANS: Final[Spans] = ((), ())


class Batch:
    """The spans of some records that travel together, so that they share one fate.

    Attributes:
        records: How many records there are.
        encoded: Their spans as OTLP messages.
        readable: Their spans as the SDK's, where somebody wants those.
    """

    __slots__ = ("_bytes_left", "encoded", "readable", "records")

    def __init__(self) -> None:
        self._bytes_left = MAX_BYTES
        self.records = 0
        self.encoded: list[bytes] = []
        self.readable: list[ReadableSpan] = []

    def add(self, spans: Spans, *, anyway: bool = False) -> bool:
        """Add one record's spans; False when there is no room for them.

        Args:
            spans: The spans. An empty batch has room for those of any record.
            anyway: Whether to add them without asking for room.
        """
        encoded, readable = spans
        left = self._bytes_left
        for span in encoded:
            left -= len(span)
        full = left < 0 or len(self.encoded) + len(encoded) > MAX_SPANS
        if full and self.records and not anyway:
            return False
        self._bytes_left = left
        self.records += 1
        self.encoded += encoded
        if readable:
            self.readable += readable
        return True
