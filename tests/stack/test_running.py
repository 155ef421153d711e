"""A rollout that runs can be seen, and so can one whose process was killed."""

import asyncio
import os
import re
import sys
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest

from otel_intercept import semconv
from otel_intercept.cli.demo.upstream import ScriptedUpstream, serving
from tests.stack.backends import Jaeger, Span, eventually

SERVICE = "relay"
QUESTION = {"model": "scripted-1", "messages": [{"role": "user", "content": "?"}]}

Relay = Callable[[str], Awaitable[tuple[Process, str]]]


@pytest.fixture
async def relay(endpoint: str) -> AsyncIterator[Relay]:
    """Run ``otel-intercept serve`` before a scripted upstream, as its own process."""
    started: list[Process] = []
    async with serving(ScriptedUpstream(secret="none", pace_s=0.0).app()) as upstream:

        async def start(service: str) -> tuple[Process, str]:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "otel_intercept", "serve",
                "--upstream", upstream, "--port", "0",
                env=os.environ
                | {
                    "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
                    "OTEL_SERVICE_NAME": service,
                },
                stdout=PIPE,
                stderr=STDOUT,
            )  # fmt: skip
            started.append(process)
            assert process.stdout is not None
            line = (await process.stdout.readline()).decode()
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            assert found is not None, line
            return process, found[0]

        yield start
        for process in started:
            if process.returncode is None:
                process.kill()
            await process.wait()


async def ask(url: str, rollout_id: str) -> None:
    """Have an agent ask one question."""
    path = f"{url}/rollout/{rollout_id}/v1/chat/completions"
    async with (
        aiohttp.ClientSession() as session,
        session.post(path, json=QUESTION) as answer,
    ):
        assert answer.status == 200


async def spans_of(
    jaeger: Jaeger, service: str, enough: Callable[[list[str]], bool]
) -> list[Span]:
    """Return a service's spans once their names are enough."""

    def read() -> list[Span]:
        return [span for trace in jaeger.traces(service).values() for span in trace]

    return await asyncio.to_thread(
        eventually, read, lambda spans: enough([span.name for span in spans])
    )


async def test_a_running_rollout_is_seen_before_it_ends(
    relay: Relay, jaeger: Jaeger
) -> None:
    """Its marker and exchanges are in Jaeger while it is open, its root afterwards."""
    process, url = await relay("relay-ended")
    await ask(url, "running-1")

    running = await spans_of(jaeger, "relay-ended", lambda names: len(names) >= 3)
    process.terminate()
    await process.wait()
    ended = await spans_of(
        jaeger, "relay-ended", lambda names: semconv.SPAN_ROLLOUT in names
    )

    names = {span.name for span in running}
    assert semconv.SPAN_ROLLOUT_STARTED in names
    assert any(name.startswith("POST ") for name in names)
    assert semconv.SPAN_ROLLOUT not in names
    assert len({span.trace_id for span in ended}) == 1
    (root,) = [span for span in ended if span.parent_id is None]
    assert root.tags[semconv.ROLLOUT_OUTCOME] == semconv.RolloutOutcome.ABORTED


async def test_a_killed_process_leaves_its_rollout_behind(
    relay: Relay, jaeger: Jaeger
) -> None:
    """What was open when the process was killed is in Jaeger, without a root."""
    process, url = await relay("relay-killed")
    await ask(url, "killed-1")
    await spans_of(jaeger, "relay-killed", lambda names: len(names) >= 3)

    process.kill()
    await process.wait()
    left = await spans_of(jaeger, "relay-killed", lambda names: len(names) >= 3)

    assert {span.tags[semconv.ROLLOUT_ID] for span in left} == {"killed-1"}
    assert all(span.parent_id is not None for span in left)
