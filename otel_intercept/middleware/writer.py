"""Watch what an aiohttp payload writer really sends, without the handler's help.

Every byte of an answer goes through the request's writer, whichever response class the
handler uses, so this is where "what the agent got" is true.
"""

import re
from typing import Final

from aiohttp import ClientConnectionResetError, hdrs
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from otel_intercept.exchange import Exchange
from otel_intercept.semconv import Phase
from otel_intercept.sse import Written

ON_WRITER: Final = "exchange"
"""The attribute of a writer under which the exchange of its answer is found."""

WRITE_HEADERS: Final = "write_headers"
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
    """

    exchange: Exchange

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
    event_stream, other = _kind_of(headers)
    exchange.answer_began(status, event_stream=event_stream, other=other)


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
