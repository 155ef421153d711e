"""What the agent was sent in one exchange: status line, body, and how it ended."""

import re
from typing import Final, NamedTuple

from otel_intercept.clock import Clock
from otel_intercept.outcome import GOOD, NO_ANSWER, Answer, answer_of
from otel_intercept.semconv import Dialect
from otel_intercept.sse import Written
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


class Delivery(Clock):
    """The answer as it goes out; only a good event stream is looked into.

    Of a good body that is neither that nor JSON by its headers, the first bytes are
    looked at.
    """

    __slots__ = ("_answer", "_ended", "_head", "_meter", "_status")

    _answer: Answer
    _ended: bool
    _head: bytes | None
    _meter: StreamMeter | None
    _status: int | None

    @property
    def answer_begun(self) -> bool:
        """Whether the status line went to the transport."""
        return self._answer is not NO_ANSWER

    @property
    def _has_terminal(self) -> bool:
        """Whether the agent was sent the event that ends its dialect's streams."""
        return self._meter is not None and self._meter.terminal

    def _begin(
        self, status: int, dialect: Dialect, *, event_stream: bool, other: bool
    ) -> None:
        """Take in the status line and the headers."""
        self._status = status
        self._answer = answer_of(status)
        if self._answer is GOOD:
            if event_stream:
                self._meter = StreamMeter(dialect, self._start)
            elif other:
                self._head = b""

    def _read_head(self, head: bytes, data: Written) -> None:
        """Take in the first bytes of a body that may be anything."""
        if len(head) < _HEAD:
            head += bytes(data[:_HEAD])
            while keepalive := _KEEPALIVE.match(head):
                head = head[keepalive.end() :]
            self._head = head[:_HEAD]

    def _end(self) -> None:
        """Take in the end of the body."""
        if self._meter is not None:
            self._meter.end()
        self._ended = True

    @property
    def _is_plainly_good(self) -> bool:
        """Whether all of a good body went out, and nothing in it says otherwise."""
        return (
            self._ended
            and self._answer is GOOD
            and self._head is None
            and (self._meter is None or self._meter.is_good)
        )

    def _body_facts(self, *, stream_asked: bool) -> BodyFacts:
        """Return what the body tells of the outcome, knowing what was asked for."""
        meter, head = self._meter, self._head
        if meter is not None:
            return BodyFacts(
                event_stream=True,
                chunks=meter.chunks > 0,
                terminal=meter.terminal,
                error_frame=meter.error is not None,
            )
        unreadable = stream_asked and head is not None and not _READABLE.match(head)
        return BodyFacts(unreadable=unreadable)
