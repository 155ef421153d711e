"""What a table of intercepts reads of one, beside what the exchange itself would."""

import asyncio
from typing import Final

import pytest
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler

from otel_intercept import Exchange, RolloutRegistry
from otel_intercept.current import enter, leave
from otel_intercept.instrumentation.verifiers.host import Host, Options
from otel_intercept.instrumentation.verifiers.legacy_intercepts import WatchedIntercepts
from otel_intercept.record import Request
from otel_intercept.semconv import Dialect
from otel_intercept.testing import TelemetryRecorder

REQUEST: Final = Request("POST", "/x", "http", Dialect.CHAT_COMPLETIONS)
ANSWER: Final[dict[str, object]] = {"model": "answers", "choices": []}


def start(registry: RolloutRegistry) -> Exchange:
    """Start an exchange of a rollout of its own."""
    rollout = registry.open("r1")
    return rollout.start_exchange(REQUEST, agent_present=lambda _: True)


async def end(exchange: Exchange, future: "asyncio.Future[object]") -> None:
    """Have the upstream answer, and then the exchange."""
    future.set_result(ANSWER)
    await asyncio.sleep(0)
    exchange.answer_began(200, event_stream=False)
    exchange.answer_ended()
    exchange.handler_returned()


async def by_intercept(
    recorder: TelemetryRecorder, model: object, *, stream: bool
) -> None:
    """Let an exchange be described by what stands in an intercept."""
    registry = RolloutRegistry(recorder.telemetry)
    table = WatchedIntercepts({}, Host(recorder.telemetry, Options()), registry)
    exchange = start(registry)
    future: asyncio.Future[object] = asyncio.Future()
    token = enter(exchange)
    table["req"] = {
        "rollout_id": "r1",
        "response_future": future,
        "model": model,
        "stream": stream,
    }
    leave(token)
    await end(exchange, future)
    _ = registry.close("r1")


async def by_itself(
    recorder: TelemetryRecorder, model: object, *, stream: bool
) -> None:
    """Let an exchange read a body of the same."""
    registry = RolloutRegistry(recorder.telemetry)
    exchange = start(registry)
    future: asyncio.Future[object] = asyncio.Future()
    exchange.describe_request({"model": model, "stream": stream})
    _ = exchange.watch(future)
    exchange.describe_response(ANSWER)
    await end(exchange, future)
    _ = registry.close("r1")


def told(recorder: TelemetryRecorder) -> object:
    """Return what was told, but for ids, times and durations."""
    assert recorder.flush()
    spans = [
        (span.name, dict(span.attributes or {}), span.status.status_code)
        for span in recorder.spans()
    ]
    points = [(point.name, dict(point.attributes)) for point in recorder.metrics()]
    return spans, points


@pytest.mark.parametrize("sampler", [ALWAYS_ON, ALWAYS_OFF])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["gpt", "no model", "m" * 97, "", 5, None, ["m"]])
async def test_an_intercept_says_what_a_body_says(
    model: object, stream: bool, sampler: Sampler
) -> None:
    """What is remembered of a model and its stream flag is what a body would say."""
    recorders = [TelemetryRecorder(sampler=sampler) for _ in range(2)]

    await by_intercept(recorders[0], model, stream=stream)
    await by_itself(recorders[1], model, stream=stream)

    assert told(recorders[0]) == told(recorders[1])
    for recorder in recorders:
        recorder.telemetry.shutdown()
