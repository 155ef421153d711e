"""Start the exchange of a request, and serve it without touching what is served."""

import logging
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from aiohttp.http import StreamWriter
from aiohttp.typedefs import Handler

from otel_intercept.exchange import Exchange
from otel_intercept.middleware.connections import Connections
from otel_intercept.middleware.foreign import call_in_context
from otel_intercept.middleware.incoming import describe
from otel_intercept.middleware.writer import observe
from otel_intercept.record import Request
from otel_intercept.rollout import Rollout

_logger: Final = logging.getLogger("otel_intercept.middleware")


@dataclass(slots=True)
class Serving:
    """What one server needs to tell how its exchanges end.

    Args:
        connections: The latest exchange of each of its connections.
        shutting_down: Whether it closes its connections by itself, so that a lost one
            does not mean that the agent left.
    """

    connections: Connections = field(default_factory=Connections)
    shutting_down: bool = False


def start_exchange(
    serving: Serving, request: web.Request, rollout: Rollout, description: Request
) -> Exchange:
    """Start the exchange of a request, and watch the writer of its answer."""
    protocol = request.protocol

    def agent_present() -> bool:
        transport = protocol.transport
        return serving.shutting_down or not (
            transport is None or transport.is_closing()
        )

    exchange = rollout.start_exchange(description, agent_present=agent_present)
    if isinstance(request.writer, StreamWriter):
        observe(request.writer, exchange)
    serving.connections.serve(request.task, exchange)
    return exchange


async def serve_unchanged(
    serving: Serving, request: web.Request, handler: Handler, rollout: Rollout
) -> web.StreamResponse:
    """Serve a request as an exchange of a rollout, and change nothing about it.

    For servers of others: what the handler raises goes on to aiohttp as it is, and
    aiohttp's own answer to it is seen on the writer. While the handler runs,
    `otel_intercept.current.current_exchange` gives the exchange.

    Raises:
        BaseException: What the handler raises, unchanged.
    """
    try:
        exchange = start_exchange(serving, request, rollout, describe(request))
    except Exception:  # noqa: BLE001 - telemetry never breaks traffic
        _logger.warning("a request could not be observed")
        return await handler(request)
    try:
        response = await call_in_context(request, handler, exchange)
    except web.HTTPException:
        exchange.handler_returned()
        raise
    except Exception as exc:
        exchange.handler_raised(exc)
        exchange.handler_returned()
        raise
    except BaseException:
        exchange.handler_cancelled()
        exchange.finish()
        raise
    exchange.handler_returned()
    return response
