"""Every way in which an exchange of the legacy server can go, and what we say of it."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, TypeAlias

from aiohttp.http import StreamWriter

from otel_intercept.errors import InterceptionError, RolloutError, StreamInterrupted
from tests.hosts.legacy_stage import KEEPALIVE_S, SECRET, Stage, load, response

Scene: TypeAlias = Callable[[Stage], Awaitable[None]]


class Verdict(NamedTuple):
    """What our telemetry has to say of a scene.

    Args:
        outcomes: Of its exchanges, in the order in which they ended.
        error_type: The first failure's, or None.
        error: The class of ``Rollout.error``, or None.
        rollout: The rollout's outcome.
        phase: The first failure's, or None.
        failures: How many failures count.
        rejected: How many requests were for no open rollout.
    """

    outcomes: tuple[str, ...]
    error_type: str | None = None
    error: type[RolloutError] | None = None
    rollout: str = "completed"
    phase: str | None = None
    failures: int = 0
    rejected: int = 0


def fine(*outcomes: str, rejected: int = 0) -> Verdict:
    """Return the verdict on a rollout in which nothing failed."""
    return Verdict(outcomes, rejected=rejected)


def failed(
    outcome: str,
    error_type: str,
    error: type[RolloutError],
    phase: str = "response_future",
    failures: int = 1,
) -> Verdict:
    """Return the verdict on a rollout whose only exchange failed."""
    return Verdict((outcome,), error_type, error, "failed", phase, failures)


async def while_asking(
    stage: Stage, act: Callable[[dict[str, object]], Awaitable[None]], **given: bool
) -> None:
    """Have an agent ask, and act on its intercept meanwhile."""
    asking = asyncio.create_task(stage.ask(**given))
    await act(await stage.intercept())
    await asking


async def json_ok(stage: Stage) -> None:
    """The model answers."""
    await while_asking(stage, lambda one: stage.deliver(one, response()))


async def stream_ok(stage: Stage) -> None:
    """The model's answer is streamed."""
    await while_asking(stage, lambda one: stage.deliver(one, response()), stream=True)


async def json_timeout(stage: Stage) -> None:
    """The model call times out."""
    error = TimeoutError(SECRET)
    await while_asking(stage, lambda one: stage.deliver(one, error=error))


async def stream_timeout(stage: Stage) -> None:
    """The same while streaming: a clean 200 that says nothing."""
    error = TimeoutError(SECRET)
    await while_asking(stage, lambda one: stage.deliver(one, error=error), stream=True)


async def json_model_error(stage: Stage) -> None:
    """The model call fails inside verifiers' own empty wrapper."""
    error = load("errors").ModelError()
    error.__cause__ = ConnectionRefusedError(SECRET)
    await while_asking(stage, lambda one: stage.deliver(one, error=error))


async def stream_fails_after_done(stage: Stage) -> None:
    """Chunks and [DONE] went out, and then the upstream failed."""

    async def act(one: dict[str, object]) -> None:
        await stage.chunks(one, "hel", "lo", None)
        await asyncio.sleep(KEEPALIVE_S)
        await stage.deliver(one | {"chunk_queue": None}, error=TimeoutError(SECRET))

    await while_asking(stage, act, stream=True)


async def stream_fails_late(stage: Stage) -> None:
    """The upstream fails after some keepalives."""

    async def act(one: dict[str, object]) -> None:
        await asyncio.sleep(4 * KEEPALIVE_S)
        await stage.deliver(one, error=TimeoutError(SECRET))

    await while_asking(stage, act, stream=True)


async def json_cancelled(stage: Stage) -> None:
    """Somebody cancels the future."""

    async def act(one: dict[str, object]) -> None:
        stage.future(one).cancel()

    await while_asking(stage, act)


async def stream_raises_cancelled(stage: Stage) -> None:
    """The future holds a cancellation as its exception: a truncated body."""
    error = asyncio.CancelledError(SECRET)
    await while_asking(stage, lambda one: stage.deliver(one, error=error), stream=True)


async def json_unregistered(stage: Stage) -> None:
    """The rollout is unregistered while its call runs."""

    async def act(_one: dict[str, object]) -> None:
        stage.server.unregister_rollout(stage.rollout_id)

    await while_asking(stage, act)


