"""Two hundred streaming rollouts at once, and what is left of them: nothing."""

import asyncio
import gc
from collections import Counter

import aiohttp
import pytest

from otel_intercept import Exchange, Rollout, RolloutOutcome, RolloutRegistry
from otel_intercept.record import (
    ExchangeEnded,
    ExchangeRejected,
    FailureSeen,
    RolloutEnded,
    RolloutStarted,
)
from otel_intercept.server import InterceptionServer
from otel_intercept.stream import StreamMeter
from otel_intercept.testing import TelemetryRecorder
from tests.served import CHAT, base_url, chat_body, chunk, outcomes, running, settle

ROLLOUTS = 200
KINDS = (
    *(Exchange, Rollout, StreamMeter, aiohttp.web.Request, aiohttp.web.StreamResponse),
    *(ExchangeEnded, ExchangeRejected, FailureSeen, RolloutEnded, RolloutStarted),
    *(asyncio.Task, asyncio.Future, asyncio.Queue, asyncio.TimerHandle),
)


def census() -> Counter[str]:
    """Count the living objects that a rollout is made of."""
    gc.collect()
    counts: Counter[str] = Counter()
    for thing in gc.get_objects():
        # Living objects of other tests may lie about their class, or raise when asked.
        bases = type.__getattribute__(type(thing), "__mro__")
        counts.update(
            kind.__name__ for kind in KINDS if any(base is kind for base in bases)
        )
    return counts


async def run_rollout(
    server: InterceptionServer, session: aiohttp.ClientSession, number: int
) -> bytes:
    """Run one rollout of one streaming request, of four kinds."""
    rollout_id = f"r{number}"
    queue = server.register_rollout(rollout_id, {})
    arrived = asyncio.create_task(ask(server, session, rollout_id))
    intercept = server.intercepts[await queue.get()]
    chunks = intercept["chunk_queue"]
    assert chunks is not None
    for _ in range(5):
        chunks.put_nowait(chunk("word"))
        await asyncio.sleep(0.002)
    match number % 4:
        case 0 | 1:
            await server.synthesize_stream(intercept, chat_body())
        case 2:
            await server.synthesize_stream(intercept, None, TimeoutError())
        case _:
            server.unregister_rollout(rollout_id, RolloutOutcome.CANCELLED)
    body = await arrived
    server.unregister_rollout(rollout_id)
    return body


async def ask(
    server: InterceptionServer, session: aiohttp.ClientSession, rollout_id: str
) -> bytes:
    """Read one stream, as far as it goes."""
    body = b""
    async with session.post(
        f"{base_url(server, rollout_id)}/v1/{CHAT}",
        json={"model": "m", "stream": True, "messages": ["x" * 1000]},
        headers={"x-api-key": server.secret},
    ) as response:
        try:
            async for piece in response.content.iter_any():
                body += piece
        except aiohttp.ClientPayloadError:
            return body
    return body


async def run_all(server: InterceptionServer) -> list[bytes]:
    """Run all rollouts at once."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        return await asyncio.gather(
            *(run_rollout(server, session, number) for number in range(ROLLOUTS))
        )


@pytest.mark.timeout(60)
async def test_nothing_is_left_of_many_streaming_rollouts(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """After they close, no task, future, exchange, rollout or record is left."""
    async with running(registry, keepalive_s=0.05) as server:
        # What a first round sets up once and for all is not counted.
        await run_all(server)
        recorder.flush()
        await settle()
        before = census()

        bodies = await run_all(server)

        recorder.flush()
        await settle()
        after = census()
        assert server.intercepts == {}
        assert server.active_rollouts == {}
        assert len(registry) == 0
        assert after - before == Counter()
    assert sum(b"[DONE]" in body for body in bodies) == ROLLOUTS
    assert asyncio.all_tasks() == {asyncio.current_task()}
    expected = {
        "ok": ROLLOUTS,
        "silent_empty": ROLLOUTS // 2,
        "cancelled": ROLLOUTS // 2,
    }
    assert Counter(outcomes(recorder)) == expected
    balance = recorder.telemetry.balance()
    assert balance.started == balance.ended == balance.exported
