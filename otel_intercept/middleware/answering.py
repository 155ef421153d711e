"""Serve a rollout's request as an exchange, and answer for a handler that failed."""

from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.typedefs import Handler

from otel_intercept import failure as failures
from otel_intercept.current import enter, leave
from otel_intercept.errors import NotIntercepted
from otel_intercept.exchange import Exchange
from otel_intercept.middleware.access_log import shorten_access_line
from otel_intercept.middleware.foreign import call_restored, call_silenced
from otel_intercept.middleware.incoming import Place
from otel_intercept.middleware.plain import comes_whole, watch_rest
from otel_intercept.middleware.redacted import (
    fail_exchange,
    fail_unobserved,
    has_left,
    refuse_unknown,
    send_failure,
)
from otel_intercept.middleware.serving import (
    EXCHANGE,
    cancel_exchange,
    drain,
    start_exchange,
)
from otel_intercept.middleware.wiring import Wiring
from otel_intercept.middleware.writer import WRITE_HEADERS, ObservedWriter
from otel_intercept.semconv import Phase

_REJECTED: Final = web.RequestKey("otel_intercept.rejected", bool)


async def answer(
    wiring: Wiring,
    place: Place,
    rollout_id: str,
    request: web.Request,
    handler: Handler,
    writer: AbstractStreamWriter,
) -> web.StreamResponse:
    """Serve a request of a rollout; if that is not open, only count it.

    Where no middleware may change the response, it is sent here, since aiohttp would
    log what is raised; aiohttp then finds that it is through.

    Returns:
        The handler's response, or if the handler failed a redacted one.

    Raises:
        web.HTTPException: What the handler raised to answer.
        ConnectionError: The source of the body broke off with it.
        BaseException: What is no ``Exception``, such as a cancellation.
    """
    description = place.describe(request)
    shorten_access_line(description)
    # An attribute that is called where it is looked up is taken for a method first.
    find = wiring.find
    rollout = find(rollout_id)
    if rollout is None:
        # A handler may hand it on to that of another rollout route.
        if _REJECTED not in request:
            request[_REJECTED] = True
            wiring.registry.reject(description.dialect)
        return await _pass_through(wiring, place, request, handler)
    transport = request.transport
    exchange = start_exchange(place, request, writer, transport, rollout, description)
    try:
        if place.usual:
            # The task is this request's own, so nothing needs the context before.
            if wiring.recorded:
                enter(exchange)
            response = await handler(request)
        else:
            response = await _call(place, request, handler, exchange)
        try:
            if (
                type(response) is web.Response
                and place.outermost
                and type(writer) is StreamWriter
                and exchange.returns_plainly()
            ):
                # JSON in one piece is reported from here, and the same is said of it:
                # only for something else is the writer watched, which costs more.
                delattr(writer, WRITE_HEADERS)
                whole = place.whole_answers
                if whole is not None and transport is not None:
                    sent = whole.send(exchange, response, request, writer, transport)
                    if sent is not None:
                        if not sent:
                            await drain(writer, exchange)
                        return response
                try:
                    prepared = await response.prepare(request)
                except Exception:
                    writer.__class__ = ObservedWriter
                    raise
                if prepared is writer and comes_whole(response, writer, transport):
                    exchange.answers_whole(response.status)
                    try:
                        await response.write_eof()
                    except Exception as exc:
                        exchange.write_failed(exc, phase=Phase.EOF)
                        raise
                    exchange.answer_ended()
                    return response
                watch_rest(writer, response, exchange, begun=prepared is writer)
            _check(response, exchange)
            exchange.handler_returned()
            if place.outermost and _is_sent_once(response):
                await response.prepare(request)
                await response.write_eof()
        except ConnectionError:
            # With the agent gone, aiohttp meets the same error and drops the
            # connection. Otherwise it is of the body's own source, and aiohttp would
            # end the body cleanly.
            if not has_left(request):
                raise
    except web.HTTPException as exc:
        if exchange.answer_begun:
            return fail_exchange(request, exchange, exc)
        exchange.handler_returned()
        place.connections.end_with(request.task, exchange)
        if place.outermost and _is_sent_once(exc):
            failed = await _send_raised(request, exchange, exc)
            if failed is not None:
                return failed
        raise
    except Exception as exc:  # noqa: BLE001 - whatever escapes becomes a redacted 500
        response = fail_exchange(request, exchange, exc)
        if place.outermost:
            place.connections.end_with(request.task, exchange)
            response = await send_failure(request, response)
    except BaseException as exc:
        final = place.outermost or not failures.is_cancellation(exc)
        cancel_exchange(place.connections, request, exchange, final=final)
        raise
    place.connections.end_with(request.task, exchange)
    return response


def is_seen(request: web.Request) -> bool:
    """Tell whether an app has seen a request to be a rollout's."""
    return _REJECTED in request or EXCHANGE in request


async def _call(
    place: Place, request: web.Request, handler: Handler, exchange: Exchange
) -> web.StreamResponse:
    token = enter(exchange)
    try:
        if place.foreign:
            return await call_restored(request, handler)
        return await handler(request)
    finally:
        leave(token)


async def _send_raised(
    request: web.Request, exchange: Exchange, answer: web.HTTPException
) -> web.StreamResponse | None:
    """Send what the handler raised to answer, as aiohttp does next, but log no text.

    Returns:
        What answers in its place if it cannot be sent.
    """
    try:
        await answer.prepare(request)
        await answer.write_eof()
    except Exception as exc:  # noqa: BLE001 - aiohttp would log it
        if isinstance(exc, ConnectionError) and has_left(request):
            return None
        response = fail_exchange(request, exchange, exc)
        return await send_failure(request, response)
    return None


async def _pass_through(
    wiring: Wiring, place: Place, request: web.Request, handler: Handler
) -> web.StreamResponse:
    try:
        if place.foreign:
            return await call_silenced(request, handler)
        return await handler(request)
    except web.HTTPException:
        raise
    except NotIntercepted:
        return refuse_unknown()
    except Exception as exc:  # noqa: BLE001 - as above, without an exchange
        key = wiring.registry.telemetry.settings.fingerprint_key
        return fail_unobserved(request, exc, key)


def _check(response: object, exchange: Exchange) -> None:
    # aiohttp would log the repr of the one, and write the other into the first's body.
    if not isinstance(response, web.StreamResponse):
        raise TypeError("a handler must return a response")
    if exchange.answer_begun and not response.prepared:
        raise TypeError("a handler that has begun an answer must return that one")


def _is_sent_once(response: web.StreamResponse) -> bool:
    # What has a way of its own to be sent may do so again, as files are.
    kind = type(response)
    return kind.prepare is web.StreamResponse.prepare and kind.write_eof in {
        web.Response.write_eof,
        web.StreamResponse.write_eof,
    }
