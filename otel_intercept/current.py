"""Tell which exchange the running code belongs to, and which span its spans nest in."""

from collections.abc import Callable
from contextvars import ContextVar, Token, copy_context
from functools import wraps
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
_new_context: Final = dict.__new__


class ExchangeSpan(trace.NonRecordingSpan):
    """The exchange as the parent of other libraries' spans; few handlers have any.

    The span context is made when somebody asks for it.

    Attributes:
        exchange: What it is. The base's constructor, which wants the span context now,
            is not called.
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


class ExchangeContext(Context):
    """The context in which nothing is set but an exchange.

    It is empty until somebody looks into it, which few handlers do: to fill it would
    cost more than all else about it.

    Attributes:
        exchange: Set by `enter`, as above.
    """

    __slots__ = ("exchange",)

    exchange: Exchange

    def fill(self) -> None:
        """Be what it stands for. Idempotent."""
        if not dict.__len__(self):
            dict.update(self, _values_of(self.exchange))


def _filled(method: Callable[..., object]) -> Callable[..., object]:
    @wraps(method)
    def after_fill(self: ExchangeContext, *args: object, **kwargs: object) -> object:
        self.fill()
        return method(self, *args, **kwargs)

    return after_fill


# What one is made by; what would change one, a context forbids by itself.
_NEVER_LOOK: Final = frozenset(
    ("__class_getitem__", "__doc__", "__getattribute__", "__hash__", "__init__",
     "__new__", "fromkeys")
)  # fmt: skip
for _name in vars(dict).keys() - vars(Context).keys() - _NEVER_LOOK:
    setattr(ExchangeContext, _name, _filled(getattr(dict, _name)))


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
    outer = _CURRENT.get(_EMPTY)
    if outer:
        return _CURRENT.set(Context({**outer, **_values_of(exchange)}))
    own = _new_context(ExchangeContext)
    own.exchange = exchange
    return _CURRENT.set(own)


def _values_of(exchange: Exchange) -> dict[str, object]:
    span = ExchangeSpan.__new__(ExchangeSpan)
    span.exchange = exchange
    return {_SPAN_KEY: span, _KEY: exchange}


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
    context = _CURRENT.get(_EMPTY)
    if type(context) is ExchangeContext:
        # It need not be filled for this.
        return context.exchange
    exchange = context.get(_KEY)
    return exchange if isinstance(exchange, Exchange) else None
