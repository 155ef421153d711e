"""How the relay's rollouts open, stand and close."""

import asyncio
import gc
import json

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan

from otel_intercept import Exchange, Rollout, RolloutOutcome, RolloutRegistry
from otel_intercept.testing import TelemetryRecorder
from tests.relayed import (
    DONE,
    EVENT,
    answers,
    begin_stream,
    hangs,
    refuses,
    relaying,
    streams,
)
from tests.served import CHAT, SECRET, Reply, attribute, exchange_spans, settle, until

CONTROL = "/rollout/r1"


def roots(recorder: TelemetryRecorder) -> list[ReadableSpan]:
    """Give the root spans."""
    return [span for span in recorder.spans() if span.name == "rollout"]


def facts(reply: Reply) -> dict[str, object]:
    """Give the JSON object of a reply."""
    value = reply.json()
    assert isinstance(value, dict)
    return value


async def test_the_first_request_opens_the_rollout(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """All requests of an id are one rollout, and so one trace, until it is closed."""
    async with relaying(registry, answers) as relay:
        await relay.call()
        await relay.call(f"{CONTROL}/v1/messages")
        closed = await relay.call(CONTROL, b"", method="DELETE")
        await relay.call()

    assert facts(closed)["outcome"] == "completed"
    assert facts(closed)["exchanges"] == 2
    traces = [
        span.context and span.context.trace_id for span in exchange_spans(recorder)
    ]
    assert traces[0] == traces[1] != traces[2]


async def test_an_idle_rollout_is_abandoned(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """After idle_close_s without a request the rollout ends, an unused one too."""
    idle_s = 0.3
    loop = asyncio.get_running_loop()
    sent = loop.time()
    async with relaying(registry, answers, idle_close_s=idle_s) as relay:
        await relay.call("/rollout/unused", b"", method="PUT")
        while registry.get("unused") is not None:
            sent = loop.time()
            await relay.call()
            await asyncio.sleep(0.05)
        # Unless the machine has stood still since.
        assert registry.get("r1") is not None or loop.time() - sent >= idle_s

        await until(lambda: len(registry) == 0)

    ended = {
        attribute(root, "intercept.rollout.id"): attribute(
            root, "intercept.rollout.outcome"
        )
        for root in roots(recorder)
    }
    assert ended == {"unused": "abandoned", "r1": "abandoned"}


async def test_a_rollout_with_a_running_exchange_is_not_idle(
    registry: RolloutRegistry,
) -> None:
    """A stream keeps its rollout open, however long it takes."""
    go_on = asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        await go_on.wait()
        await response.write(EVENT + DONE)
        return response

    async with relaying(registry, slow, idle_close_s=0.1) as relay:
        calling = asyncio.create_task(relay.call())
        await until(lambda: relay.upstream.received)
        await asyncio.sleep(0.25)
        status = await relay.call(CONTROL, b"", method="GET")
        assert facts(status)["running"] == 1

        loop = asyncio.get_running_loop()
        began = loop.time()
        go_on.set()
        await calling

        # Unless the machine has stood still meanwhile.
        assert registry.get("r1") is not None or loop.time() - began >= 0.1
        await until(lambda: len(registry) == 0)


async def test_putting_opens_a_rollout(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """PUT gives the names of the trace, and takes attributes and a trace id."""
    body = {"attributes": {"env.name": "maths", "step": 3}, "trace_id": "0a" * 16}
    async with relaying(registry, answers) as relay:
        opened = await relay.call(CONTROL, json.dumps(body).encode(), method="PUT")
        rollout = registry.get("r1")
        again = await relay.call(CONTROL, b"", method="PUT")
        await relay.call()

    assert rollout is not None
    assert opened.status == 201
    assert opened.json() == {
        "rollout_id": "r1",
        "trace_id": "0a" * 16,
        "traceparent": rollout.traceparent,
    }
    assert again.status == 409
    (root,) = roots(recorder)
    assert attribute(root, "env.name") == "maths"
    assert attribute(root, "step") == 3
    assert attribute(root, "intercept.rollout.exchanges") == 1


async def test_putting_joins_a_parent(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A parent makes the rollout part of the operator's own trace."""
    parent = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with relaying(registry, answers) as relay:
        body = json.dumps({"parent": parent}).encode()
        opened = await relay.call(CONTROL, body, method="PUT")

    assert facts(opened)["trace_id"] == "ab" * 16
    (root,) = roots(recorder)
    assert root.parent is not None
    assert f"{root.parent.span_id:016x}" == "cd" * 8


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"[]",
        b'"text"',
        b'{"attributes": []}',
        b'{"attributes": "x"}',
        b'{"trace_id": 5}',
        b'{"trace_id": "' + SECRET.encode() + b'"}',
        b'{"parent": "' + SECRET.encode() + b'"}',
        b'{"parent": [1]}',
        b'{"' + SECRET.encode() + b'": 1}',
        json.dumps(
            {"trace_id": "0a" * 16, "parent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
        ).encode(),
    ],
)
async def test_a_malformed_put_is_refused_without_an_echo(
    registry: RolloutRegistry, data: bytes
) -> None:
    """The operator is told what is expected, and nothing is opened."""
    async with relaying(registry, answers) as relay:
        reply = await relay.call(CONTROL, data, method="PUT")

        assert len(registry) == 0
    assert reply.status == 400
    assert list(facts(reply)) == ["error"]
    assert SECRET not in reply.body.decode()


async def test_a_malformed_id_is_refused(registry: RolloutRegistry) -> None:
    """An id of more than 256 characters opens nothing and reaches nobody."""
    async with relaying(registry, answers) as relay:
        path = f"/rollout/{'x' * 257}"
        put = await relay.call(path, b"", method="PUT")
        relayed = await relay.call(f"{path}/v1/{CHAT}")
        longest = await relay.call(f"/rollout/{'x' * 256}/v1/{CHAT}")

        assert len(registry) == 1
    assert (put.status, relayed.status, longest.status) == (400, 400, 200)
    assert len(relay.upstream.received) == 1


async def test_invented_ids_are_refused_beyond_a_bound(
    registry: RolloutRegistry,
) -> None:
    """With too many rollouts open, a request of another id is a 503 of the relay."""
    async with relaying(registry, answers, max_rollouts=1) as relay:
        replies = [
            await relay.call(f"/rollout/{name}/v1/{CHAT}") for name in ("a", "b", "a")
        ]

        assert len(registry) == 1
    assert [reply.status for reply in replies] == [200, 503, 200]
    assert replies[1].json() == {"error": "too many rollouts are open"}
    assert len(relay.upstream.received) == 2


async def test_the_status_tells_how_a_rollout_stands(registry: RolloutRegistry) -> None:
    """GET gives counts, and the outcome and error type so far."""
    async with relaying(registry, answers) as relay:
        unknown = await relay.call(CONTROL, b"", method="GET")
        await relay.call()
        fine = facts(await relay.call(CONTROL, b"", method="GET"))
        relay.upstream.script = refuses(503, {"error": {"message": SECRET}})
        await relay.call()
        failed = facts(await relay.call(CONTROL, b"", method="GET"))
        rollout = registry.get("r1")

    assert (unknown.status, unknown.json()) == (404, {"error": "Rollout not found"})
    assert rollout is not None
    assert fine == {
        "rollout_id": "r1",
        "trace_id": rollout.trace_id,
        "traceparent": rollout.traceparent,
        "open": True,
        "exchanges": 1,
        "failures": 0,
        "outcome": None,
        "error_type": None,
        "running": 0,
    }
    assert (failed["exchanges"], failed["failures"]) == (2, 1)
    assert (failed["outcome"], failed["error_type"]) == (
        "failed",
        "upstream_overloaded",
    )


@pytest.mark.parametrize("given", ["completed", "failed", "cancelled", "stopped"])
async def test_deleting_closes_a_rollout_as_told(
    recorder: TelemetryRecorder, registry: RolloutRegistry, given: str
) -> None:
    """DELETE ends the rollout with the outcome that it is given."""
    async with relaying(registry, answers) as relay:
        await relay.call(CONTROL, b"", method="PUT")
        closed = await relay.call(f"{CONTROL}?outcome={given}", b"", method="DELETE")
        again = await relay.call(CONTROL, b"", method="DELETE")

    assert closed.status == 200
    assert (facts(closed)["outcome"], facts(closed)["open"]) == (given, False)
    assert again.status == 404
    (root,) = roots(recorder)
    assert attribute(root, "intercept.rollout.outcome") == given


@pytest.mark.parametrize("given", ["aborted", "abandoned", "", "x", SECRET])
async def test_an_outcome_that_is_not_the_callers_is_refused(
    registry: RolloutRegistry, given: str
) -> None:
    """Only four outcomes can be given; the rollout stays open."""
    async with relaying(registry, answers) as relay:
        await relay.call(CONTROL, b"", method="PUT")
        reply = await relay.call(f"{CONTROL}?outcome={given}", b"", method="DELETE")

        assert len(registry) == 1
    assert reply.status == 400
    assert given == "" or given not in reply.body.decode()


async def test_deleting_lets_running_exchanges_end(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An exchange that runs when its rollout is closed ends in the same trace."""
    go_on = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return await answers(request)

    async with relaying(registry, waits) as relay:
        calling = asyncio.create_task(relay.call())
        await until(lambda: relay.upstream.received)
        await relay.call(CONTROL, b"", method="DELETE")
        go_on.set()

        assert (await calling).status == 200
    (root,) = roots(recorder)
    (span,) = exchange_spans(recorder)
    assert root.context is not None
    assert span.parent is not None
    assert span.parent.span_id == root.context.span_id


async def test_control_needs_its_secret_and_relaying_does_not(
    registry: RolloutRegistry,
) -> None:
    """The control secret guards PUT, GET and DELETE, but not model calls or health."""
    async with relaying(registry, answers, control_secret=SECRET) as relay:
        refused = [
            await relay.call(CONTROL, b"", method=method, headers=headers)
            for method in ("PUT", "GET", "DELETE")
            for headers in ({}, {"Authorization": "Bearer x"}, {"x-api-key": "ü"})
        ]
        assert len(registry) == 0
        free = await relay.call()
        health = await relay.call("/health", b"", method="GET")
        allowed = await relay.call(
            CONTROL, b"", method="GET", headers={"Authorization": f"Bearer {SECRET}"}
        )

    assert {reply.status for reply in refused} == {401}
    assert (free.status, allowed.status) == (200, 200)
    assert (health.status, health.json()) == (200, {"status": "ok"})


async def test_stopping_aborts_what_is_open(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """When the relay stops, its rollouts end as aborted, and nothing runs on."""
    async with relaying(registry, hangs) as relay:
        calling = asyncio.create_task(relay.call())
        await until(lambda: relay.upstream.received)

    await asyncio.wait((calling,))
    assert calling.exception() is not None
    assert len(registry) == 0
    (root,) = roots(recorder)
    assert attribute(root, "intercept.rollout.outcome") == "aborted"
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})


async def test_a_rollout_of_someone_else_is_used_and_left_alone(
    registry: RolloutRegistry,
) -> None:
    """A rollout that was opened in the registry is neither abandoned nor aborted."""
    rollout = registry.open("r1")
    async with relaying(registry, answers, idle_close_s=0.05) as relay:
        await relay.call()
        await asyncio.sleep(0.15)

        assert registry.get("r1") is rollout
    assert registry.get("r1") is rollout
    assert rollout.exchanges == 1


async def test_an_id_that_was_closed_elsewhere_can_be_used_again(
    registry: RolloutRegistry,
) -> None:
    """The idle timer of an earlier rollout does not end a later one of the same id."""
    async with relaying(registry, answers, idle_close_s=0.15) as relay:
        await relay.call()
        registry.close("r1")
        rollout = registry.open("r1")

        await asyncio.sleep(0.3)

        assert registry.get("r1") is rollout
        registry.close("r1", outcome=RolloutOutcome.COMPLETED)
        await relay.call()
        await relay.call(CONTROL, b"", method="DELETE")


async def test_nothing_is_left_of_many_relayed_streams(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """After their rollouts are closed, no exchange, rollout or timer is kept."""

    def census() -> int:
        gc.collect()
        kinds = (Exchange, Rollout, asyncio.TimerHandle, asyncio.Task)
        return sum(issubclass(type(thing), kinds) for thing in gc.get_objects())

    async def rollout(number: int) -> None:
        path = f"/rollout/{number}"
        assert (await relay.call(f"{path}/v1/{CHAT}")).status == 200
        assert (await relay.call(path, b"", method="DELETE")).status == 200

    async with relaying(registry, streams) as relay:
        counts = []
        for _ in range(2):
            await asyncio.gather(*map(rollout, range(50)))
            recorder.flush()
            await settle(100)
            counts.append(census())

        assert counts[0] == counts[1]
