"""Send an answer whole, and report it as one: most answers are a piece of JSON."""

from aiohttp import hdrs, web

from otel_intercept.middleware.writer import (
    PLAIN_JSON,
    ObservedWriter,
    QuietWriter,
)
from otel_intercept.semconv import Phase


async def send_plain(request: web.Request, response: web.Response) -> None:
    """Send an answer of which nothing has begun, and report what becomes of it.

    The same is reported at the same moments as if the writer were observed: a body
    that is JSON in one piece has no step in between that tells anything. That costs
    a part of what it costs to watch the writer.

    Raises:
        BaseException: What aiohttp raises, unchanged.
    """
    writer = request.writer
    if type(writer) is not ObservedWriter:
        await response.prepare(request)
        await response.write_eof()
        return
    exchange = writer.exchange
    writer.__class__ = QuietWriter
    try:
        await response.prepare(request)
    except Exception as exc:
        writer.__class__ = ObservedWriter
        if writer.unreported is not None:
            exchange.write_failed(exc, phase=Phase.PREPARE)
        raise
    headers, transport = writer.unreported, writer.transport
    if (
        headers is not None
        and headers.get(hdrs.CONTENT_TYPE) in PLAIN_JSON
        and type(response.body) is bytes
        and transport is not None
        and not transport.is_closing()
    ):
        exchange.answer_began(response.status, event_stream=False)
        try:
            await response.write_eof()
        except Exception as exc:
            exchange.write_failed(exc, phase=Phase.EOF)
            raise
        exchange.answer_ended()
        return
    writer.__class__ = ObservedWriter
    # None where aiohttp finds that the response was sent before, and sends nothing.
    if headers is not None:
        writer.report_headers(response.status, headers)
    await response.write_eof()
