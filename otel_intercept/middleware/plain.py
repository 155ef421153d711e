"""Tell answers that come whole, which need no watching: most are a piece of JSON."""

from asyncio import Transport

from aiohttp import hdrs, web
from aiohttp.http import StreamWriter

from otel_intercept.exchange import Exchange
from otel_intercept.middleware.writer import (
    PLAIN_JSON,
    ObservedWriter,
    report_headers,
)


def comes_whole(
    response: web.Response, writer: StreamWriter, transport: Transport | None
) -> bool:
    """Tell whether a prepared response is JSON in one piece, and can still be sent.

    Between its headers and its end there is no step that tells anything.
    """
    body = response.body
    return (
        response.headers.get(hdrs.CONTENT_TYPE) in PLAIN_JSON
        and type(body) is bytes
        and writer.length in (None, len(body))
        and transport is not None
        and not transport.is_closing()
    )


def watch_rest(
    writer: StreamWriter, response: web.Response, exchange: Exchange, *, begun: bool
) -> None:
    """Watch a writer from now on; report the headers if the answer has begun."""
    writer.__class__ = ObservedWriter
    if begun:
        report_headers(writer, exchange, response.status, response.headers)
