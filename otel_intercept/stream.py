"""Measure an event-stream body as it is written: chunks, gaps, how it ended."""

from time import perf_counter
from typing import Final

from otel_intercept.record import Attributes, StreamFacts
from otel_intercept.semconv import Dialect
from otel_intercept.sse import SseScanner

_NS_PER_S: Final = 1e9
_TEXT_KEYS: Final = (b'"content":', b'"text":', b'"delta":', b'"reasoning_content":')
_QUOTE: Final = 34
_LF: Final = 10
_CR: Final = 13
# Small letters and the space come first, so that they are found first.
_WITHIN_TEXT: Final = bytes(
    dict.fromkeys([*range(97, 123), *range(32, 97), *range(256)])
).translate(None, b'"\n\r')
_SHORT_TEXT: Final = 64
_MOST_TRIES: Final = 8
_MOST_BYTES: Final = 65_536


class StreamMeter:
    """What has been written of one event stream.

    Costs a glance and a clock read per write; keeps no content. Not thread-safe.

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
        "_before",
        "_bytes",
        "_first",
        "_last",
        "_max_gap",
        "_repeats",
        "_scanner",
        "_short",
        "_start",
        "_tries",
    )

    def __init__(self, dialect: Dialect, start: int) -> None:
        self._scanner = SseScanner(dialect)
        self._start = start
        self._bytes = 0
        self._repeats = 0
        self._first: float | None = None
        self._last = 0.0
        self._max_gap = 0.0
        self._before = b""
        self._after = b""
        # A chunk of fewer bytes may need no scan; 0 while each one does.
        self._short = 0
        self._tries = 0

    @property
    def chunks(self) -> int:
        """Data events written, without terminal events, pings and error frames."""
        return self._scanner.chunks + self._repeats

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

    def feed(self, data: bytes) -> bool:
        """Take in bytes that the transport has accepted.

        Returns:
            Whether an error frame has come, now or before.
        """
        size = len(data)
        if size < self._short:
            # Without the prefix, it is the same object.
            rest = data.removeprefix(self._before)
            if rest is not data and rest.lstrip(_WITHIN_TEXT) == self._after:
                self._bytes += size
                self._repeats += 1
                now = perf_counter()
                if now - self._last > self._max_gap:
                    self._note_gap(now)
                self._last = now
                return False
        return self._look(data)

    def end(self) -> None:
        """Take in the end of the body: an unfinished event counts now. Idempotent."""
        self._scanner.end()

    def facts(self) -> StreamFacts:
        """Return the totals so far."""
        first, scanner = self._first, self._scanner
        # By name, it would take as long again.
        return StreamFacts(
            scanner.chunks + self._repeats,
            self._bytes,
            scanner.keepalives,
            self._max_gap,
            None if first is None else first - self._start / _NS_PER_S,
        )

    def facts_if_good(self) -> StreamFacts | None:
        """Return the totals of a stream of which there is nothing to say but them.

        Returns:
            None without a chunk, without a terminal event, and after an error frame.
        """
        scanner = self._scanner
        if scanner.terminal and scanner.error is None:
            facts = self.facts()
            if facts.chunks:
                return facts
        return None

    def _note_gap(self, now: float) -> None:
        if self._first is None:
            self._first = now
        else:
            self._max_gap = now - self._last

    def _look(self, data: bytes) -> bool:
        """Take in what is not recognised at a glance."""
        self._bytes += len(data)
        # A shorter one was no repeat at a glance.
        if len(data) >= self._short > 0 and self._is_long_repeat(data):
            self._repeats += 1
        elif not self._scan(data):
            return self._scanner.error is not None
        now = perf_counter()
        if now - self._last > self._max_gap:
            self._note_gap(now)
        self._last = now
        return self._scanner.error is not None

    def _is_long_repeat(self, data: bytes) -> bool:
        # Stripping takes longer the longer the text is, this does not.
        text = data.removeprefix(self._before).removesuffix(self._after)
        return (
            len(data) - len(text) == len(self._before) + len(self._after)
            and _QUOTE not in text
            and _LF not in text
            and _CR not in text
        )

    def _scan(self, data: bytes) -> int:
        scanner = self._scanner
        chunks = scanner.feed(data)
        if self._tries < _MOST_TRIES and scanner.plain:
            self._tries += 1
            if len(data) < _MOST_BYTES:
                self._learn(data)
        # Within an event nothing repeats; after an error each write tells of it.
        repeats = self._before and scanner.idle and scanner.error is None
        around = len(self._before) + len(self._after)
        self._short = around + _SHORT_TEXT if repeats else 0
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
                return
