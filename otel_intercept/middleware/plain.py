"""Send an answer whole, and report it as one: most answers are a piece of JSON."""

from aiohttp import hdrs, web
from aiohttp.http import StreamWriter

from otel_intercept.exchange import Exchange
from otel_intercept.middleware.writer import (
    PLAIN_JSON,
    WRITE_HEADERS,
    ObservedWriter,
    report_headers,
)
from otel_intercept.semconv import Phase


async def send_plain(
    writer: StreamWriter,
    request: web.Request,
    response: web.Response,
    exchange: Exchange,
) -> bool:
    """Send an answer of which nothing has begun, and report what becomes of it.

    The same is reported at the same moments as if the writer were observed: JSON in
    one piece has no step in between that tells anything. That costs a part of what it
    costs to watch the writer.

    Returns:
        False where aiohttp finds that it has sent the response before: nothing is sent
        and nothing reported.

    Raises:
        BaseException: What aiohttp raises, unchanged.
    """
    delattr(writer, WRITE_HEADERS)
    try:
        prepared = await response.prepare(request)
    except Exception:
        writer.__class__ = ObservedWriter
        raise
    transport = writer.transport
    if (
        prepared is writer
        and response.headers.get(hdrs.CONTENT_TYPE) in PLAIN_JSON
        and type(response.body) is bytes
        and transport is not None
        and not transport.is_closing()
    ):
        exchange.answers_whole(response.status)
        try:
            await response.write_eof()
        except Exception as exc:
            exchange.write_failed(exc, phase=Phase.EOF)
            raise
        exchange.answer_ended()
        return True
    writer.__class__ = ObservedWriter
    if prepared is writer:
        report_headers(writer, exchange, response.status, response.headers)
    await response.write_eof()
    return prepared is writer
