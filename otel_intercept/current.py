"""Tell which exchange the running code belongs to."""

from typing import Final

from opentelemetry import context as otel_context
from opentelemetry.context import Context

from otel_intercept.exchange import Exchange

_KEY: Final = otel_context.create_key("otel_intercept.exchange")


def with_exchange(exchange: Exchange, context: Context) -> Context:
    """Return the context with the exchange in it."""
    return otel_context.set_value(_KEY, exchange, context)


def current_exchange() -> Exchange | None:
    """Return the exchange whose handler, or a task of it, is running; or None.

    The exchange may have ended: a task that its handler started can outlive it.
    """
    exchange = otel_context.get_value(_KEY)
    return exchange if isinstance(exchange, Exchange) else None
