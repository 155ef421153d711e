"""Rollouts that nobody opens: by their first request, until they are idle."""

import asyncio
import gc
import logging
import math

import aiohttp
import pytest
from aiohttp import web

from otel_intercept import (
    ConfigurationError,
    RolloutRegistry,
    exchange_from,
    instrument_app,
)
from otel_intercept.idle import IdleRollouts
from otel_intercept.middleware.instrument import wire_app
from otel_intercept.rollout import Rollout
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve, logged
from tests.served import attribute, exchange_spans, until

ROUTE = "/rollout/{rollout_id}/v1/messages"
SECRET = "sk-canary-1dl3c0"


async def answers(request: web.Request) -> web.StreamResponse:
    """Say which rollout the exchange belongs to."""
    return web.json_response({"trace_id": exchange_from(request).rollout.trace_id})


async def passes(request: web.Request) -> web.StreamResponse:
    """Answer without a look at the exchange."""
    return web.json_response({"passed": True})


def app_of(
    registry: RolloutRegistry, idle_close_s: float | None = 60.0
) -> web.Application:
    """Make an app whose rollouts open by themselves."""
    app = web.Application()
    app.router.add_post(ROUTE, answers)
    instrument_app(app, registry, idle_close_s=idle_close_s)
    return app


async def post(
    url: str, rollout_id: str = "r1", session: aiohttp.ClientSession | None = None
) -> int:
    """Post once, and return the status."""
    if session is None:
        async with aiohttp.ClientSession() as session:
            return await post(url, rollout_id, session)
    async with session.post(f"{url}/rollout/{rollout_id}/v1/messages") as answer:
        await answer.read()
        return answer.status


def root_outcomes(recorder: TelemetryRecorder) -> dict[object, object]:
    """Give the outcome of each ended rollout, by its id."""
    return {
        attribute(span, "intercept.rollout.id"): attribute(
            span, "intercept.rollout.outcome"
        )
        for span in recorder.spans()
        if span.name == "rollout"
    }


def rejected(recorder: TelemetryRecorder) -> float:
    """Count the rejected requests."""
    return sum(
        point.value
        for point in recorder.metrics()
        if point.name == "intercept.exchanges"
        and point.attributes["intercept.exchange.outcome"] == "rejected"
    )


