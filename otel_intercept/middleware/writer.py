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

_EVENT_STREAM: Final = "text/event-stream"
_JSON: Final = re.compile(r"application/(?:[\w.+-]+\+)?json\b", re.ASCII)
_COMMENT: Final = b":"
_DRAIN_LIMIT: Final = 0x10000


def observe(writer: StreamWriter, exchange: Exchange) -> None:
    """Report headers, bytes, the end and failed writes of one answer to its exchange.

    Wraps the writer's methods on the instance; the bytes and the exceptions stay as
    they are. The writer lives for one request, so nothing has to be undone.
    """
    write_headers = writer.write_headers
    write = writer.write
    write_eof = writer.write_eof

    async def observed_write_headers(
        status_line: str, headers: CIMultiDict[str]
    ) -> None:
        try:
            await write_headers(status_line, headers)
        except Exception as exc:
            exchange.write_failed(exc, phase=Phase.PREPARE)
            raise
        transport = writer.transport
        if transport is None or transport.is_closing():
            # aiohttp raises just this when it flushes the headers, a moment later.
            gone = ClientConnectionResetError("Cannot write to closing transport")
            exchange.write_failed(gone, phase=Phase.PREPARE)
            return
        exchange.answer_began(
            int(status_line.split(" ", 2)[1]),
            event_stream=_is_event_stream(headers),
            other=_is_other(headers),
        )

    async def observed_write(
        chunk: bytes | bytearray | memoryview,
        *,
        drain: bool = True,
        LIMIT: int = _DRAIN_LIMIT,  # noqa: N803 - aiohttp's name
    ) -> None:
        try:
            await write(chunk, drain=drain, LIMIT=LIMIT)
        except Exception as exc:
            comment = bytes(chunk[:1]) == _COMMENT
            phase = Phase.KEEPALIVE if comment else Phase.CHUNK
            exchange.write_failed(exc, phase=phase)
            raise
        exchange.answer_wrote(chunk)

    async def observed_write_eof(chunk: bytes = b"") -> None:
        try:
            await write_eof(chunk)
        except Exception as exc:
            exchange.write_failed(exc, phase=Phase.EOF)
            raise
        if chunk:
            exchange.answer_wrote(chunk)
        exchange.answer_ended()

    vars(writer).update(
        write_headers=observed_write_headers,
        write=observed_write,
        write_eof=observed_write_eof,
    )


def _is_event_stream(headers: CIMultiDict[str]) -> bool:
    return _is_plain(headers) and _content_type(headers).startswith(_EVENT_STREAM)


def _is_other(headers: CIMultiDict[str]) -> bool:
    content_type = _content_type(headers)
    known = content_type.startswith(_EVENT_STREAM) or _JSON.match(content_type)
    return _is_plain(headers) and not known


def _is_plain(headers: CIMultiDict[str]) -> bool:
    return headers.get(hdrs.CONTENT_ENCODING, "identity") == "identity"


def _content_type(headers: CIMultiDict[str]) -> str:
    return headers.get(hdrs.CONTENT_TYPE, "").lower()
