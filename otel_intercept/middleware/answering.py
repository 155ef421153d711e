"""Serve a request as an exchange, and answer for a handler that failed."""

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.typedefs import Handler

from otel_intercept.current import enter, leave
from otel_intercept.exchange import Exchange
from otel_intercept.middleware.foreign import call_restored
from otel_intercept.middleware.incoming import Place
from otel_intercept.middleware.plain import send_plain
from otel_intercept.middleware.redacted import fail_exchange


async def serve(
    place: Place,
    request: web.Request,
    handler: Handler,
    exchange: Exchange,
    writer: AbstractStreamWriter,
) -> web.StreamResponse:
    """Serve a request whose exchange has started.

    Returns:
        The response, sent already where no middleware may change it; if the handler
        failed, a redacted one.

    Raises:
        web.HTTPException: What the handler raised to answer.
        ConnectionError: The source of the body broke off with it.
        BaseException: What is no ``Exception``, such as a cancellation.
    """
    try:
        token = enter(exchange)
        try:
            if place.foreign:
                response = await call_restored(request, handler)
            else:
                response = await handler(request)
        finally:
            leave(token)
        try:
            if (
                type(response) is web.Response
                and place.outermost
                and type(writer) is StreamWriter
                and exchange.returns_plainly()
                and await send_plain(writer, request, response, exchange)
            ):
                return response
            _check(response, exchange)
            exchange.handler_returned()
            if place.outermost:
                # aiohttp does the same next, but logs what is raised.
                await response.prepare(request)
                await response.write_eof()
        except ConnectionError:
            if _is_bodys_own(request):
                raise
    except web.HTTPException as exc:
        if exchange.answer_begun:
            return fail_exchange(request, exchange, exc)
        exchange.handler_returned()
        place.connections.end_with(request.task, exchange)
        raise
    except Exception as exc:  # noqa: BLE001 - whatever escapes becomes a redacted 500
        response = fail_exchange(request, exchange, exc)
    except BaseException:
        exchange.handler_cancelled()
        exchange.finish()
        raise
    place.connections.end_with(request.task, exchange)
    return response


def _check(response: object, exchange: Exchange) -> None:
    # aiohttp would log the repr of the one, and write the other into the first's body.
    if not isinstance(response, web.StreamResponse):
        raise TypeError("a handler must return a response")
    if exchange.answer_begun and not response.prepared:
        raise TypeError("a handler that has begun an answer must return that one")


def _is_bodys_own(request: web.Request) -> bool:
    # With the agent gone, aiohttp meets the same error and drops the connection.
    # Otherwise it is of the body's own source, and aiohttp would end the body cleanly.
    return request.transport is not None and not request.transport.is_closing()
