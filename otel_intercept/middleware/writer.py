"""Watch what an aiohttp payload writer really sends, without the handler's help.

Every byte of an answer goes through the request's writer, whichever response class the
handler uses, so this is where "what the agent got" is true.
"""

import re
from collections.abc import Callable, Coroutine
from typing import Final

from aiohttp import ClientConnectionResetError, hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from otel_intercept.exchange import Exchange
from otel_intercept.semconv import Phase
from otel_intercept.shield import confess
from otel_intercept.sse import Written
from otel_intercept.stream import StreamMeter

_EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.ASCII)
_PLAIN_JSON: Final = ("application/json; charset=utf-8", "application/json")
_COMMENT: Final = b":"
_DRAIN_LIMIT: Final = 0x10000
_DEFAULTS: Final = {
    name: value
    for kind in reversed(StreamWriter.__mro__)
    for name, value in vars(kind).items()
    if not name.startswith("__") and (value is None or isinstance(value, int))
}


class ObservedWriter(StreamWriter):
    """A writer that reports what it has sent to an exchange.

    The bytes and the exceptions stay as they are. The base's methods are looked up at
    each call, so that what others patch into them still runs.

    Attributes:
        exchange: What the answer is of.
        framed: What aiohttp has framed as a chunk of the body, until it is reported.
    """

    exchange: Exchange
    framed: "Written | None" = None

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """Write the headers, and report the status and what body they announce."""
        exchange = self.exchange
        try:
            await StreamWriter.write_headers(self, status_line, headers)
        except Exception as exc:
            exchange.write_failed(exc, phase=Phase.PREPARE)
            raise
        transport = self.transport
        if transport is None or transport.is_closing():
            # aiohttp raises just this when it flushes the headers, a moment later.
            gone = ClientConnectionResetError("Cannot write to closing transport")
            exchange.write_failed(gone, phase=Phase.PREPARE)
            return
        status = int(status_line.split(" ", 2)[1])
        event_stream, other = _kind_of(headers)
        exchange.answer_began(status, event_stream=event_stream, other=other)

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
        if framed is chunk and exchange.stream is not None:
            _stream(self, exchange.stream)

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
        exchange.answer_ended()


class StreamingWriter(StreamWriter):
    """An observed writer whose `write` frames each chunk of an event stream as it is.

    aiohttp's own `write` runs without a coroutine around it, and what it frames is
    reported there. Anything out of the ordinary makes an `ObservedWriter` of it again.

    Attributes:
        exchange: What the answer is of.
        wrote: Takes in a chunk; tells whether an error frame has come.
        unsure: A chunk that aiohttp still waits for the agent to take.
    """

    exchange: Exchange
    wrote: Callable[[Written], bool]
    unsure: bytes | None
    frame: Callable[[StreamWriter, Written], None]

    def _write_chunked_payload(self, chunk: Written) -> None:
        frame, wrote = self.frame, self.wrote
        try:
            frame(self, chunk)
        except Exception as exc:
            self.exchange.write_failed(exc, phase=_phase_of(chunk))
            raise
        try:
            if self.buffer_size > _DRAIN_LIMIT:
                self._hold(chunk)
            elif wrote(chunk):
                self.exchange.error_frame_written()
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("StreamingWriter.write")

    async def drain(self) -> None:
        """Wait for the agent, and report the chunk that this was about."""
        chunk, self.unsure = self.unsure, None
        try:
            await StreamWriter.drain(self)
        except Exception as exc:
            if chunk is not None:
                self.exchange.write_failed(exc, phase=_phase_of(chunk))
            raise
        if chunk is not None:
            self.exchange.answer_wrote(chunk)

    def write_eof(self, chunk: bytes = b"") -> Coroutine[object, None, None]:
        """Write the last part of the body, and report it and the end."""
        return self._go_back().write_eof(chunk)

    def enable_compression(
        self, encoding: str = "deflate", strategy: int | None = None
    ) -> None:
        """Compress from now on: what is framed is no longer what was written."""
        self._go_back().enable_compression(encoding, strategy)

    def _hold(self, chunk: Written) -> None:
        if self.unsure is not None:
            self.exchange.answer_wrote(self.unsure)
        self.unsure = bytes(chunk)

    def _go_back(self) -> StreamWriter:
        if self.unsure is not None:
            self.exchange.answer_wrote(self.unsure)
        return _turn(self, ObservedWriter)


def observe(writer: AbstractStreamWriter, exchange: Exchange) -> None:
    """Report headers, bytes, the end and failed writes of one answer to its exchange.

    The writer lives for one request and has written nothing yet, so that giving it
    another class changes nothing else, and costs a fourth of wrapping its methods.
    """
    if type(writer) is StreamWriter:
        writer.__class__ = ObservedWriter
    if isinstance(writer, ObservedWriter):
        writer.exchange = exchange


def _stream(writer: ObservedWriter, meter: StreamMeter) -> None:
    """Report each chunk from now on where aiohttp frames it."""
    # An object whose class has changed finds its attributes slowly, until it has a new
    # dictionary; and what stands there is found sooner than what its class has.
    writer.__dict__ = {
        **_DEFAULTS,
        **vars(writer),
        "frame": StreamWriter._write_chunked_payload,  # noqa: SLF001
        "wrote": meter.feed,
        "unsure": None,
    }
    _turn(writer, StreamingWriter)


def _turn(writer: StreamWriter, kind: type[StreamWriter]) -> StreamWriter:
    writer.__class__ = kind
    return writer


def _phase_of(chunk: Written) -> Phase:
    return Phase.KEEPALIVE if bytes(chunk[:1]) == _COMMENT else Phase.CHUNK


def _kind_of(headers: CIMultiDict[str]) -> tuple[bool, bool]:
    """Tell whether a body is an event stream, and whether it is neither that nor JSON.

    Of an encoded body neither is told.
    """
    content_type = headers.get(hdrs.CONTENT_TYPE, "")
    encoding = headers.get(hdrs.CONTENT_ENCODING)
    if content_type in _PLAIN_JSON or not (encoding is None or encoding == "identity"):
        return False, False
    content_type = content_type.lower()
    event_stream = content_type.startswith(_EVENT_STREAM)
    return event_stream, not (event_stream or _JSON.match(content_type))
