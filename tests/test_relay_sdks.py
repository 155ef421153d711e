"""The OpenAI and Anthropic SDKs through the relay, to a server that speaks it all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from otel_intercept import RolloutRegistry
from otel_intercept.server import InterceptionServer, make_relay_app, relay_runner
from otel_intercept.telemetry import Telemetry
from otel_intercept.testing import TelemetryRecorder
from tests.relayed import listening, refuses, relaying, streams
from tests.sdks import DIALECTS, Sdks, ServerError, StatusError, told
from tests.served import (
    SECRET,
    Consumer,
    answering,
    attribute,
    base_url,
    chat_body,
    consuming,
    exchange_spans,
    outcomes,
)


@asynccontextmanager
async def provider(consumer: Consumer) -> AsyncIterator[InterceptionServer]:
    """Serve a model API of all dialects: the interception server, unobserved."""
    server = InterceptionServer(
        RolloutRegistry(Telemetry()), stream_failure="error_frame"
    )
    await server.start()
    queue = server.register_rollout("api")
    async with consuming(server, queue, consumer):
        yield server
    await server.stop()


@asynccontextmanager
async def agent(
    registry: RolloutRegistry, server: InterceptionServer
) -> AsyncIterator[Sdks]:
    """Give the clients of an agent behind a relay to that API."""
    app = make_relay_app(
        registry, upstream=base_url(server, "api"), upstream_key=server.secret
    )
    async with (
        listening(relay_runner(app)) as url,
        Sdks(f"{url}/rollout/r1", "unused", max_retries=0) as sdks,
    ):
        yield sdks


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("stream", [False, True])
async def test_every_dialect_passes(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str, stream: bool
) -> None:
    """Each SDK gets its answer, streamed or not, and each exchange is described."""
    async with (
        provider(answering(chat_body("hello"))) as server,
        agent(registry, server) as sdks,
    ):
        text = await (sdks.stream(dialect) if stream else sdks.ask(dialect))

    (span,) = exchange_spans(recorder)
    assert text == "hello"
    assert attribute(span, "intercept.exchange.outcome") == "ok"
    assert attribute(span, "intercept.exchange.stream") is stream


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_failure_is_the_error_that_the_sdk_promises(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str
) -> None:
    """A 500 raises InternalServerError with the relay's trace id in it."""
    async with (
        provider(answering(error=TimeoutError(SECRET))) as server,
        agent(registry, server) as sdks,
    ):
        with pytest.raises(ServerError) as raised:
            await sdks.ask(dialect)
        rollout = registry.get("r1")

    assert rollout is not None
    assert rollout.trace_id in told(raised.value)[1]
    assert outcomes(recorder) == ["upstream_failed"]


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_a_stream_that_fails_is_seen_by_both(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str
) -> None:
    """An upstream's error frame raises in the SDK, and fails the rollout."""
    async with (
        provider(answering(error=TimeoutError(SECRET))) as server,
        agent(registry, server) as sdks,
    ):
        with pytest.raises(Exception, match="timed out"):
            await sdks.stream(dialect)

    assert outcomes(recorder) == ["error_frame"]


@pytest.mark.parametrize("dialect", ["chat", "messages"])
async def test_retries_of_the_sdk_are_counted(
    recorder: TelemetryRecorder, registry: RolloutRegistry, dialect: str
) -> None:
    """One logical failure is three exchanges with their retry count."""
    async with (
        relaying(registry, refuses(503, headers={"retry-after-ms": "1"})) as relay,
        Sdks(f"{relay.url}/rollout/r1", "key", max_retries=2) as sdks,
    ):
        with pytest.raises(StatusError) as raised:
            await sdks.ask(dialect)

    assert told(raised.value)[0] == 503
    counts = [
        attribute(span, "intercept.exchange.retry_count")
        for span in exchange_spans(recorder)
    ]
    assert counts == [0, 1, 2]


async def test_a_refusal_is_not_retried(registry: RolloutRegistry) -> None:
    """A 400 for too long a prompt keeps the code that agents look for."""
    error = {"error": {"code": "context_length_exceeded", "message": SECRET}}
    async with (
        relaying(registry, refuses(400, error)) as relay,
        Sdks(f"{relay.url}/rollout/r1", "key", max_retries=2) as sdks,
    ):
        with pytest.raises(StatusError) as raised:
            await sdks.ask("chat")

        assert len(relay.upstream.received) == 1
    assert "context_length_exceeded" in told(raised.value)[1]
    assert SECRET not in told(raised.value)[1]


async def test_the_agents_key_reaches_the_upstream(registry: RolloutRegistry) -> None:
    """Without a key of the operator's, each SDK's own way of sending its key works."""
    async with (
        relaying(registry, streams) as relay,
        Sdks(f"{relay.url}/rollout/r1", "agents-key") as sdks,
    ):
        await sdks.stream("chat")
        await sdks.stream("messages")

        for received in relay.upstream.received:
            assert "agents-key" in str(received.headers)
