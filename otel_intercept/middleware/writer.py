"""Watch what an aiohttp payload writer really sends, without the handler's help.

Every byte of an answer goes through the request's writer, whichever response class the
handler uses, so this is where "what the agent got" is true.
"""

import re
from collections.abc import Callable
from typing import Final

from aiohttp import ClientConnectionResetError, hdrs
from aiohttp.helpers import must_be_empty_body
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from otel_intercept.exchange import Exchange
from otel_intercept.middleware.framing import FRAME, SMALL, is_as_known
from otel_intercept.semconv import Phase
from otel_intercept.shield import confess, shielded
from otel_intercept.sse import Written
from otel_intercept.stream import StreamMeter

ON_WRITER: Final = "exchange"
"""The attribute of a writer under which the exchange of its answer is found."""

WRITE_HEADERS: Final = "write_headers"
_EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.ASCII)
PLAIN_JSON: Final = ("application/json; charset=utf-8", "application/json")
_COMMENT: Final = b":"
_DRAIN_LIMIT: Final = 0x10000


class BodyTooShortError(Exception):
    """A body ended before the length that its headers announce. Never raised."""


class ObservedWriter(StreamWriter):
    """A writer that reports what it has sent to an exchange.

    The bytes and the exceptions stay as they are. The base's methods are looked up at
    each call, so that what others patch into them still runs.

    Attributes:
        exchange: What the answer is of.
        on_body_write: Told of what was written; before 3.14.4 no writer has it.
        framed: What aiohttp has framed as a chunk of the body, until it is reported.
        looks: How many writes of an event stream may still show how it is framed: the
            first may go out with the headers.
        unseen: The announced length of a body that may never come by here at all.
    """

    exchange: Exchange
    on_body_write: Callable[[int, int], None] | None = None
    framed: "Written | None" = None
    looks: int = 2
    unseen: int = 0

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """Write the headers, and report the status and what body they announce.

        They go into a buffer: what else it raises is a fault of the headers.
        """
        try:
            await StreamWriter.write_headers(self, status_line, headers)
        except ConnectionError as exc:
            self.exchange.write_failed(exc, phase=Phase.PREPARE)
            raise
        report_headers(self, self.exchange, int(status_line.split(" ", 2)[1]), headers)

    async def write(
        self,
        chunk: Written,
        *,
        drain: bool = True,
        LIMIT: int = _DRAIN_LIMIT,  # noqa: N803 - aiohttp's name
    ) -> None:
        """Write a part of the body, and report it."""
        exchange = self.exchange
        try:
            await StreamWriter.write(self, chunk, drain=drain, LIMIT=LIMIT)
        except Exception as exc:
            exchange.write_failed(exc, phase=_phase_of(chunk))
            raise
        exchange.answer_wrote(chunk)
        framed, self.framed = self.framed, None
        if self.looks and exchange.stream is not None:
            _settle(self, exchange.stream, frames=framed is chunk)

    def _write_chunked_payload(self, chunk: Written) -> None:
        StreamWriter._write_chunked_payload(self, chunk)  # noqa: SLF001 - its only hook
        self.framed = chunk

    async def write_eof(self, chunk: bytes = b"") -> None:
        """Write the last part of the body, and report it and the end."""
        exchange = self.exchange
        try:
            await StreamWriter.write_eof(self, chunk)
        except Exception as exc:
            exchange.write_failed(exc, phase=Phase.EOF)
            raise
        if chunk:
            exchange.answer_wrote(chunk)
        left = self.length
        if left and _is_short(self, left - len(chunk)):
            exchange.write_failed(BodyTooShortError(), phase=Phase.EOF)
        else:
            exchange.answer_ended()


