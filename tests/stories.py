"""Rollouts to tell of: played through the real pipeline into a file."""

from collections.abc import Callable
from pathlib import Path

import pytest

from otel_intercept import Exchange, Phase, Rollout, RolloutRegistry
from otel_intercept.record import Request
from otel_intercept.sdk.otlp_file import OtlpFileSpanExporter
from otel_intercept.semconv import Dialect
from otel_intercept.settings import Settings
from otel_intercept.telemetry import Telemetry

CANARY = "sk-canary-5ab1c0"
ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"hi"}}]}\n\n'

Play = Callable[[RolloutRegistry], object]


def request(retry_count: int | None = None) -> Request:
    """Make the facts of a chat request."""
    return Request("POST", ROUTE, "http", Dialect.CHAT_COMPLETIONS, retry_count)


def exchange_of(rollout: Rollout, retry_count: int | None = None) -> Exchange:
    """Start an exchange whose agent stays."""
    exchange = rollout.start_exchange(
        request(retry_count), agent_present=lambda _: True
    )
    exchange.describe_request({"model": "scripted-1", "stream": True})
    return exchange


def answer(exchange: Exchange, *, body: bytes = CHUNK + CHUNK) -> None:
    """Answer an exchange with a stream that ends cleanly."""
    exchange.answer_began(200, event_stream=True)
    exchange.answer_wrote(b": keepalive\n\n" + body + b"data: [DONE]\n\n")
    exchange.answer_ended()
    exchange.handler_returned()


def write(path: Path, *plays: Play, shut_down: bool = True) -> Path:
    """Export what the plays do to a file, through the real pipeline."""
    telemetry = Telemetry(
        span_exporter=OtlpFileSpanExporter(path), settings=Settings(recorder="inline")
    )
    registry = RolloutRegistry(telemetry)
    for play in plays:
        play(registry)
    telemetry.flush()
    if shut_down:
        telemetry.shutdown()
    return path


def healthy(registry: RolloutRegistry) -> None:
    """Play a rollout of one good exchange, the second try of the agent's SDK."""
    rollout = registry.open("healthy")
    exchange = exchange_of(rollout, retry_count=1)
    with exchange.upstream_call():
        pass
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    answer(exchange)
    exchange.describe_response({"usage": usage})
    registry.close("healthy")


def failing(registry: RolloutRegistry) -> None:
    """Play a rollout of two failures, of which the second comes too late."""
    rollout = registry.open("failing")
    exchange = exchange_of(rollout)
    with pytest.raises(ConnectionResetError), exchange.upstream_call():
        raise ConnectionResetError(CANARY)
    answer(exchange, body=b"")
    rollout.fail(TimeoutError(CANARY), phase=Phase.LATE)
    registry.close("failing")
