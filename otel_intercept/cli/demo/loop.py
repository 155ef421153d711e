"""The training loop of one rollout: what a host such as verifiers does.

It starts the agent, takes its requests from the queue, calls the model, and hands the
answer back. It learns that a rollout has failed from ``state["error"]`` alone.
"""

import asyncio
from collections.abc import Coroutine
from typing import Final, NamedTuple, Protocol, TypeVar

from otel_intercept import RolloutError, RolloutRegistry
from otel_intercept.cli.demo.agents import AgentExit, Clients, run_agent
from otel_intercept.cli.demo.cues import Cues
from otel_intercept.cli.demo.faults import Fault
from otel_intercept.cli.demo.model_calls import LIVE_PROTOCOLS, ModelCalls
from otel_intercept.cli.demo.plan import Planned
from otel_intercept.cli.demo.scenario import Host, Scenario, Turn
from otel_intercept.cli.demo.tasks import cancel
from otel_intercept.semconv import RolloutOutcome
from otel_intercept.server import (
    Intercept,
    InterceptionServer,
    deliver_response,
    synthesize_stream,
)

T = TypeVar("T")

SCRIPTED: Final = "demo.scripted"
"""Marks every rollout of the demo, in the file and in any backend."""

_NOTICED_S: Final = 0.05
"""Long enough for this very event loop to see that a socket was closed."""


class Played(NamedTuple):
    """What became of a rollout, as the training loop and the agent saw it.

    Args:
        planned: Which rollout.
        agent: How its agent ended.
        error: What stands in ``state["error"]``.
    """

    planned: Planned
    agent: AgentExit
    error: RolloutError | None


class Watcher(Protocol):
    """Who wants to see progress."""

    def turn(self, planned: Planned, number: int) -> None:
        """A rollout's exchange has begun; numbers count from 1."""
        ...

    def ended(self, played: Played) -> None:
        """A rollout is over."""
        ...


class Job(NamedTuple):
    """What the rollouts of one demo share.

    Args:
        registry: Where they are open.
        server: The interception server.
        server_url: Where it listens.
        app_url: Where the own app listens.
        agents: The agents' SDK clients.
        models: The training loop's own.
        planted: The secret that failing parts have in their error texts.
        watcher: Who wants to see progress.
    """

    registry: RolloutRegistry
    server: InterceptionServer
    server_url: str
    app_url: str
    agents: Clients
    models: ModelCalls
    planted: str
    watcher: Watcher


class TrainingLoopBug(Exception):
    """A mistake in the training loop, of a class that nobody has on a list."""


async def play(job: Job, planned: Planned) -> Played:
    """Play one rollout to its end, on the host that its scenario names."""
    state: dict[str, object] = {}
    if planned.scenario.host is Host.SERVER:
        agent = await _play_on_server(job, planned, state)
    else:
        agent = await _play_on_app(job, planned, state)
    error = state.get("error")
    played = Played(planned, agent, error if isinstance(error, RolloutError) else None)
    job.watcher.ended(played)
    return played


async def _play_on_app(
    job: Job, planned: Planned, state: dict[str, object]
) -> AgentExit:
    rollout_id, scenario = planned
    job.registry.open(rollout_id, state=state, attributes=_attributes(scenario))
    url = f"{job.app_url}/rollout/{rollout_id}"
    agent = await run_agent(job.agents, url, job.server.secret, scenario, Cues())
    _close(job, planned)
    return agent


async def _play_on_server(
    job: Job, planned: Planned, state: dict[str, object]
) -> AgentExit:
    rollout_id, scenario = planned
    queue = job.server.register_rollout(
        rollout_id, state=state, attributes=_attributes(scenario)
    )
    url = f"{job.server_url}/rollout/{rollout_id}"
    cues = Cues()
    agent = _start(run_agent(job.agents, url, job.server.secret, scenario, cues))
    turns = iter(scenario.turns)
    number = 0
    while (request_id := await _next_request(queue, agent)) is not None:
        number += 1
        job.watcher.turn(planned, number)
        intercept = job.server.intercepts[request_id]
        await _answer(job, intercept, next(turns), state, cues)
    _close(job, planned)
    return await agent


def _start(work: Coroutine[object, object, T]) -> "asyncio.Task[T]":
    # An interrupt may leave the task alone; asyncio must not print how it ended.
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _attributes(scenario: Scenario) -> dict[str, object]:
    # So that nobody takes scripted failures in a shared backend for real ones.
    return {
        SCRIPTED: True,
        "demo.host": scenario.host.value,
        "demo.fault": scenario.fault.value,
    }


def _close(job: Job, planned: Planned) -> None:
    rollout_id, scenario = planned
    match scenario.outcome:
        case RolloutOutcome.ABORTED:
            # Left open: the demo's own shutdown has to end it.
            return
        case RolloutOutcome.ABANDONED | RolloutOutcome.CANCELLED as outcome:
            job.registry.close(rollout_id, outcome=outcome)
        case _:
            job.registry.close(rollout_id)
    job.server.unregister_rollout(rollout_id)


async def _next_request(
    queue: "asyncio.Queue[str]", agent: "asyncio.Task[AgentExit]"
) -> str | None:
    getting = asyncio.create_task(queue.get())
    await asyncio.wait({getting, agent}, return_when=asyncio.FIRST_COMPLETED)
    if getting.done():
        return getting.result()
    getting.cancel()
    return None


async def _answer(
    job: Job, intercept: Intercept, turn: Turn, state: dict[str, object], cues: Cues
) -> None:
    if turn.fault is Fault.TEARDOWN:
        await _tear_down(job, intercept)
        return
    if turn.fault is Fault.AGENT_LEAVES:
        cues.arrived.set()
        await _see_agent_leave(cues)
    try:
        await _call_model(job, intercept, turn, cues)
    except Exception as exc:  # noqa: BLE001 - whatever it is, the agent gets no answer
        if turn.fault is Fault.CLEAN_STOP:
            state["prompt_too_long"] = True
        await _give(intercept, None, exc)


async def _call_model(job: Job, intercept: Intercept, turn: Turn, cues: Cues) -> None:
    if turn.fault is Fault.LOOP_BUG:
        raise TrainingLoopBug(job.planted)
    queue = intercept["chunk_queue"]
    if queue is None or intercept["protocol"] not in LIVE_PROTOCOLS:
        await _give(intercept, await job.models.whole(intercept, turn.fault))
        return
    first = True
    async for chunk in job.models.chunks(intercept, turn.fault):
        queue.put_nowait(chunk)
        if turn.fault is Fault.AGENT_CUTS and first:
            await _see_agent_leave(cues)
        first = False
    queue.put_nowait(None)
    if not intercept["response_future"].done():
        intercept["response_future"].set_result(None)


async def _give(
    intercept: Intercept, response: object, error: Exception | None = None
) -> None:
    if intercept["stream"]:
        await synthesize_stream(intercept, response, error)
    else:
        deliver_response(intercept, response, error)


async def _see_agent_leave(cues: Cues) -> None:
    await cues.left.wait()
    await asyncio.sleep(_NOTICED_S)


async def _tear_down(job: Job, intercept: Intercept) -> None:
    calling = _start(job.models.whole(intercept, Fault.HANG))
    await asyncio.sleep(_NOTICED_S)
    rollout_id = intercept["rollout_id"]
    job.registry.close(rollout_id, outcome=RolloutOutcome.CANCELLED)
    job.server.unregister_rollout(rollout_id)
    await cancel(calling)
