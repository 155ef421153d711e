"""The interception server: its life, its routes and its credential."""

import asyncio
import gc
import socket

import aiohttp
import pytest

from otel_intercept import (
    RolloutOutcome,
    RolloutRegistry,
)
from otel_intercept.server import InterceptionServer
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import logged
from tests.served import (
    CHAT,
    MESSAGES,
    ROUTES,
    call,
    outcomes,
    running,
)

ASK = {"model": "m", "messages": MESSAGES}


def test_an_empty_secret_becomes_a_random_one(registry: RolloutRegistry) -> None:
    """Item 1: a missing or empty secret is replaced by 43 random characters."""
    first = InterceptionServer(registry, secret="")
    second = InterceptionServer(registry)

    assert len(first.secret) == len(second.secret) == 43
    assert first.secret != second.secret
    assert InterceptionServer(registry, secret="mine").secret == "mine"
    assert first.active_rollouts == {}
    assert first.intercepts == {}


async def test_starting_twice_listens_once(registry: RolloutRegistry) -> None:
    """Item 2: concurrent and repeated starts leave one listener on a resolved port."""
    server = InterceptionServer(registry, port=0)

    await asyncio.gather(server.start(), server.start())
    port = server.port
    await server.start()

    assert port != 0
    assert server.port == port
    await server.stop()


async def test_an_occupied_port_leaves_nothing_behind(
    registry: RolloutRegistry,
) -> None:
    """A start that fails raises OSError, keeps the asked port, and can be repeated."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = InterceptionServer(registry, port=taken.getsockname()[1])

        with pytest.raises(OSError, match="address already in use"):
            await server.start()

    await server.start()
    assert (await call(server, "v1/x", method="GET")).status == 404
    await server.stop()


async def test_stopping_gives_the_port_back(registry: RolloutRegistry) -> None:
    """Item 3: stop resets the port to the requested one, and start resolves anew."""
    server = InterceptionServer(registry, port=0)
    await server.start()

    await server.stop()
    await server.stop()

    assert server.port == 0
    await server.start()
    assert server.port != 0
    await server.stop()


async def test_stopping_ends_everything_that_is_open(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Stop answers waiting agents, aborts the rollouts it had opened, keeps nothing."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        rollout = registry.get("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        await queue.get()

        await server.stop()

        assert (await waiting).status == 499
    assert rollout is not None
    assert rollout.outcome is RolloutOutcome.ABORTED
    assert rollout.error is None
    assert server.active_rollouts == {}
    assert server.intercepts == {}
    assert outcomes(recorder) == ["cancelled"]


async def test_stopping_leaves_a_rollout_to_who_opened_it(
    registry: RolloutRegistry,
) -> None:
    """A rollout that the caller opened is adopted, and stays open for the caller."""
    async with registry.rollout("r1") as rollout, running(registry) as server:
        server.register_rollout("r1")

        await server.stop()

        assert registry.get("r1") is rollout


async def test_stopping_cancels_a_handler_that_does_not_end(
    registry: RolloutRegistry,
) -> None:
    """Item 30: stop does not wait out a stuck handler, and leaves no task behind."""
    entered = asyncio.Event()

    async def stuck(name: str, arguments: object) -> None:
        entered.set()
        await asyncio.Event().wait()

    def tool(name: str, arguments: object) -> object:
        return stuck(name, arguments)

    async with running(registry, shutdown_timeout_s=0.05) as server:
        server.register_rollout("r1", tool_handler=tool)
        waiting = asyncio.create_task(call(server, "vf/tools/x", {}))
        await entered.wait()

        async with asyncio.timeout(2):
            await server.stop()

        with pytest.raises(aiohttp.ClientError):
            await waiting
    assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_stopping_after_the_loop_is_closed_only_tidies_up(
    registry: RolloutRegistry,
) -> None:
    """Item 3: when the server's loop is closed, stop does the bookkeeping alone."""
    server = InterceptionServer(registry)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(server.start())
    server.register_rollout("r1")
    loop.close()

    asyncio.run(server.stop())

    assert server.port == 0
    assert server.active_rollouts == {}
    # The socket that the closed loop has left open is collected here, not later.
    del loop
    gc.collect()


async def test_the_routes_are_those_of_the_seed(registry: RolloutRegistry) -> None:
    """Item 4: four model routes and the side channel exist; health needs no secret."""
    async with running(registry) as server:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{server.port}/health") as health,
        ):
            assert (health.status, await health.json()) == (200, {"status": "ok"})

        found = [(await call(server, f"v1/{route}", ASK)).status for route in ROUTES]
        others = [
            (await call(server, "v1/embeddings", ASK)).status,
            (await call(server, f"v1/{CHAT}/x", ASK)).status,
            (await call(server, "vf/other", ASK)).status,
        ]
        wrong_method = await call(server, method="GET")

    assert found == [404] * 4
    assert others == [404] * 3
    assert wrong_method.status == 405


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer top"},
        {"x-api-key": "top"},
        {"x-api-key": "top", "Authorization": "Bearer wrong"},
    ],
)
async def test_the_secret_may_come_in_two_places(
    registry: RolloutRegistry, headers: dict[str, str]
) -> None:
    """Item 5: a bearer token or an x-api-key is enough."""
    async with running(registry, secret="top") as server:
        reply = await call(server, body=ASK, headers=headers)

    assert (reply.status, reply.json()) == (404, {"error": "Rollout not found"})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "top"},
        {"Authorization": "bearer top"},
        {"Authorization": "Bearer top "},
        {"x-api-key": "topp"},
        {"x-api-key": ""},
        {"Authorization": "Bearer "},
    ],
)
@pytest.mark.parametrize("path", [f"v1/{CHAT}", "vf/tools/x", "vf/user", "vf/stop"])
async def test_a_wrong_secret_is_refused_before_the_rollout_is_looked_up(
    registry: RolloutRegistry, headers: dict[str, str], path: str
) -> None:
    """Items 5 and 6: whatever the rollout, a wrong credential gives 401 and no more."""
    async with running(registry, secret="top") as server:
        reply = await call(server, path, ASK, headers=headers)

    trimmed = headers == {"Authorization": "Bearer top "}
    assert reply.status == (404 if trimmed else 401)
    if not trimmed:
        assert reply.json() == {"error": "Unauthorized"}


@pytest.mark.parametrize("value", ["Bearer schlüssel", "\N{SNOWMAN}"])
async def test_a_credential_beyond_ascii_is_refused(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    """Item 7: a non-ASCII credential gives 401, not a traceback."""
    async with running(registry) as server:
        reply = await call(server, body=ASK, headers={"Authorization": value})
        by_key = await call(server, body=ASK, headers={"x-api-key": value})

    assert (reply.status, by_key.status) == (401, 401)
    assert "aiohttp" not in logged(caplog)


async def test_bytes_that_are_no_utf8_are_refused(registry: RolloutRegistry) -> None:
    """Item 7: a credential of any bytes gives 401."""
    async with running(registry) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n".encode()
            + b"Authorization: Bearer \xff\xfe\r\nContent-Length: 0\r\n\r\n"
        )

        status_line = await reader.readline()

        writer.close()
    assert status_line.split()[1] == b"401"


async def test_a_secret_beyond_ascii_works(registry: RolloutRegistry) -> None:
    """A non-ASCII secret admits who sends it."""
    async with running(registry, secret="schlüssel") as server:
        reply = await call(server, body=ASK, headers={"x-api-key": "schlüssel"})

    assert reply.status == 404
