"""Measure an event-stream body as it is written: chunks, gaps, how it ended."""

import time
from typing import Final

from otel_intercept.record import Attributes, StreamFacts
from otel_intercept.repeats import Repeats
from otel_intercept.semconv import Dialect
from otel_intercept.sse import SseScanner, Written

_NS: Final = 1e-9


class StreamMeter:
    """What has been written of one event stream.

    Costs a scan and a clock read per write; keeps no content. Not thread-safe.

    Args:
        dialect: Decides which events are terminal and which are errors.
        start: ``time.perf_counter_ns()`` at the start of the exchange.
    """

    __slots__ = (
        "_bytes",
        "_first",
        "_last",
        "_max_gap",
        "_repeats",
        "_scanner",
        "_start",
    )

    def __init__(self, dialect: Dialect, start: int) -> None:
        self._scanner = SseScanner(dialect)
        self._repeats = Repeats()
        self._start = start
        self._bytes = 0
        self._first = 0
        self._last = 0
        self._max_gap = 0

    @property
    def chunks(self) -> int:
        """Data events written, without terminal events, pings and error frames."""
        return self._scanner.chunks

    @property
    def terminal(self) -> bool:
        """Whether the dialect's terminal event was written."""
        return self._scanner.terminal

    @property
    def error(self) -> tuple[str | None, str | None] | None:
        """Type and code of the first error frame, or None."""
        return self._scanner.error

    @property
    def response(self) -> Attributes:
        """The allow-listed GenAI attributes that the stream itself carried."""
        return self._scanner.response

    def feed(self, data: Written) -> None:
        """Take in bytes that the transport has accepted."""
        scanner = self._scanner
        self._bytes += len(data)
        if type(data) is bytes and scanner.idle and self._repeats.has(data):
            scanner.chunks += 1
        elif not scanner.feed(data):
            return
        elif self._repeats.learns and type(data) is bytes:
            self._repeats.learn(data, plain=scanner.is_plain_chunk(data))
        now = time.perf_counter_ns()
        if not self._first:
            self._first = now
        elif now - self._last > self._max_gap:
            self._max_gap = now - self._last
        self._last = now

    def end(self) -> None:
        """Take in the end of the body: an unfinished event counts now. Idempotent."""
        self._scanner.end()

    def facts(self) -> StreamFacts:
        """Return the totals so far."""
        return StreamFacts(
            chunks=self._scanner.chunks,
            bytes=self._bytes,
            keepalives=self._scanner.keepalives,
            max_gap_s=self._max_gap * _NS,
            time_to_first_chunk_s=(
                (self._first - self._start) * _NS if self._first else None
            ),
        )
