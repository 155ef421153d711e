"""What the interception server does with registrations and with requests."""

import asyncio

import pytest

from otel_intercept import (
    ConfigurationError,
    InterceptionError,
    RolloutOutcome,
    RolloutRegistry,
)
from otel_intercept.server import InterceptionServer, deliver_response
from otel_intercept.testing import TelemetryRecorder
from tests.served import (
    CHAT,
    MESSAGES,
    answering,
    call,
    chat_body,
    consuming,
    outcomes,
    raw_agent,
    running,
    settle,
    until,
)

ASK = {"model": "m", "messages": MESSAGES}


async def test_registering_again_replaces_the_registration(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 8: the same id gets a new queue and state, in a rollout of its own."""
    first_state: dict[str, object] = {}
    state: dict[str, object] = {}
    async with running(registry) as server:
        first = server.register_rollout("r1", first_state)
        queue = server.register_rollout("r1", state)

        assert queue is not first
        assert server.active_rollouts["r1"]["state"] is state
        async with consuming(server, queue, answering(error=TimeoutError())):
            reply = await call(server, body=ASK)

    assert reply.status == 500
    assert first_state == {}
    assert type(state["error"]) is InterceptionError
    roots = [span for span in recorder.spans() if span.name == "rollout"]
    assert len(roots) == 2


async def test_replacing_a_registration_keeps_its_open_requests(
    registry: RolloutRegistry,
) -> None:
    """Item 8: a request from before can still be answered, or goes with the rollout."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        answered = asyncio.create_task(call(server, body=ASK))
        request_id = await queue.get()
        dropped = asyncio.create_task(call(server, body=ASK))
        await queue.get()

        server.register_rollout("r1")
        server.deliver_response(server.intercepts[request_id], chat_body())
        server.unregister_rollout("r1")

        assert (await answered).status == 200
        assert (await dropped).status == 499


@pytest.mark.parametrize(
    "data", [b"", b"{", b"\xff\xfe{}", b'{"a": \xff}', b"[" * 100_000]
)
async def test_a_body_that_is_no_json_is_refused_without_an_echo(
    registry: RolloutRegistry, data: bytes
) -> None:
    """Item 9: the agent is told that the JSON is invalid, in constant words."""
    async with running(registry) as server:
        server.register_rollout("r1")

        reply = await call(server, data=data)

        assert server.intercepts == {}
    assert (reply.status, reply.json()) == (400, {"error": "Invalid JSON"})


async def test_too_large_a_body_is_refused_as_such(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Item 9, done better: a body above the limit gives 413."""
    async with running(registry, client_max_size=1000) as server:
        server.register_rollout("r1")

        reply = await call(server, data=b" " * 1001)

    assert (reply.status, reply.json()) == (413, {"error": "Request body too large"})
    assert outcomes(recorder) == ["rejected"]


async def test_a_body_of_48_mib_passes_by_default(registry: RolloutRegistry) -> None:
    """Item 2: the default limit is 48 MiB."""
    server = InterceptionServer(registry)
    await server.start()
    server.register_rollout("r1")

    fits = await call(server, data=b" " * (48 << 20))
    exceeds = await call(server, data=b" " * ((48 << 20) + 1))

    await server.stop()
    assert (fits.status, exceeds.status) == (400, 413)


@pytest.mark.parametrize("body", [[], "text", 3, True, [{"model": "m"}]])
async def test_json_that_is_no_object_is_refused(
    recorder: TelemetryRecorder, registry: RolloutRegistry, body: object
) -> None:
    """Item 10, done better: it gives 400, no intercept, and an untouched state."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        server.register_rollout("r1", state)

        reply = await call(server, body=body)

        assert server.intercepts == {}
    assert reply.status == 400
    assert reply.json() == {"error": "Request body must be a JSON object"}
    assert state == {}
    assert outcomes(recorder) == ["rejected"]


async def test_an_agent_that_leaves_while_sending_is_gone(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An upload that breaks off is the agent's leaving, no failure of anybody."""
    state: dict[str, object] = {}
    async with running(registry) as server:
        server.register_rollout("r1", state)
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n"
            f"x-api-key: {server.secret}\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        await until(lambda: len(registry) == 1)
        await settle()

        writer.close()
        await until(lambda: outcomes(recorder))

    assert outcomes(recorder) == ["agent_gone"]
    assert state == {}


async def test_a_rollout_that_ends_while_an_agent_sends_is_not_found(
    registry: RolloutRegistry,
) -> None:
    """A request that was under way when its rollout was unregistered gets a 404."""
    async with running(registry) as server:
        server.register_rollout("r1")
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(
            f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n"
            f"x-api-key: {server.secret}\r\nContent-Length: 2\r\n\r\n{{".encode()
        )
        await settle()

        server.unregister_rollout("r1")
        writer.write(b"}")
        status_line = await reader.readline()

        writer.close()
        assert server.intercepts == {}
    assert status_line.split()[1] == b"404"


@pytest.mark.parametrize(
    ("route", "protocol"),
    [
        (CHAT, "openai_chat_completions"),
        ("completions", "openai_completions"),
        ("responses", "openai_responses"),
        ("messages", "anthropic_messages"),
    ],
)
async def test_an_intercept_has_what_consumers_read(
    registry: RolloutRegistry, route: str, protocol: str
) -> None:
    """Items 11 to 13: keys, protocol and headers are as the consumers know them."""
    body = {
        "messages": MESSAGES,
        "prompt": "p",
        "input": "i",
        "system": "s",
        "model": "m",
        "tools": [{"name": "t"}],
        "temperature": 1,
    }
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        headers = {"X-Api-Key": server.secret, "Authorization": "x", "X-Other": "Kept"}
        waiting = asyncio.create_task(
            call(server, f"v1/{route}", body, headers=headers)
        )

        request_id = await queue.get()
        intercept = server.intercepts[request_id]

        assert list(intercept) == [
            *("request_id", "rollout_id", "protocol", "messages", "prompt", "input"),
            *("system", "model", "tools", "stream", "chunk_queue", "response_future"),
            "headers",
        ]
        assert intercept["request_id"] == request_id
        assert len(request_id) == 12
        assert request_id.startswith("req_")
        assert intercept["rollout_id"] == "r1"
        assert intercept["protocol"] == protocol
        assert intercept["messages"] == MESSAGES
        assert (intercept["prompt"], intercept["input"]) == ("p", "i")
        assert (intercept["system"], intercept["model"]) == ("s", "m")
        assert intercept["tools"] == [{"name": "t"}]
        assert intercept["stream"] is False
        assert intercept["chunk_queue"] is None
        assert intercept["headers"]["x-other"] == "Kept"
        assert not {"authorization", "x-api-key"} & set(intercept["headers"])
        server.unregister_rollout("r1")
        await waiting


async def test_an_answered_request_is_let_go(registry: RolloutRegistry) -> None:
    """Item 14, done better: when handler and consumer are through, nothing is kept."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        intercept = server.intercepts[await queue.get()]

        assert len(server.intercepts) == 1
        deliver_response(intercept, chat_body())
        await waiting

        await until(lambda: not server.intercepts)
        assert server.active_rollouts["r1"]["requests"] == set()


async def test_a_request_stays_until_its_consumer_has_answered(
    registry: RolloutRegistry,
) -> None:
    """A consumer that comes after its agent has left still finds the request."""
    async with running(registry, keepalive_s=0.01) as server:
        queue = server.register_rollout("r1")
        _, writer = await raw_agent(server, {"stream": True})
        request_id = await queue.get()

        writer.transport.abort()
        await settle()
        intercept = server.intercepts[request_id]
        await server.synthesize_stream(intercept, chat_body())

        await until(lambda: not server.intercepts)


async def test_unregistering_cancels_what_is_open_and_nothing_else(
    registry: RolloutRegistry,
) -> None:
    """Item 15: own requests end, the id is gone, other rollouts go on; idempotent."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        other_queue = server.register_rollout("r2")
        cancelled = asyncio.create_task(call(server, body=ASK))
        goes_on = asyncio.create_task(call(server, body=ASK, rollout_id="r2"))
        await queue.get()
        other = await other_queue.get()

        server.unregister_rollout("r1")
        server.unregister_rollout("r1")
        server.unregister_rollout("unknown")

        assert (await cancelled).json() == {"error": "Rollout cancelled"}
        assert list(server.intercepts) == [other]
        assert list(server.active_rollouts) == ["r2"]
        assert registry.get("r1") is None
        server.deliver_response(server.intercepts[other], chat_body())
        assert (await goes_on).status == 200
        assert (await call(server, body=ASK)).status == 404


async def test_a_consumer_may_take_its_request_out(registry: RolloutRegistry) -> None:
    """Item 14: a consumer that pops its request is served like any other."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        answered = asyncio.create_task(call(server, body=ASK))
        intercept = server.intercepts.pop(await queue.get())
        other = asyncio.create_task(call(server, body=ASK))
        taken = server.intercepts.pop(await queue.get())

        server.deliver_response(intercept, chat_body())
        assert (await answered).status == 200
        server.unregister_rollout("r1")

        server.deliver_response(taken, chat_body())
        assert (await other).status == 200


async def test_a_registration_that_fails_changes_nothing_for_open_requests(
    registry: RolloutRegistry,
) -> None:
    """After a malformed registration the earlier requests can still be cancelled."""
    async with running(registry) as server:
        queue = server.register_rollout("r1")
        waiting = asyncio.create_task(call(server, body=ASK))
        await queue.get()

        with pytest.raises(ConfigurationError):
            server.register_rollout("r1", trace_id="short")
        server.unregister_rollout("r1")

        assert (await waiting).status == 499
        assert server.intercepts == {}


def test_settings_that_cannot_work_are_refused(registry: RolloutRegistry) -> None:
    """A keepalive without an interval, or an unknown mode, is a mistake at once."""
    with pytest.raises(ConfigurationError):
        InterceptionServer(registry, keepalive_s=0)
    with pytest.raises(ConfigurationError):
        InterceptionServer(registry, stream_failure="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [None, RolloutOutcome.COMPLETED])
async def test_unregistering_closes_an_adopted_rollout_only_when_told(
    registry: RolloutRegistry, given: RolloutOutcome | None
) -> None:
    """Who opened a rollout closes it, unless unregistering says how it ended."""
    state: dict[str, object] = {}
    rollout = registry.open("r1")
    async with running(registry) as server:
        server.register_rollout("r1", state)

        server.unregister_rollout("r1", given)

    assert rollout.state is state
    assert rollout.outcome is given
    assert (registry.get("r1") is None) == (given is not None)


async def test_unregistering_costs_time_in_own_requests_only(
    registry: RolloutRegistry,
) -> None:
    """Item 15, done better: the requests of a thousand others are not looked at."""
    async with running(registry) as server:
        server.register_rollout("r1")
        touched: list[str] = []

        class Watched(dict[str, object]):
            def __getitem__(self, key: str) -> object:
                touched.append(key)
                return super().__getitem__(key)

            def get(self, key: str, default: object = None) -> object:
                touched.append(key)
                return super().get(key, default)

        for number in range(1000):
            server.intercepts[f"other_{number}"] = Watched()  # type: ignore[assignment]  # a tripwire

        server.unregister_rollout("r1")

        assert touched == []
        server.intercepts.clear()
