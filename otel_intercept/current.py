"""Tell which exchange the running code belongs to, and which span its spans nest in."""

from contextvars import ContextVar, Token, copy_context
from typing import Final, Protocol

from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from otel_intercept.exchange import Exchange

_KEY: Final = otel_context.create_key("otel_intercept.exchange")
(_SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
_EMPTY: Final = Context()
_FLAGS: Final = {
    sampled: trace.TraceFlags(trace.TraceFlags.SAMPLED if sampled else 0)
    for sampled in (False, True)
}

# Looked up at a class, it takes as long again to find as to call.
_new: Final = object.__new__


class ExchangeSpan(trace.NonRecordingSpan):
    """The exchange as the parent of other libraries' spans; few handlers have any.

    The span context is made when somebody asks for it.

    Attributes:
        exchange: Set by `enter`, which passes the constructor: the base's wants the
            span context now.
    """

    __slots__ = ("exchange",)

    exchange: Exchange

    def get_span_context(self) -> trace.SpanContext:
        """Return the ids under which the exchange's span will be exported."""
        ref = self.exchange.rollout.ref
        return trace.SpanContext(
            ref.trace_id,
            self.exchange.span_id,
            is_remote=False,
            trace_flags=_FLAGS[ref.sampled],
        )

    def __repr__(self) -> str:
        return f"ExchangeSpan({self.get_span_context()!r})"


class _Variable(Protocol):
    """What keeps OpenTelemetry's current context."""

    def get(self, default: Context, /) -> Context: ...

    def set(self, value: Context, /) -> Token[Context]: ...

    def reset(self, token: Token[Context], /) -> None: ...


class _Functions:
    """The same by the functions of the API, for a context that is no variable."""

    def get(self, _default: Context, /) -> Context:
        return otel_context.get_current()

    def set(self, value: Context, /) -> Token[Context]:
        return otel_context.attach(value)

    def reset(self, token: Token[Context], /) -> None:
        otel_context.detach(token)


def _find_variable() -> _Variable:
    """Find the variable in which the API keeps the context, as it does by default.

    Each of its functions calls two others around one call of the variable's, so that
    going through them takes three times as long.
    """
    probe = Context()
    token = otel_context.attach(probe)
    try:
        found: list[ContextVar[Context]] = [
            variable for variable, value in copy_context().items() if value is probe
        ]
    finally:
        otel_context.detach(token)
    return found[0] if found else _Functions()


_CURRENT: Final = _find_variable()


def enter(exchange: Exchange) -> Token[Context]:
    """Make an exchange current, as itself and as a span, until it is left."""
    span = _new(ExchangeSpan)
    span.exchange = exchange
    own = {_SPAN_KEY: span, _KEY: exchange}
    outer = _CURRENT.get(_EMPTY)
    return _CURRENT.set(Context({**outer, **own} if outer else own))


def leave(token: Token[Context]) -> None:
    """Make the context current again that was so before."""
    try:
        _CURRENT.reset(token)
    except ValueError:
        # A coroutine that nobody finished is closed in any context: none to restore.
        return


def current_exchange() -> Exchange | None:
    """Return the exchange whose handler, or a task of it, is running; or None.

    The exchange may have ended: a task that its handler started can outlive it.
    """
    exchange = otel_context.get_value(_KEY)
    return exchange if isinstance(exchange, Exchange) else None
