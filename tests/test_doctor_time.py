"""How doctor measures and waits on a machine that stands still now and then."""

import asyncio
import time

import aiohttp
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span

from otel_intercept.cli.doctor.lateness import Lateness
from otel_intercept.cli.doctor.receiver import Receiver, receiving

LINK = "ab" * 8


def linked() -> bytes:
    """Return an export of one span that links to another."""
    link = Span.Link(trace_id=b"t" * 16, span_id=bytes.fromhex(LINK))
    span = Span(trace_id=b"s" * 16, span_id=b"s" * 8, name="POST", links=[link])
    scope = ScopeSpans(spans=[span])
    request = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(scope_spans=[scope])]
    )
    return request.SerializeToString()


def stand_still(seconds: float) -> None:
    """Hold up the event loop, as a machine that is too busy does."""
    time.sleep(seconds)


async def test_how_late_a_loop_was_is_known_when_the_block_has_ended() -> None:
    """The worst counts, also when the block ends before the loop can go on."""
    async with Lateness() as amid:
        stand_still(0.4)
        await asyncio.sleep(0.1)
    async with Lateness() as last:
        await asyncio.sleep(0.1)
        stand_still(0.4)

    assert amid.worst_s >= 0.3
    assert last.worst_s >= 0.3


async def test_telemetry_that_comes_after_a_standstill_is_waited_for() -> None:
    """A machine that stood still for longer than the wait has not used it up."""
    receiver = Receiver(())

    async def spans_after_waiting() -> int:
        await receiver.wait_for({LINK}, 2.0)
        return len(receiver.spans())

    async with receiving(receiver, port=0) as url, aiohttp.ClientSession() as session:
        waiting = asyncio.create_task(spans_after_waiting())
        await asyncio.sleep(0)
        stand_still(2.5)
        async with session.post(f"{url}/v1/traces", data=linked()) as answer:
            status = answer.status
        spans = await waiting

    assert status == 200
    assert spans == 1
