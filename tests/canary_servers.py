"""The part of the canary program that serves the interception server and the relays."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import MappingProxyType
from typing import Final

from aiohttp import web

from otel_intercept.server import Intercept, InterceptionServer
from otel_intercept.server.relay import make_relay_app, relay_runner
from tests.canary_callers import LABEL
from tests.canary_exceptions import HOSTILE, hostile
from tests.canary_plan import How, Scenario, Via
from tests.canary_stage import Opaque, Stage

SIDE_ROLLOUT: Final = "side"
"""Registered for the side channel, whose handlers all fail."""

_MAX_BODY: Final = 100_000
_SHORT_S: Final = 0.3


@asynccontextmanager
async def serve_all(stage: Stage) -> AsyncIterator[dict[str, int]]:
    """Serve both servers and all relays; yield their ports, by the plan's names."""
    async with AsyncExitStack() as stack:
        ports: dict[str, int] = {}
        for via, frames in (("server", False), ("frames", True)):
            server = InterceptionServer(
                stage.registry,
                secret=stage.mint("conf.server_secret"),
                client_max_size=_MAX_BODY,
                stream_failure="error_frame" if frames else "done",
            )
            await server.start()
            stack.push_async_callback(server.stop)
            consumers = _register(stage, server, via)
            stack.push_async_callback(_cancel, consumers)
            ports[via] = server.port
        for via, upstream in _upstreams(stage).items():
            app = make_relay_app(
                stage.registry,
                upstream=upstream,
                upstream_key=stage.mint("conf.relay_key"),
                control_secret=stage.mint("conf.server_secret"),
                read_timeout_s=_SHORT_S if via == "relay_slow" else None,
            )
            runner = relay_runner(app, shutdown_timeout_s=1)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            ports[via] = runner.addresses[0][1]
        yield ports


def _upstreams(stage: Stage) -> dict[Via, str]:
    path = stage.mint("conf.path")
    host = ".".join((stage.mint("conf.host"), *[LABEL] * 4))
    return {
        "relay": f"http://127.0.0.1:{stage.port}/{path}",
        "relay_slow": f"http://127.0.0.1:{stage.port}/{path}",
        "relay_refused": f"http://127.0.0.1:1/{path}",
        "relay_no_host": f"http://{host}/{path}",
        "relay_no_tls": f"https://127.0.0.1:{stage.port}/{path}",
    }


def _register(
    stage: Stage, server: InterceptionServer, via: str
) -> list["asyncio.Task[None]"]:
    consumers = []
    for scenario in stage.scenarios.values():
        if scenario.via == via:
            # A rollout that its owner has opened is adopted.
            state = stage.open(scenario)
            queue = server.register_rollout(scenario.rollout_id, state)
            consumer = _consume(stage, server, scenario, queue)
            consumers.append(asyncio.create_task(consumer))
    if via == "server":
        _register_side_channel(stage, server)
    return consumers


def _register_side_channel(stage: Stage, server: InterceptionServer) -> None:
    def fail(*_: object) -> object:
        HOSTILE["message"](stage.mint)
        raise AssertionError

    stage.keep(SIDE_ROLLOUT)
    server.register_rollout(
        SIDE_ROLLOUT,
        tool_handler=fail,
        tool_defs=[{"name": Opaque(stage.mint("app.tool_definition"))}],
        user_handler=fail,
        stop_handler=fail,
        model_handler=fail,
    )
    stage.reached.add("app.tool_definition")


async def _consume(
    stage: Stage,
    server: InterceptionServer,
    scenario: Scenario,
    queue: "asyncio.Queue[str]",
) -> None:
    intercept = server.intercepts[await queue.get()]
    await _CONSUMERS[scenario.how](stage, intercept, scenario)


async def _deliver(stage: Stage, intercept: Intercept, scenario: Scenario) -> None:
    error = _hostile(stage, scenario)
    InterceptionServer.deliver_response(intercept, None, error)


async def _break_stream(stage: Stage, intercept: Intercept, scenario: Scenario) -> None:
    chunks = intercept["chunk_queue"]
    assert chunks is not None
    delta = {"role": "assistant", "content": stage.mint("up.content")}
    chunks.put_nowait({"choices": [{"index": 0, "delta": delta}]})
    await asyncio.sleep(0)
    intercept["response_future"].set_exception(_hostile(stage, scenario))


async def _empty_stream(stage: Stage, intercept: Intercept, scenario: Scenario) -> None:
    error = _hostile(stage, scenario)
    await InterceptionServer.synthesize_stream(intercept, None, error)


async def _bad_answer(stage: Stage, intercept: Intercept, scenario: Scenario) -> None:
    """Answer with an object that fails when it is read."""

    class Answer:
        def model_dump(self, **_: object) -> Mapping[str, object]:
            HOSTILE[scenario.what](stage.mint)
            raise AssertionError

    InterceptionServer.deliver_response(intercept, Answer())


async def _bad_chunk(stage: Stage, intercept: Intercept, scenario: Scenario) -> None:
    """Put a chunk that has no JSON form, and prints as a canary."""
    chunks = intercept["chunk_queue"]
    assert chunks is not None
    content = Opaque(stage.mint("app.chunk"))
    stage.reached.add("app.chunk")
    chunks.put_nowait({"choices": [{"index": 0, "delta": {"content": "hi"}}]})
    chunks.put_nowait({"choices": [{"index": 0, "delta": {"content": content}}]})
    chunks.put_nowait(None)
    intercept["response_future"].set_result(None)


_Consumer = Callable[[Stage, Intercept, Scenario], Awaitable[None]]
_CONSUMERS: Final = MappingProxyType[How, _Consumer](
    {
        "deliver": _deliver,
        "break_stream": _break_stream,
        "empty_stream": _empty_stream,
        "bad_answer": _bad_answer,
        "bad_chunk": _bad_chunk,
    }
)


def _hostile(stage: Stage, scenario: Scenario) -> BaseException:
    error = hostile(scenario.what, stage.mint)
    stage.note(error)
    return error


async def _cancel(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
