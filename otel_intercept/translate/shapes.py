"""Name what spans have in common with those of other exchanges: pure functions."""

from typing import Final, TypeAlias

from otel_intercept import dialect, outcome, semconv
from otel_intercept.semconv import Dialect, ErrorType, ExchangeOutcome
from otel_intercept.translate.attributes import call_attributes, exchange_attributes
from otel_intercept.translate.span import CLIENT, SERVER, Shape, Trace

_METHODS: Final = frozenset(
    {
        "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY",
        "TRACE",
    }
)  # fmt: skip

ExchangeKey: TypeAlias = tuple[
    str, str, str, Dialect, bool, int | None, ExchangeOutcome, ErrorType | None,
    tuple[str | None] | None,
]  # fmt: skip
"""Method, route, scheme, dialect, stream, status, outcome, what failed; and the model
of a call that has no span of its own."""
CallKey: TypeAlias = tuple[Dialect, str | None, ErrorType | None]
"""Dialect, model, what failed."""


def exchange_shape(key: ExchangeKey) -> Shape:
    """Return what the spans of exchanges have in common."""
    method, route, scheme, spoken, stream, status, ended, error_type, call = key
    known = method if method in _METHODS else None
    attributes = exchange_attributes(
        known or semconv.OTHER,
        route,
        scheme,
        spoken,
        stream=stream,
        status=status,
        outcome=ended,
        error_type=error_type,
    )
    if call is not None:
        attributes = (*attributes, *call_attributes(spoken, *call))
    is_error = outcome.is_error(ended)
    return Shape(f"{known or 'HTTP'} {route}", SERVER, attributes, is_error)


def call_shape(key: CallKey) -> Shape:
    """Return what the spans of model calls have in common."""
    spoken, model, error_type = key
    operation = dialect.operation_of(spoken)
    attributes = call_attributes(spoken, model)
    if error_type is not None:
        attributes = (*attributes, (semconv.ERROR_TYPE, error_type.value))
    name = operation if model is None else f"{operation} {model}"
    return Shape(name, CLIENT, attributes, is_error=error_type is not None)


def traces_of(rollout_id: str, trace_id: int) -> tuple[Trace, Trace]:
    """Return what the spans of a rollout have in common, and those of its calls."""
    attributes = ((semconv.ROLLOUT_ID, rollout_id),)
    of_calls = (*attributes, (semconv.GEN_AI_CONVERSATION_ID, rollout_id))
    return Trace(trace_id, attributes), Trace(trace_id, of_calls)