async def test_the_first_request_opens_and_idleness_abandons(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """All requests of an id are one trace, which ends once none has come for long."""
    idle_s = 0.5
    url = await serve(app_of(registry, idle_s))
    loop = asyncio.get_running_loop()
    moments: list[tuple[float, float]] = []

    for _ in range(8):
        sent = loop.time()
        await post(url)
        moments.append((sent, loop.time()))
        await asyncio.sleep(0.1)
    await until(lambda: len(registry) == 0)
    await post(url)

    assert root_outcomes(recorder) == {"r1": "abandoned"}
    *traces, last = [
        span.context and span.context.trace_id for span in exchange_spans(recorder)
    ]
    assert len(traces) == len(moments)
    for (sent, _), (_, answered), one, next_one in zip(
        moments, moments[1:], traces, traces[1:], strict=False
    ):
        # Unless the machine has stood still between them.
        assert one == next_one or answered - sent >= idle_s
    assert last != traces[-1]


async def test_by_default_nothing_opens_by_itself(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """Without idle_close_s a request of a rollout that is not open is rejected."""
    url = await serve(app_of(registry, None))

    status = await post(url)

    assert status == 404
    assert len(registry) == 0
    assert rejected(recorder) == 1


async def test_an_exchange_that_runs_keeps_its_rollout_and_then_the_clock_starts(
    registry: RolloutRegistry, serve: Serve
) -> None:
    """The idle time counts from the end of the last exchange, not from a timer's."""
    go_on = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        await go_on.wait()
        return web.Response()

    app = web.Application()
    app.router.add_post(ROUTE, waits)
    instrument_app(app, registry, idle_close_s=0.4)
    url = await serve(app)
    calling = asyncio.create_task(post(url))
    await asyncio.sleep(0.5)
    kept = len(registry)

    loop = asyncio.get_running_loop()
    began = loop.time()
    go_on.set()
    await calling
    await until(lambda: len(registry) == 0, timeout_s=0.6)

    assert kept == 1
    assert loop.time() - began > 0.35


async def test_a_rollout_of_the_app_is_used_and_left_alone(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """What the app has opened is neither abandoned nor counted as implicit."""
    own = registry.open("r1")
    url = await serve(app_of(registry, 0.05))

    await post(url)
    await asyncio.sleep(0.2)

    assert registry.get("r1") is own
    assert own.exchanges == 1


async def test_the_app_may_close_one_at_any_time(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """After close, also in the middle of an exchange, the id can be opened anew."""
    app = web.Application()

    async def closes(request: web.Request) -> web.StreamResponse:
        registry.close(request.match_info["rollout_id"])
        return web.Response()

    app.router.add_post(ROUTE, closes)
    instrument_app(app, registry, idle_close_s=0.1)
    url = await serve(app)

    await post(url)
    own = registry.open("r1")
    await asyncio.sleep(0.25)

    assert registry.get("r1") is own
    assert root_outcomes(recorder) == {"r1": "completed"}
    (exchange,) = exchange_spans(recorder)
    assert attribute(exchange, "intercept.exchange.outcome") == "ok"


async def test_an_app_that_stops_aborts_its_own_only(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """At cleanup implicit rollouts end as aborted, after their last exchange."""
    app = app_of(registry)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    registry.open("own")
    await post(f"http://{host}:{port}")

    await runner.cleanup()

    assert [registry.get("r1"), len(registry)] == [None, 1]
    assert root_outcomes(recorder) == {"r1": "aborted"}


async def test_invented_ids_are_bounded_counted_and_logged_once(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Beyond the bound a request passes as rejected, until one of the others ends."""
    app = web.Application()
    app.router.add_post(ROUTE, passes)
    implicit = IdleRollouts(registry, 60.0, max_open=2)
    wire_app(app, registry, rollout_id="rollout_id", implicit=implicit)
    url = await serve(app)

    statuses = [await post(url, f"{SECRET}-{number}") for number in range(5)]
    crowded = len(registry)
    registry.close(f"{SECRET}-0")
    await post(url, f"{SECRET}-5")

    assert statuses == [200] * 5
    assert crowded == 2
    assert registry.get(f"{SECRET}-5") is not None
    assert rejected(recorder) == 3
    warnings = [r for r in caplog.records if r.name == "otel_intercept.idle"]
    assert [record.levelno for record in warnings] == [logging.WARNING]
    assert SECRET not in logged(caplog)


@pytest.mark.parametrize("needs_exchange", [True, False])
@pytest.mark.parametrize(
    "rollout_id", ["x" * 257, f"{SECRET}%0a" * 40, "%ed%a0%80" * 99]
)
async def test_a_malformed_id_is_rejected_and_never_a_500(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    rollout_id: str,
    needs_exchange: bool,
) -> None:
    """It passes to the handler; one that needs the exchange answers 404."""
    app = web.Application()
    app.router.add_post(ROUTE, answers if needs_exchange else passes)
    instrument_app(app, registry, idle_close_s=60.0)
    url = await serve(app)

    status = await post(url, rollout_id)

    assert status == (404 if needs_exchange else 200)
    assert len(registry) == 0
    assert rejected(recorder) == 1
    assert SECRET not in logged(caplog)


async def test_an_id_that_no_encoding_can_hold_harms_nobody(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A header's stray bytes become an id like any other; what is exported is whole."""
    app = web.Application()
    app.router.add_post("/v1/messages", passes)
    instrument_app(
        app,
        registry,
        rollout_id=lambda request: request.headers.get("x-id"),
        idle_close_s=60.0,
    )
    url = await serve(app)
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    for value in (b"a\xff\xfeb", b"", b"fine"):
        writer.write(
            b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nx-id: "
            + value
            + b"\r\n\r\n"
        )
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len(b'{"passed": true}'))
        assert head.startswith(b"HTTP/1.1 200")
    writer.close()
    registry.close_all()

    assert len(exchange_spans(recorder)) == 2
    assert recorder.telemetry.balance().failed == 0
    assert b"fine" in recorder.exported_bytes()


async def test_a_rollout_has_one_timer_however_many_requests(
    registry: RolloutRegistry, serve: Serve
) -> None:
    """Requests set no timers; a rollout that is closed leaves none behind."""

    def timers() -> int:
        gc.collect()
        return sum(
            type(thing) is asyncio.TimerHandle
            and not thing.cancelled()
            and thing.when() > asyncio.get_running_loop().time() + 5000
            for thing in gc.get_objects()
        )

    url = await serve(app_of(registry, 10_000.0))
    async with aiohttp.ClientSession() as session:
        counts = [timers()]
        for rollout_id in ("r1", "r2", *["r1"] * 20):
            await post(url, rollout_id, session)
        counts.append(timers())
        registry.close("r1")
        registry.close("r2")
        counts.append(timers())

    assert counts == [0, 2, 0]


async def test_a_mounted_app_that_is_instrumented_too_opens_one_rollout(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """Root and sub-app in one registry make one trace and one span per request."""
    root = web.Application()
    root.add_subapp("/api", app_of(registry))
    instrument_app(root, registry, idle_close_s=60.0)
    url = await serve(root)

    await post(f"{url}/api")

    assert len(exchange_spans(recorder)) == 1
    assert len(registry) == 1


async def test_instrumenting_twice_alike_is_a_no_op_and_else_refused(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """The idle time is one of the arguments that must be the same."""
    app = app_of(registry, 60)

    instrument_app(app, registry, idle_close_s=60.0)
    for other in (None, 61.0):
        with pytest.raises(ConfigurationError, match="or idle_close_s: use one"):
            instrument_app(app, registry, idle_close_s=other)
    await post(await serve(app))

    assert len(exchange_spans(recorder)) == 1


@pytest.mark.parametrize("idle_close_s", [0, -1.0, math.nan, math.inf])
def test_an_idle_time_that_is_none_is_refused(
    registry: RolloutRegistry, idle_close_s: float
) -> None:
    """The message says what is allowed, before anything is changed."""
    app = web.Application()

    with pytest.raises(ConfigurationError, match="number of seconds above 0"):
        instrument_app(app, registry, idle_close_s=idle_close_s)

    assert list(app.middlewares) == []


async def test_a_rollout_that_has_ended_leaves_no_cycle(
    registry: RolloutRegistry,
) -> None:
    """What was opened here is gone when it is closed: no collection has to find it."""
    idle = IdleRollouts(registry, 60.0)
    gc.collect()
    gc.disable()

    try:
        idle.open("r-gone")
        registry.close("r-gone")
        left = [
            one
            for one in gc.get_objects()
            if type(one) is Rollout and one.ref.rollout_id == "r-gone"
        ]
    finally:
        gc.enable()

    assert not left