class StreamingWriter(ObservedWriter):
    """An observed writer that is known to frame each chunk of an event stream as it is.

    aiohttp's `write` asks six questions of each chunk, and a coroutine around it costs
    as much again. Here are the steps that are left when all answers are known. With
    them a chunk costs little more than it does unobserved.

    Attributes:
        wrote: Takes in a chunk; tells whether an error frame has come.
    """

    wrote: Callable[[bytes], bool]

    async def write(
        self,
        chunk: Written,
        *,
        drain: bool = True,
        LIMIT: int = _DRAIN_LIMIT,  # noqa: N803 - aiohttp's name
    ) -> None:
        """Write a chunk, and report it."""
        transport = self._protocol.transport
        if (
            type(chunk) is not bytes
            or not 0 < len(chunk) < SMALL
            or self.on_body_write is not None
            or transport is None
            or transport.is_closing()
        ):
            await ObservedWriter.write(self, chunk, drain=drain, LIMIT=LIMIT)
            return
        # Calls of a method that stands on the object itself are slow.
        wrote = self.wrote
        try:
            framed = FRAME % (len(chunk), chunk)
            size = len(framed)
            self.output_size += size
            self.buffer_size = undrained = self.buffer_size + size
            transport.write(framed)
            if drain and undrained > LIMIT:
                self.buffer_size = 0
                await self.drain()
        except Exception as exc:
            self.exchange.write_failed(exc, phase=_phase_of(chunk))
            raise
        try:
            if wrote(chunk):
                self.exchange.error_frame_written()
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("StreamingWriter.write")

    def enable_compression(
        self, encoding: str = "deflate", strategy: int | None = None
    ) -> None:
        """Compress from now on: what is framed is no longer what was written."""
        _turn(self, ObservedWriter)
        self.enable_compression(encoding, strategy)


def report_headers(
    writer: StreamWriter, exchange: Exchange, status: int, headers: CIMultiDict[str]
) -> None:
    """Report headers that are written: the status, and what body they announce."""
    transport = writer.transport
    if transport is None or transport.is_closing():
        # aiohttp raises just this when it flushes the headers, a moment later.
        gone = ClientConnectionResetError("Cannot write to closing transport")
        exchange.write_failed(gone, phase=Phase.PREPARE)
        return
    # To a HEAD there is no body; a file goes to the kernel at once, past the writer.
    if writer.length and (
        hdrs.ACCEPT_RANGES in headers
        or must_be_empty_body(exchange.request.method, status)
    ):
        vars(writer)["unseen"] = writer.length
    event_stream, other = _kind_of(headers)
    exchange.answer_began(status, event_stream=event_stream, other=other)


def _is_short(writer: ObservedWriter, left: int) -> bool:
    """Tell whether a body that has ended misses something, with so many bytes left."""
    return left > 0 and left != writer.unseen


async def write_headers(
    writer: StreamWriter, status_line: str, headers: CIMultiDict[str]
) -> None:
    """Write the headers on a writer that is observed from now on.

    The writer lives for one request and has written nothing yet, so that giving it
    another class changes nothing else. But that makes all that it does slower: it gets
    this method as its own first, and most answers need no more (`send_plain`).
    """
    delattr(writer, WRITE_HEADERS)
    writer.__class__ = ObservedWriter
    # With the old dictionary it would find each attribute slowly, at each chunk.
    writer.__dict__ = {**vars(writer)}
    await writer.write_headers(status_line, headers)


@shielded
def _settle(writer: ObservedWriter, meter: StreamMeter, *, frames: bool) -> None:
    """Make an event stream's further chunks cheap to write and to report."""
    if frames and is_as_known(writer):
        vars(writer).update(wrote=meter.feed, looks=0)
        _turn(writer, StreamingWriter)
    else:
        writer.looks -= 1


def _turn(writer: StreamWriter, kind: type[StreamWriter]) -> None:
    writer.__class__ = kind


def _phase_of(chunk: Written) -> Phase:
    return Phase.KEEPALIVE if bytes(chunk[:1]) == _COMMENT else Phase.CHUNK


def _kind_of(headers: CIMultiDict[str]) -> tuple[bool, bool]:
    """Tell whether a body is an event stream, and whether it is neither that nor JSON.

    Of an encoded body neither is told.
    """
    content_type = headers.get(hdrs.CONTENT_TYPE, "")
    encoding = headers.get(hdrs.CONTENT_ENCODING)
    if content_type in PLAIN_JSON or not (encoding is None or encoding == "identity"):
        return False, False
    content_type = content_type.lower()
    event_stream = content_type.startswith(_EVENT_STREAM)
    return event_stream, not (event_stream or _JSON.match(content_type))