async def stream_unregistered(stage: Stage) -> None:
    """The same while streaming."""

    async def act(_one: dict[str, object]) -> None:
        await asyncio.sleep(2 * KEEPALIVE_S)
        stage.server.unregister_rollout(stage.rollout_id)

    await while_asking(stage, act, stream=True)


async def json_server_stopped(stage: Stage) -> None:
    """The server is stopped while a call runs."""

    async def act(_one: dict[str, object]) -> None:
        await stage.stop()

    await while_asking(stage, act)


async def stream_server_stopped(stage: Stage) -> None:
    """The same while streaming: the handler swallows it, and hangs on its future."""

    async def act(_one: dict[str, object]) -> None:
        await asyncio.sleep(2 * KEEPALIVE_S)
        await stage.stop()

    await while_asking(stage, act, stream=True)


async def json_agent_gone(stage: Stage) -> None:
    """The agent leaves; the model's answer comes to nobody."""
    agent = stage.agent()
    await agent.connect()
    intercept = await stage.intercept()
    agent.leave()
    await asyncio.sleep(KEEPALIVE_S)
    await stage.deliver(intercept, response())
    await asyncio.sleep(KEEPALIVE_S)


async def json_agent_gone_unregistered(stage: Stage) -> None:
    """The agent leaves, and nobody notices until the rollout is unregistered."""
    agent = stage.agent()
    await agent.connect()
    await stage.intercept()
    agent.leave()
    await asyncio.sleep(KEEPALIVE_S)
    stage.server.unregister_rollout(stage.rollout_id)
    await asyncio.sleep(KEEPALIVE_S)


async def stream_agent_gone(stage: Stage) -> None:
    """The agent leaves a stream: a keepalive finds out."""
    agent = stage.agent(stream=True)
    await agent.connect()
    await stage.intercept()
    agent.leave()
    await asyncio.sleep(4 * KEEPALIVE_S)


async def stream_agent_gone_then_fails(stage: Stage) -> None:
    """After that the upstream fails as well, which nobody waits for any more."""
    agent = stage.agent(stream=True)
    await agent.connect()
    intercept = await stage.intercept()
    agent.leave()
    await asyncio.sleep(4 * KEEPALIVE_S)
    await stage.deliver(intercept, error=TimeoutError(SECRET))
    await asyncio.sleep(KEEPALIVE_S)


async def stream_write_fails(stage: Stage) -> None:
    """The agent leaves between two chunks."""
    agent = stage.agent(stream=True)
    reader = await agent.connect()
    intercept = await stage.intercept()
    await stage.chunks(intercept, "hel")
    stage.seen.append(await reader.readuntil(b"hel"))
    agent.leave()
    await asyncio.sleep(KEEPALIVE_S / 2)
    await stage.chunks(intercept, "lo", None)
    await asyncio.sleep(KEEPALIVE_S)


async def stream_chunk_is_no_json(stage: Stage) -> None:
    """A chunk cannot be serialised."""

    async def act(one: dict[str, object]) -> None:
        await stage.chunks(one, "hel", object())

    await while_asking(stage, act, stream=True)


async def stream_prepare_fails(stage: Stage) -> None:
    """The connection breaks under the status line."""
    await _with_broken_writer(stage, "write_headers")


async def stream_eof_fails(stage: Stage) -> None:
    """The connection breaks under the end of the body."""
    await _with_broken_writer(stage, "write_eof")


async def _with_broken_writer(stage: Stage, method: str) -> None:
    async def broken(*_args: object, **_kwargs: object) -> None:
        raise ConnectionResetError(SECRET)

    agent = stage.agent(stream=True)
    whole = getattr(StreamWriter, method)
    setattr(StreamWriter, method, broken)
    try:
        reader = await agent.connect()
        await stage.deliver(await stage.intercept(), response())
        stage.seen.append(await asyncio.wait_for(reader.read(), 5))
    finally:
        setattr(StreamWriter, method, whole)
    agent.leave()


async def prompt_too_long(stage: Stage) -> None:
    """The loop has stopped for a prompt that is too long."""
    stage.state["prompt_too_long"] = True
    error = load("errors").OverlongPromptError(SECRET)
    await while_asking(stage, lambda one: stage.deliver(one, error=error))


