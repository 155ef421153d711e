"""Two runs that differ only in texts cannot be told apart by anything that leaves them.

This is stronger than searching for canaries: it needs no idea of how a text could come
out. Ids, times and fingerprints are set aside; the latter are keyed.
"""

import errno
import json
from collections.abc import Callable
from typing import Final

import httpx2
import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from otel_intercept import Phase, Rollout, RolloutRegistry
from otel_intercept.dialect import error_body
from otel_intercept.record import Request
from otel_intercept.semconv import Dialect
from otel_intercept.testing import TelemetryRecorder

Make = Callable[[str], BaseException]

_REQUEST: Final = Request(
    method="POST", route="/v1/messages", scheme="http", dialect=Dialect.MESSAGES
)
_FINGERPRINT: Final = "intercept.failure.fingerprint"


def _chain(text: str) -> Exception:
    error = RuntimeError(text, [text], {text: text})
    error.add_note(text)
    error.__cause__ = ValueError(text)
    error.__cause__.__context__ = KeyError(text)
    return error


def _group(text: str) -> BaseException:
    return ExceptionGroup(text, [OSError(errno.ECONNREFUSED, text, text), _chain(text)])


def _class(text: str) -> BaseException:
    fields = {"__module__": text, "__qualname__": text, "failure": text, "code": text}
    made: type[Exception] = type("Made", (ConnectionError,), fields)
    return made(text)


def _sdk_error(text: str) -> BaseException:
    request = httpx2.Request("POST", "http://up.invalid", content=text.encode())
    response = httpx2.Response(429, request=request, text=text)
    body = {"message": text, "param": text}
    error = openai.RateLimitError(text, response=response, body=body)
    vars(error).update(request_id=text, organization=text)
    return error


MAKERS: Final[dict[str, Make]] = {
    "chain": _chain,
    "group": _group,
    "class": _class,
    "SDK error": _sdk_error,
}

# Lone surrogates cannot be encoded, so no class or request can hold them.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


@pytest.fixture(scope="module")
def shared_recorder() -> TelemetryRecorder:
    """Record all examples; making a recorder for each would take long."""
    return TelemetryRecorder()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@settings(deadline=None, max_examples=40)
@given(text=texts, phase=st.sampled_from(Phase))
def test_texts_change_nothing_that_leaves(
    shared_recorder: TelemetryRecorder, make: Make, text: str, phase: Phase
) -> None:
    """Exported bytes, agent bytes and state errors are the same for any text."""
    plain = _observe(shared_recorder, make("a"), phase, "a")

    laden = _observe(shared_recorder, make(text), phase, text)

    assert laden == plain


def _observe(
    recorder: TelemetryRecorder, error: BaseException, phase: Phase, text: str
) -> tuple[bytes, str, str]:
    """Fail one rollout, in an exchange and beside it; return all that shows of it."""
    before = len(recorder.spans())
    registry = RolloutRegistry(recorder.telemetry)
    rollout = registry.open("r1", attributes={"object": [text], "tenant": "t"})
    exchange = rollout.start_exchange(_REQUEST, agent_present=lambda _: True)
    exchange.describe_request({"messages": text, "stop": [text], "stream": False})
    exchange.fail(error, phase=phase)
    exchange.handler_raised(error)
    exchange.finish()
    rollout.fail(error, phase=phase)
    registry.close("r1")
    body = error_body(Dialect.MESSAGES, exchange.failure, trace_id=None)
    spans = encode_spans(recorder.spans()[before:])
    return _timeless(spans), json.dumps(body), _state_of(rollout)


def _timeless(request: ExportTraceServiceRequest) -> bytes:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                _strip(span)
    return request.SerializeToString(deterministic=True)


def _strip(span: Span) -> None:
    for name in ("trace_id", "span_id", "parent_span_id"):
        span.ClearField(name)
    attributes = [*span.attributes]
    for event in span.events:
        attributes += event.attributes
    for attribute in attributes:
        if attribute.key == _FINGERPRINT:
            attribute.value.Clear()
    for event in span.events:
        event.ClearField("time_unix_nano")
    for link in span.links:
        link.Clear()
    span.ClearField("start_time_unix_nano")
    span.ClearField("end_time_unix_nano")


def _state_of(rollout: Rollout) -> str:
    error = rollout.error
    assert error is not None
    return f"{error!r} {error} {error.failure!r}"
