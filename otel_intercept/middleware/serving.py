"""Start the exchange of a request, and serve it without touching what is served."""

import logging
from asyncio import Transport
from contextlib import suppress
from types import MethodType
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.typedefs import Handler

from otel_intercept import failure as failures
from otel_intercept.current import enter, leave
from otel_intercept.exchange import Exchange
from otel_intercept.middleware.connections import Connections
from otel_intercept.middleware.foreign import call_restored
from otel_intercept.middleware.incoming import Place, Places
from otel_intercept.middleware.redacted import report_raised
from otel_intercept.middleware.writer import (
    ON_WRITER,
    WRITE_HEADERS,
    write_headers,
)
from otel_intercept.record import Request
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Phase

EXCHANGE: Final = web.RequestKey("otel_intercept.exchange", Exchange)
"""Where the exchange is found of a request whose writer cannot be observed."""

_logger: Final = logging.getLogger("otel_intercept.middleware")


class Serving:
    """What one server needs to know to tell what its exchanges are and how they end.

    Args:
        app: The app whose middleware serves them, if it is one of ours.

    Attributes:
        connections: Its connections.
        places: What is known of its resources.
    """

    __slots__ = ("connections", "places")

    def __init__(self, app: web.Application | None = None) -> None:
        self.connections: Final = Connections()
        self.places: Final = Places(app, self.connections)


def start_exchange(
    place: Place,
    request: web.Request,
    writer: AbstractStreamWriter,
    transport: Transport | None,
    rollout: Rollout,
    description: Request,
) -> Exchange:
    """Start the exchange of a request, and watch the writer of its answer."""
    exchange = rollout.start_exchange(description, place.is_agent_present, transport)
    if type(writer) is StreamWriter:
        setattr(writer, ON_WRITER, exchange)
        setattr(writer, WRITE_HEADERS, MethodType(write_headers, writer))
    else:
        request[EXCHANGE] = exchange
    return exchange


def cancel_exchange(
    connections: Connections, request: web.Request, exchange: Exchange, *, final: bool
) -> None:
    """End the exchange of a cancelled handler, unless an answer may still come.

    Args:
        connections: Those of its server.
        request: What the handler served.
        exchange: Its exchange.
        final: Whether nothing above the handler can answer in its place. Otherwise it
            may have been cancelled for that: a middleware has a deadline.
    """
    agent_left = not connections.is_agent_present(request.transport)
    if final or agent_left or exchange.rollout.closed:
        exchange.handler_cancelled()
        exchange.finish()
        # Its own method would keep the writer until the next garbage collection.
        vars(request.writer).pop(WRITE_HEADERS, None)
    else:
        exchange.handler_interrupted()
        connections.end_with(request.task, exchange)


async def serve_unchanged(
    serving: Serving,
    request: web.Request,
    handler: Handler,
    rollout: Rollout,
    *,
    last: bool = False,
) -> web.StreamResponse:
    """Serve a request as an exchange of a rollout, and change nothing about it.

    For servers of others: what the handler raises goes on to aiohttp as it is, and
    aiohttp's own answer to it is seen on the writer. While the handler runs,
    `otel_intercept.current.current_exchange` gives the exchange.

    Args:
        serving: What is known of its server.
        request: What the handler is to answer.
        handler: The handler.
        rollout: Whose request it is.
        last: Whether aiohttp gets the response next, but for middlewares. Where it is
            the only one to see it, an answer in one piece is sent here, in one step.

    Raises:
        BaseException: What the handler raises, unchanged.
    """
    try:
        place = serving.places.of(request)
        writer, transport = request.writer, request.transport
        description = place.describe(request)
        exchange = start_exchange(
            place, request, writer, transport, rollout, description
        )
        whole = place.whole_answers if last else None
        token = enter(exchange)
    except Exception:  # noqa: BLE001 - telemetry never breaks traffic
        _logger.warning("a request could not be observed")
        return await handler(request)
    try:
        if place.foreign:
            response = await call_restored(request, handler)
        else:
            response = await handler(request)
    except web.HTTPException:
        exchange.handler_returned()
        place.connections.end_with(request.task, exchange)
        raise
    except Exception as exc:
        report_raised(request, exchange, exc)
        exchange.handler_returned()
        place.connections.end_with(request.task, exchange)
        raise
    except BaseException as exc:
        final = not failures.is_cancellation(exc)
        cancel_exchange(place.connections, request, exchange, final=final)
        raise
    finally:
        # The task is this request's own: with nothing around, nothing needs it.
        if whole is None:
            leave(token)
    if (
        whole is not None
        and type(response) is web.Response
        and type(writer) is StreamWriter
        and transport is not None
        and exchange.returns_plainly()
    ):
        # It is sent so only where nothing stands on the writer that is not aiohttp's.
        delattr(writer, WRITE_HEADERS)
        try:
            sent = whole.send(exchange, response, request, writer, transport)
        except Exception:  # noqa: BLE001 - it is reported, and aiohttp will meet it too
            return response
        if sent:
            return response
        place.connections.end_with(request.task, exchange)
        if sent is not None:
            # What it raises drops the connection, which aiohttp meets as well.
            with suppress(Exception):
                await drain(writer, exchange)
            return response
        setattr(writer, WRITE_HEADERS, MethodType(write_headers, writer))
    exchange.handler_returned()
    place.connections.end_with(request.task, exchange)
    return response


async def drain(writer: StreamWriter, exchange: Exchange) -> None:
    """Wait for the agent to read, as aiohttp does before the answer is through.

    Raises:
        Exception: What the transport raised, which is reported.
    """
    try:
        await writer.drain()
    except Exception as exc:
        exchange.write_failed(exc, phase=Phase.EOF)
        raise
    exchange.answer_ended()