async def first_error_wins(stage: Stage) -> None:
    """The loop has set its own error when the handler comes to it."""
    stage.state["error"] = load("errors").ModelError(SECRET)
    error = TimeoutError(SECRET)
    await while_asking(stage, lambda one: stage.deliver(one, error=error), stream=True)


async def body_is_no_json(stage: Stage) -> None:
    """The agent sends what is no JSON."""
    agent = stage.agent()
    agent.body = b"{" + SECRET.encode()
    await agent.ask()


async def body_is_no_object(stage: Stage) -> None:
    """The agent sends JSON that is no object, which the server does not expect."""
    agent = stage.agent()
    agent.body = b"[1]"
    await agent.ask()


async def answer_cannot_be_serialised(stage: Stage) -> None:
    """The model's answer is none."""
    await while_asking(stage, lambda one: stage.deliver(one, object()))


async def turned_away(stage: Stage) -> None:
    """A wrong credential, an odd one, a rollout that is not there, the side channel."""
    for given in (
        {"secret": "wrong"},
        {"secret": "\u00e4"},
        {"rollout_id": "r2"},
        {"path": "/vf/user"},
        {"path": "/vf/nothing"},
    ):
        agent = stage.agent()
        for name, value in given.items():
            setattr(agent, name, value)
        await agent.ask()


async def side_channel_fails(stage: Stage) -> None:
    """A tool of the rollout raises."""

    def user(_transcript: object) -> None:
        raise RuntimeError(SECRET)

    stage.server.active_rollouts[stage.rollout_id]["user_handler"] = user
    agent = stage.agent()
    agent.path = "/vf/user"
    await agent.ask()


async def other_dialects(stage: Stage) -> None:
    """The same model's answer in the three other shapes."""
    for path in ("/v1/completions", "/v1/responses", "/v1/messages"):
        agent = stage.agent()
        agent.path = path
        asking = asyncio.create_task(agent.ask())
        await stage.deliver(await stage.intercept(), response())
        await asking


SCENES: dict[Scene, Verdict] = {
    json_ok: fine("ok"),
    stream_ok: fine("ok"),
    json_timeout: failed("upstream_failed", "upstream_timeout", InterceptionError),
    stream_timeout: failed("silent_empty", "upstream_timeout", StreamInterrupted),
    json_model_error: failed(
        "upstream_failed", "upstream_connection", InterceptionError
    ),
    stream_fails_after_done: failed(
        "silent_empty", "upstream_timeout", StreamInterrupted
    ),
    stream_fails_late: failed("silent_empty", "upstream_timeout", StreamInterrupted),
    json_cancelled: fine("cancelled"),
    stream_raises_cancelled: fine("cancelled"),
    json_unregistered: fine("cancelled"),
    stream_unregistered: fine("cancelled"),
    json_server_stopped: fine("cancelled"),
    stream_server_stopped: fine("cancelled"),
    json_agent_gone: fine("agent_gone"),
    json_agent_gone_unregistered: fine("agent_gone"),
    stream_agent_gone: failed(
        "cut", "agent_disconnected", StreamInterrupted, "keepalive"
    ),
    stream_agent_gone_then_fails: failed(
        "cut", "agent_disconnected", StreamInterrupted, "keepalive", failures=2
    ),
    stream_write_fails: failed("cut", "agent_disconnected", StreamInterrupted, "chunk"),
    stream_chunk_is_no_json: failed(
        "no_terminal", "upstream_truncated", StreamInterrupted, "eof"
    ),
    stream_prepare_fails: failed(
        "cut", "agent_disconnected", StreamInterrupted, "prepare"
    ),
    # The agent has it all, but verifiers holds it against the rollout.
    stream_eof_fails: failed("ok", "upstream_truncated", InterceptionError, "late"),
    prompt_too_long: Verdict(("clean_stop",), rollout="stopped"),
    first_error_wins: failed("silent_empty", "upstream_timeout", StreamInterrupted),
    body_is_no_json: fine("rejected"),
    body_is_no_object: failed(
        "handler_failed", "handler_error", InterceptionError, "handler"
    ),
    answer_cannot_be_serialised: failed(
        "handler_failed", "handler_error", InterceptionError, "handler"
    ),
    turned_away: fine(rejected=1),
    side_channel_fails: fine(),
    other_dialects: fine("ok", "ok", "ok"),
}
