"""Tell which exchange the running code belongs to, and which span its spans nest in."""

from typing import Final

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from otel_intercept.exchange import Exchange

_KEY: Final = otel_context.create_key("otel_intercept.exchange")
(_SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
_FLAGS: Final = {
    sampled: trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else 0)
    for sampled in (False, True)
}


class ExchangeSpan(trace.NonRecordingSpan):
    """The exchange as the parent of other libraries' spans; few handlers have any.

    The span context is made when somebody asks for it.
    """

    def __init__(self, exchange: Exchange) -> None:
        # Without the base's, which wants the span context now.
        self._exchange = exchange

    def get_span_context(self) -> trace.SpanContext:
        """Return the ids under which the exchange's span will be exported."""
        ref = self._exchange.rollout.ref
        return trace.SpanContext(
            ref.trace_id,
            self._exchange.span_id,
            is_remote=False,
            trace_flags=_FLAGS[ref.sampled],
        )

    def __repr__(self) -> str:
        return f"ExchangeSpan({self.get_span_context()!r})"


def context_of(exchange: Exchange) -> Context:
    """Return the current context with the exchange, as itself and as a span, in it."""
    current = otel_context.get_current()
    return Context({**current, _SPAN_KEY: ExchangeSpan(exchange), _KEY: exchange})


def current_exchange() -> Exchange | None:
    """Return the exchange whose handler, or a task of it, is running; or None.

    The exchange may have ended: a task that its handler started can outlive it.
    """
    exchange = otel_context.get_value(_KEY)
    return exchange if isinstance(exchange, Exchange) else None
