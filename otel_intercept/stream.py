"""Measure an event-stream body as it is written: chunks, gaps, how it ended."""

import time
from typing import Final

from otel_intercept.record import Attributes, StreamFacts
from otel_intercept.semconv import Dialect
from otel_intercept.sse import SseScanner, Written

_NS: Final = 1e-9
_TEXT_KEYS: Final = (b'"content":', b'"text":', b'"delta":', b'"reasoning_content":')
_QUOTE: Final = 34
_LF: Final = 10
_CR: Final = 13
_MOST_TRIES: Final = 8
_MOST_BYTES: Final = 65_536
_NEVER: Final = -1


class StreamMeter:
    """What has been written of one event stream.

    Costs a scan and a clock read per write; keeps no content. Not thread-safe.

    Nearly all chunks of a stream are equal outside the text that the model has written.
    Once one of them was found to be merely a chunk, all that differ from it only in
    that text are, and need no scan: the text stands where no key and no kind can, and
    no quote in it ends it. Learning is given up after a few tries, as where each chunk
    has a number of its own.

    Args:
        dialect: Decides which events are terminal and which are errors.
        start: ``time.perf_counter_ns()`` at the start of the exchange.
    """

    __slots__ = (
        "_after",
        "_around",
        "_before",
        "_bytes",
        "_first",
        "_last",
        "_max_gap",
        "_scanner",
        "_start",
        "_tries",
    )

    def __init__(self, dialect: Dialect, start: int) -> None:
        self._scanner = SseScanner(dialect)
        self._start = start
        self._bytes = 0
        self._first = 0
        self._last = 0
        self._max_gap = 0
        self._before = b""
        self._after = b""
        self._around = _NEVER
        self._tries = 0

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

    def feed(self, data: Written) -> bool:
        """Take in bytes that the transport has accepted.

        Returns:
            Whether an error frame has come, now or before.
        """
        scanner = self._scanner
        size = len(data)
        self._bytes += size
        if type(data) is bytes and scanner.idle:
            # Of the searches in bytes, these are by far the fastest.
            text = data.removeprefix(self._before).removesuffix(self._after)
            repeats = (
                size - len(text) == self._around
                and _QUOTE not in text
                and _LF not in text
                and _CR not in text
            )
        else:
            repeats = False
        if repeats:
            scanner.chunks += 1
        elif not self._scan(data):
            return scanner.error is not None
        now = time.perf_counter_ns()
        gap = now - self._last
        if gap > self._max_gap:
            self._note_gap(gap, now)
        self._last = now
        return scanner.error is not None

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

    def _note_gap(self, gap: int, now: int) -> None:
        if self._first:
            self._max_gap = gap
        else:
            self._first = now

    def _scan(self, data: Written) -> int:
        chunks = self._scanner.feed(data)
        if chunks and self._tries < _MOST_TRIES and type(data) is bytes:
            self._tries += 1
            if len(data) < _MOST_BYTES and self._scanner.is_plain_chunk(data):
                self._learn(data)
        return chunks

    def _learn(self, data: bytes) -> None:
        """Learn from one whole event that is merely a chunk."""
        for key in _TEXT_KEYS:
            colon = data.find(key) + len(key)
            opening = data.find(_QUOTE, colon)
            closing = data.find(_QUOTE, opening + 1)
            # The value is a string: nothing or a space stands before its quote.
            if len(key) <= colon <= opening < closing and data[colon:opening] in {
                b"",
                b" ",
            }:
                self._before = data[: opening + 1]
                self._after = data[closing:]
                self._around = len(data) - (closing - opening - 1)
                return
