"""Collect spans into one export request of bounded size."""

from collections import deque
from collections.abc import Collection, Sequence
from itertools import chain
from operator import itemgetter
from typing import Final, TypeAlias

from opentelemetry.sdk.trace import ReadableSpan

MAX_SPANS: Final = 4096
MAX_BYTES: Final = 3 * 1024 * 1024
"""Of encoded spans; below the 4 MiB that a gRPC server takes by default."""

Spans: TypeAlias = tuple[bytes, int, Sequence[ReadableSpan]]
"""The spans of one record: as they stand in a request, and how many those are; and as
the SDK's spans where somebody wants those."""

_FRAMES: Final = itemgetter(0)
_NUMBER: Final = itemgetter(1)
_READABLE: Final = itemgetter(2)


class Batch:
    """The spans of some records that travel together, so that they share one fate.

    Attributes:
        records: How many records there are.
        encoded: Their spans as they stand in a request, those of each record in one.
        readable: Their spans as the SDK's, where somebody wants those.
    """

    __slots__ = ("_bytes_left", "_spans", "encoded", "readable", "records")

    def __init__(self) -> None:
        self._bytes_left = MAX_BYTES
        self._spans = 0
        self.records = 0
        self.encoded: list[bytes] = []
        self.readable: list[ReadableSpan] = []

    def fill(self, waiting: deque[Spans], limit: int) -> bool:
        """Take the spans of records that wait, first come first, while there is room.

        Args:
            waiting: The spans of each record; those that were taken are removed.
            limit: How many records make a full batch.

        Returns:
            Whether it is full.
        """
        # Nearly always there is room for all, and none has to be looked at alone.
        if self.records + len(waiting) <= limit and self._add(waiting):
            waiting.clear()
        while waiting and self.records < limit and self._add((waiting[0],)):
            waiting.popleft()
        return bool(waiting) or self.records >= limit

    def _add(self, records: Collection[Spans]) -> bool:
        encoded = list(map(_FRAMES, records))
        left = self._bytes_left - sum(map(len, encoded))
        spans = self._spans + sum(map(_NUMBER, records))
        full = left < 0 or spans > MAX_SPANS
        # An empty batch has room for the spans of any one record.
        if full and (self.records or len(records) > 1):
            return False
        self._bytes_left, self._spans = left, spans
        self.records += len(records)
        self.encoded += encoded
        if any(map(_READABLE, records)):
            self.readable += chain.from_iterable(map(_READABLE, records))
        return True
