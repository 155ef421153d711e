"""A server may be killed at any point: its helper exports all that it had done."""

import asyncio
import os
import random
import sys

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.collectors import HttpCollector
from tests.samples import wait_until
from tests.watched import (
    Load,
    Story,
    attributes_of,
    helpers_of,
    is_alive,
    process_environ,
    traces_of,
    watched_server,
)

LONG_BEATS = 27
"""After so many, 0.6 s or more, the helper knows of an exchange."""

KILLS = int(os.environ.get("KILLS", "10"))

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("seed", range(KILLS))
async def test_a_killed_server_leaves_whole_traces(seed: int) -> None:
    """Wherever a server was killed, each rollout has its root, and it has ended."""
    seconds = random.Random(seed).uniform(0.02, 1.5)  # noqa: S311 - a point in time
    with (
        HttpCollector() as collector,
        watched_server(process_environ(collector)) as (server, port),
    ):
        (helper,) = helpers_of(server.pid)
        load = Load(port, seed)
        running = asyncio.create_task(load.run(agents=8, seconds=30))

        await asyncio.sleep(seconds)
        killed_at = load.beats
        server.kill()
        await running

        assert await asyncio.to_thread(wait_until, lambda: not is_alive(helper))
        traces = traces_of(collector)
        assert load.stories
        for story in load.stories:
            check(story, traces[story.trace_id], killed_at)
        for spans in traces.values():
            check_parents(spans)


def check(story: Story, spans: list[Span], killed_at: int) -> None:
    """Check that a trace tells all that an agent can know of its rollout."""
    (root,) = [span for span in spans if span.name == "rollout"]
    outcome = attributes_of(root)["intercept.rollout.outcome"]
    if story.closed:
        assert outcome == "completed"
    elif not story.closing:
        assert outcome == "aborted"
    exchanges = {
        attributes["intercept.exchange.index"]: attributes
        for span in spans
        if "intercept.exchange.index" in (attributes := attributes_of(span))
    }
    # The last one's answer may have come before its record was handed over.
    sure = story.answered if story.closed else story.answered - 1
    for index in range(sure):
        assert exchanges[index]["intercept.exchange.outcome"] == "ok"
    assert len(exchanges) == attributes_of(root)["intercept.rollout.exchanges"]
    assert len(exchanges) in {sure, story.answered, story.answered + 1}
    if story.asked_at is not None and killed_at - story.asked_at > LONG_BEATS:
        last = exchanges[story.answered]["intercept.exchange.outcome"]
        assert last == "cancelled"


def check_parents(spans: list[Span]) -> None:
    """Check that each span but the root has its parent in the same trace."""
    ids = {span.span_id for span in spans}
    assert len(ids) == len(spans)
    assert all(span.parent_span_id in ids for span in spans if span.name != "rollout")
