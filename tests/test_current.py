"""The current exchange, in the context that OpenTelemetry keeps."""

import contextvars
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context

from otel_intercept import Exchange, RolloutRegistry
from otel_intercept.current import ExchangeContext, current_exchange, enter, leave
from otel_intercept.record import Request
from otel_intercept.semconv import Dialect

REQUEST: Final = Request("POST", "/x", "http", Dialect.CHAT_COMPLETIONS, None, None)
(SPAN_KEY,) = trace.set_span_in_context(trace.INVALID_SPAN, Context())
KEEPER: Final = """
from contextvars import Token
from opentelemetry.context.context import Context, _RuntimeContext

class Stack(_RuntimeContext):
    def __init__(self):
        self.contexts = [Context()]

    def attach(self, context):
        self.contexts.append(context)
        return len(self.contexts) - 1

    def get_current(self):
        return self.contexts[-1]

    def detach(self, token):
        del self.contexts[token:]
"""
PROGRAM: Final = """
from opentelemetry import context, trace
from otel_intercept import RolloutRegistry, Telemetry
from otel_intercept.current import current_exchange, enter, leave
from otel_intercept.record import Request
from otel_intercept.semconv import Dialect

registry = RolloutRegistry(Telemetry())
request = Request("POST", "/x", "http", Dialect.CHAT_COMPLETIONS, None, None)
rollout = registry.open("r1")
exchange = rollout.start_exchange(request, agent_present=lambda _: True)
outer = context.attach(context.set_value("mine", 1))
token = enter(exchange)
assert type(context._RUNTIME_CONTEXT).__name__ == "Stack"
assert current_exchange() is exchange
assert context.get_value("mine") == 1
assert trace.get_current_span().get_span_context().span_id == exchange.span_id
leave(token)
assert current_exchange() is None
assert context.get_value("mine") == 1
print("fine")
"""


def started(registry: RolloutRegistry) -> Exchange:
    """Start an exchange."""
    return registry.open("r1").start_exchange(REQUEST, agent_present=lambda _: True)


def test_an_entered_exchange_is_current_until_it_is_left(
    registry: RolloutRegistry,
) -> None:
    """The API's own functions see it and what was there; then all is as before."""
    exchange = started(registry)
    before = otel_context.set_value("mine", 1)
    outer = otel_context.attach(before)

    token = enter(exchange)
    seen = current_exchange(), otel_context.get_value("mine")
    span = trace.get_current_span().get_span_context()
    leave(token)
    after = otel_context.get_current()
    otel_context.detach(outer)

    assert seen == (exchange, 1)
    assert (span.trace_id, span.span_id) == (
        exchange.rollout.ref.trace_id,
        exchange.span_id,
    )
    assert after is before


def test_an_exchange_is_one_span_however_often_it_is_asked_for(
    registry: RolloutRegistry,
) -> None:
    """It is made once, when somebody asks for the first time."""
    token = enter(started(registry))

    first, second = trace.get_current_span(), trace.get_current_span()
    leave(token)

    assert first is second


LOOKS: Final[dict[str, Callable[[Context], object]]] = {
    "get": lambda context: context.get(SPAN_KEY) is not None,
    "item": lambda context: context[SPAN_KEY] is not None,
    "contains": lambda context: SPAN_KEY in context,
    "length": len,
    "truth": bool,
    "iteration": lambda context: [key.rpartition("-")[0] for key in context],
    "reversed": lambda context: len([*reversed(context)]),
    "keys": lambda context: len(context.keys()),
    "values": lambda context: len(context.values()),
    "items": lambda context: len(context.items()),
    "copy": lambda context: len(context.copy()),
    "dict": lambda context: len(dict(context)),
    "unpacked": lambda context: len({**context}),
    "update": lambda context: len(updated(context)),
    "or": lambda context: len(context | {"mine": 1}),
    "ror": lambda context: len({"mine": 1} | context),
    "equal": lambda context: context == {},
    "repr": lambda context: len(repr(context)) > len("{}"),
    "get_value": lambda context: otel_context.get_value(SPAN_KEY, context) is not None,
    "set_value": lambda context: len(otel_context.set_value("mine", 1, context)),
    "span": lambda context: trace.get_current_span(context).get_span_context().span_id,
}


def updated(context: Context) -> dict[str, object]:
    """Return a dictionary that took over what a context has."""
    values: dict[str, object] = {"mine": 1}
    values.update(context)
    return values


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_a_context_that_is_filled_when_looked_into_is_as_any(
    registry: RolloutRegistry, look: Callable[[Context], object]
) -> None:
    """However somebody looks first, the span and the exchange are there."""
    exchange = started(registry)
    token = enter(exchange)
    unfilled = otel_context.get_current()
    leave(token)
    token = enter(exchange)
    usual = Context(dict(otel_context.get_current()))
    leave(token)

    assert type(unfilled) is ExchangeContext
    assert look(unfilled) == look(usual)
    assert dict.__len__(unfilled) == dict.__len__(usual)


def test_nothing_looks_into_a_context_that_is_not_filled(
    registry: RolloutRegistry,
) -> None:
    """Each method of a dictionary fills it, but what makes one or is forbidden."""
    plain = vars(dict).keys() - vars(Context).keys() - vars(ExchangeContext).keys()
    making = {"__class_getitem__", "__getattribute__", "__hash__", "__init__",
              "__new__", "fromkeys"}  # fmt: skip

    assert plain == making


def test_an_exchange_within_another_has_what_the_outer_context_has(
    registry: RolloutRegistry,
) -> None:
    """A context that was filled later still is one that another can be built on."""
    outer = started(registry)
    inner = registry.open("r2").start_exchange(REQUEST, agent_present=lambda _: True)

    first = enter(outer)
    second = enter(inner)
    within = current_exchange(), trace.get_current_span().get_span_context().span_id
    leave(second)
    after = current_exchange()
    leave(first)

    assert within == (inner, inner.span_id)
    assert after is outer


def test_a_context_that_is_left_elsewhere_raises_nothing(
    registry: RolloutRegistry,
) -> None:
    """A coroutine that nobody finished may be closed in any context."""
    token = contextvars.copy_context().run(enter, started(registry))

    leave(token)

    assert current_exchange() is None


def test_a_context_that_is_kept_elsewhere_is_used_by_the_apis_functions(
    tmp_path: Path,
) -> None:
    """Where ``OTEL_PYTHON_CONTEXT`` names another keeper, the exchange is in there."""
    (tmp_path / "keeper.py").write_text(KEEPER)
    package = tmp_path / "keeper-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: keeper\n")
    (package / "entry_points.txt").write_text(
        "[opentelemetry_context]\nstack = keeper:Stack\n"
    )

    program = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "OTEL_PYTHON_CONTEXT": "stack", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (program.stdout, program.stderr) == ("fine\n", "")
