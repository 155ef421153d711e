"""Start both hosts and the scripted upstream, and play every planned rollout."""

import asyncio
import secrets
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from otel_intercept import RolloutRegistry, Telemetry
from otel_intercept.cli.demo.agents import sdk_clients
from otel_intercept.cli.demo.loop import Job, Played, Watcher, play
from otel_intercept.cli.demo.model_calls import ModelCalls
from otel_intercept.cli.demo.own_app import own_app
from otel_intercept.cli.demo.plan import Planned
from otel_intercept.cli.demo.upstream import LOOPBACK, ScriptedUpstream, serving
from otel_intercept.server import InterceptionServer, StreamFailure

PARALLEL: Final = 8
"""Rollouts that run at once."""

PACE_S: Final = 0.03
"""Between two chunks of the upstream: as fast as a fast model, and easy to watch."""


class Show(NamedTuple):
    """What has been played.

    Args:
        played: Every rollout, in the order of the plan.
        secrets_sent: How many error texts with the planted secret were sent.
    """

    played: tuple[Played, ...]
    secrets_sent: int


async def run(
    telemetry: Telemetry,
    plan: Sequence[Planned],
    *,
    stream_failure: StreamFailure,
    planted: str,
    watcher: Watcher,
) -> Show:
    """Play the plan to its end.

    Args:
        telemetry: Where everything is recorded.
        plan: The rollouts.
        stream_failure: How the InterceptionServer ends a stream that failed.
        planted: The secret for the error texts.
        watcher: Who wants to see progress.
    """
    registry = RolloutRegistry(telemetry)
    upstream = ScriptedUpstream(secret=planted, pace_s=PACE_S)
    server = InterceptionServer(registry, host=LOOPBACK, stream_failure=stream_failure)
    by_id = {item.rollout_id: item for item in plan}
    async with AsyncExitStack() as stack:
        upstream_url = await stack.enter_async_context(serving(upstream.app()))
        app = await stack.enter_async_context(
            own_app(registry, upstream_url, by_id, planted, watcher)
        )
        app_url = await stack.enter_async_context(serving(app))
        await server.start()
        stack.push_async_callback(server.stop)
        job = Job(
            registry=registry,
            server=server,
            server_url=f"http://{LOOPBACK}:{server.port}",
            app_url=app_url,
            agents=await stack.enter_async_context(sdk_clients()),
            models=ModelCalls(
                await stack.enter_async_context(sdk_clients()), upstream_url, planted
            ),
            planted=planted,
            watcher=watcher,
        )
        gate = asyncio.Semaphore(PARALLEL)

        async def play_in_turn(planned: Planned) -> Played:
            async with gate:
                return await play(job, planned)

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(play_in_turn(planned)) for planned in plan]
    return Show(tuple(task.result() for task in tasks), upstream.secrets_sent)


def new_secret() -> str:
    """Return a secret that looks like a provider's key and is found nowhere else."""
    return f"sk-planted-{secrets.token_hex(12)}"
