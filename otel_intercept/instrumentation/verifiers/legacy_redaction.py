"""Put our words in the place of raw error texts: on the state, and to the agent."""

from collections.abc import MutableMapping
from types import BuiltinFunctionType
from typing import Final

from aiohttp import web

from otel_intercept import failure as failures
from otel_intercept.current import current_exchange
from otel_intercept.dialect import dialect_of, error_body
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Phase

_MARK: Final = "_otel_intercept_redacted"


def redact_error(error: BaseException, rollout: Rollout | None, key: bytes) -> object:
    """Make an error of the same class that says only what kind of failure it was.

    It is made without running the class's constructor, is never raised, and has no
    cause, context or traceback. A class that makes its own text is replaced by its
    nearest base class that does not.

    Args:
        error: Theirs.
        rollout: Its rollout, whose trace id the text names; None if it is not open.
        key: The secret of the fingerprints.
    """
    if _MARK in getattr(error, "__dict__", {}):
        return error
    exchange = current_exchange()
    failure = exchange.failure if exchange is not None else None
    if failure is None:
        failure = failures.describe(error, phase=Phase.HANDLER, key=key)
    text = f"{failure.error_type}"
    if rollout is not None:
        text = f"{text} (trace {rollout.trace_id})"
    kind = next(
        base
        for base in type(error).__mro__
        if issubclass(base, BaseException)
        and type(base.__new__) is BuiltinFunctionType
        and base.__str__ is BaseException.__str__
        and base.__repr__ is BaseException.__repr__
    )
    redacted = kind.__new__(kind, text)
    vars(redacted)[_MARK] = True
    return redacted


def redact_state(state: object, rollout: Rollout | None, key: bytes) -> None:
    """Replace the error that stands on a state, if there is one."""
    if isinstance(state, MutableMapping):
        error = state.get("error")
        if isinstance(error, BaseException):
            state["error"] = redact_error(error, rollout, key)


def redact_response(
    request: web.Request, response: web.StreamResponse, rollout: Rollout | None
) -> web.StreamResponse:
    """Return our error body in the place of a 5xx that was not sent yet.

    Only the body changes: the status, and with it whether agents try again, stays.
    """
    if response.prepared or response.status < 500:
        return response
    exchange = current_exchange()
    failure = exchange.failure if exchange is not None else None
    body = error_body(
        dialect_of(request.path),
        failure,
        trace_id=None if rollout is None else rollout.trace_id,
    )
    return web.json_response(body, status=response.status)
