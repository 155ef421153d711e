"""Watch what an aiohttp payload writer really sends, without the handler's help.

Every byte of an answer goes through the request's writer, whichever response class the
handler uses, so this is where "what the agent got" is true.
"""

import re
from collections.abc import Coroutine
from typing import Final

from aiohttp import ClientConnectionResetError, hdrs
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from otel_intercept.exchange import Exchange
from otel_intercept.semconv import Phase
from otel_intercept.sse import Written

_EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.ASCII)
PLAIN_JSON: Final = ("application/json; charset=utf-8", "application/json")
_COMMENT: Final = b":"
_DRAIN_LIMIT: Final = 0x10000


class ObservedWriter(StreamWriter):
    """A writer that reports what it has sent to an exchange.

    The bytes and the exceptions stay as they are. The base's methods are looked up at
    each call, so that what others patch into them still runs.

    Attributes:
        exchange: What the answer is of.
        unreported: Headers that were written and not reported; None without any.
    """

    exchange: Exchange
    unreported: CIMultiDict[str] | None = None

    async def write_headers(self, status_line: str, headers: CIMultiDict[str]) -> None:
        """Write the headers, and report the status and what body they announce."""
        try:
            await StreamWriter.write_headers(self, status_line, headers)
        except Exception as exc:
            self.exchange.write_failed(exc, phase=Phase.PREPARE)
            raise
        self.report_headers(int(status_line.split(" ", 2)[1]), headers)

    def report_headers(self, status: int, headers: CIMultiDict[str]) -> None:
        """Report headers that are written: the status, and what body they announce."""
        transport = self.transport
        if transport is None or transport.is_closing():
            # aiohttp raises just this when it flushes the headers, a moment later.
            gone = ClientConnectionResetError("Cannot write to closing transport")
            self.exchange.write_failed(gone, phase=Phase.PREPARE)
            return
        event_stream, other = _kind_of(headers)
        self.exchange.answer_began(status, event_stream=event_stream, other=other)

    async def write(
        self,
        chunk: Written,
        *,
        drain: bool = True,
        LIMIT: int = _DRAIN_LIMIT,  # noqa: N803 - aiohttp's name
    ) -> None:
        """Write a part of the body, and report it."""
        try:
            await StreamWriter.write(self, chunk, drain=drain, LIMIT=LIMIT)
        except Exception as exc:
            comment = bytes(chunk[:1]) == _COMMENT
            phase = Phase.KEEPALIVE if comment else Phase.CHUNK
            self.exchange.write_failed(exc, phase=phase)
            raise
        self.exchange.answer_wrote(chunk)

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


class QuietWriter(ObservedWriter):
    """The same while a whole answer is sent by who reports it too."""

    def write_headers(
        self, status_line: str, headers: CIMultiDict[str]
    ) -> Coroutine[object, None, None]:
        """Write the headers, and keep them."""
        self.unreported = headers
        return StreamWriter.write_headers(self, status_line, headers)

    def write_eof(self, chunk: bytes = b"") -> Coroutine[object, None, None]:
        """Write the last part of the body."""
        return StreamWriter.write_eof(self, chunk)


def observe(writer: AbstractStreamWriter, exchange: Exchange) -> bool:
    """Report headers, bytes, the end and failed writes of one answer to its exchange.

    The writer lives for one request and has written nothing yet, so that giving it
    another class changes nothing else, and costs a fourth of wrapping its methods.

    Returns:
        Whether that is possible: not if the writer is of others.
    """
    if type(writer) is StreamWriter:
        writer.__class__ = ObservedWriter
    if not isinstance(writer, ObservedWriter):
        return False
    writer.exchange = exchange
    return True


def exchange_of(writer: AbstractStreamWriter) -> Exchange | None:
    """Return the exchange whose answer a writer writes, if it is observed."""
    # Nearly all are just that, and asking an abstract class is slow.
    if type(writer) is ObservedWriter or isinstance(writer, ObservedWriter):
        return writer.exchange
    return None


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
