"""What the agent was sent in one exchange: status line, body, and how it ended."""

import re
from typing import Final, NamedTuple

from otel_intercept.outcome import Answer, answer_of
from otel_intercept.record import Attributes, StreamFacts
from otel_intercept.semconv import Dialect
from otel_intercept.stream import StreamMeter

# Headers are often wrong where the body is right: JSON, or the first field of a stream.
_READABLE: Final = re.compile(rb"\s*(?:[\[{]|(?:data|event|id|retry)\b)")
_KEEPALIVE: Final = re.compile(rb"\s*:[^\n]*\n")
_HEAD: Final = 64


class BodyFacts(NamedTuple):
    """The part of the outcome's facts that the body tells."""

    event_stream: bool = False
    chunks: bool = False
    terminal: bool = False
    error_frame: bool = False
    unreadable: bool = False


class Delivery:
    """The answer as it goes out; only a good event stream is looked into.

    Of a good body that is neither by its headers, the first bytes are looked at.

    Args:
        dialect: The API shape that the body should have.
        start: ``time.perf_counter_ns()`` at the start of the exchange.
    """

    __slots__ = ("_dialect", "_head", "_meter", "_start", "answer", "ended", "status")

    def __init__(self, dialect: Dialect, start: int) -> None:
        self._dialect = dialect
        self._start = start
        self._head: bytes | None = None
        self._meter: StreamMeter | None = None
        self.answer = Answer.NONE
        self.ended = False
        self.status: int | None = None

    @property
    def begun(self) -> bool:
        """Whether the status line went to the transport."""
        return self.answer is not Answer.NONE

    @property
    def has_terminal(self) -> bool:
        """Whether the agent was sent the event that ends its dialect's streams."""
        return self._meter is not None and self._meter.terminal

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is a good event stream."""
        return self._meter is not None

    @property
    def error(self) -> tuple[str | None, str | None] | None:
        """Type and code of the first error frame in the body, or None."""
        return None if self._meter is None else self._meter.error

    def begin(self, status: int, *, event_stream: bool, other: bool = False) -> None:
        """Take in the status line and the headers.

        Args:
            status: The HTTP status.
            event_stream: Whether the body is an event stream by its headers.
            other: Whether it is neither that nor JSON, nor encoded.
        """
        self.status = status
        self.answer = answer_of(status)
        if event_stream and self.answer is Answer.GOOD:
            self._meter = StreamMeter(self._dialect, self._start)
        elif other and self.answer is Answer.GOOD:
            self._head = b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take in bytes of the body."""
        if self._meter is not None:
            self._meter.feed(data)
        elif self._head is not None and len(self._head) < _HEAD:
            head = self._head + bytes(data[:_HEAD])
            while keepalive := _KEEPALIVE.match(head):
                head = head[keepalive.end() :]
            self._head = head[:_HEAD]

    def end(self) -> None:
        """Take in the end of the body."""
        if self._meter is not None:
            self._meter.end()
        self.ended = True

    def body_facts(self, *, stream_asked: bool) -> BodyFacts:
        """Return what the body tells of the outcome, knowing what was asked for."""
        meter = self._meter
        if meter is None:
            return BodyFacts(unreadable=stream_asked and self._is_unreadable)
        return BodyFacts(
            event_stream=True,
            chunks=meter.chunks > 0,
            terminal=meter.terminal,
            error_frame=meter.error is not None,
        )

    @property
    def _is_unreadable(self) -> bool:
        return self._head is not None and not _READABLE.match(self._head)

    def stream_facts(self) -> StreamFacts | None:
        """Return the totals of an event stream, or None for another body."""
        return None if self._meter is None else self._meter.facts()

    def response_attributes(self) -> Attributes:
        """Return the allow-listed GenAI attributes that the stream itself carried."""
        return () if self._meter is None else self._meter.response
