"""A whole rollout of verifiers v1: its own driver, and a harness in a process."""

import sys
from collections.abc import Iterator

import pytest

from otel_intercept.testing import TelemetryRecorder
from tests.hosts.v1_spans import facts, outcomes, rollout_outcome, roots
from tests.hosts.v1_stage import Observer, Trace, is_old, load, new_session, served
from tests.hosts.v1_upstream import SECRET, Upstream

load("interception.server")

PROGRAM = """
import json, sys, urllib.request
url, secret, code = sys.argv[1:]
body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}]})
headers = {"Authorization": "Bearer " + secret, "Content-Type": "application/json"}
request = urllib.request.Request(url + "/chat/completions", body.encode(), headers)
try:
    print(urllib.request.urlopen(request).read())
except Exception as exc:
    print(exc)
sys.exit(int(code))
"""


@pytest.fixture(autouse=True)
def observer(recorder: TelemetryRecorder) -> Iterator[Observer]:
    """Observe every v1 server during a test."""
    observer = Observer(recorder)
    yield observer
    observer.undo()


async def run(upstream_url: str, exit_code: int) -> Trace:
    """Run one rollout as their agent does, with a harness that ends with this code."""
    harnesses, rollouts = load("harness"), load("rollout")
    config = load("configs.harness").HarnessConfig()

    async def launch(
        _self: object,
        _ctx: object,
        _trace: object,
        runtime: object,
        endpoint: str,
        secret: str,
        _mcp_urls: object,
        _data: object,
        **_kwargs: object,
    ) -> object:
        argv = [sys.executable, "-c", PROGRAM, endpoint, secret, str(exit_code)]
        return await getattr(runtime, "run")(argv, {})  # noqa: B009 - theirs, untyped

    bases = (harnesses.Harness,)
    harness = type("ScriptHarness", bases, {"launch": launch})(config)
    session = new_session(upstream_url)
    task = load("task").Task(load("task").TaskData(idx=0, prompt="hi"))
    rollout = rollouts.Rollout(
        task=task,
        agent_config=load("configs.agent").AgentConfig(),
        harness=harness,
        ctx=session.ctx,
        runtime_config=load("runtimes").SubprocessConfig(),
        timeouts=rollouts.RolloutTimeouts(),
        limits=load("session").RolloutLimits(),
    )
    if await rollout.open():
        await rollout.step()
        if rollout.ok:
            rollout.trace.stop("agent_completed")
    trace: Trace = await rollout.close()
    return trace


@pytest.mark.parametrize("exit_code", [0, 1])
async def test_a_swallowed_failure_fails_the_rollout(
    recorder: TelemetryRecorder, exit_code: int
) -> None:
    """The only call got a 500: it failed, whatever the harness makes of it."""
    async with served(Upstream("500").app()) as url:
        trace = await run(url, exit_code)

    swallowed = exit_code == 0 and not is_old()
    (root,) = roots(recorder)
    assert trace.ok is swallowed
    assert (trace.errors == []) is swallowed
    assert outcomes(recorder) == ["upstream_failed"]
    assert rollout_outcome(recorder) == "failed"
    assert facts(root)["error.type"] == "upstream_server_error"
    assert format(root.context.trace_id, "032x") == trace.id
    assert recorder.value("intercept.failures") == 1
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_a_good_rollout_completes(recorder: TelemetryRecorder) -> None:
    """A rollout whose call succeeds is completed, in theirs and in ours."""
    async with served(Upstream("good").app()) as url:
        trace = await run(url, 0)

    assert trace.ok
    assert outcomes(recorder) == ["ok"]
    assert rollout_outcome(recorder) == "completed"


async def test_a_harness_that_dies_by_itself_fails_the_rollout(
    recorder: TelemetryRecorder,
) -> None:
    """An agent's process that ends badly is a failure on the agent's side."""
    async with served(Upstream("good").app()) as url:
        trace = await run(url, 3)

    (root,) = roots(recorder)
    assert not trace.ok
    assert outcomes(recorder) == ["ok"]
    assert facts(root)["intercept.rollout.outcome"] == "failed"
    assert facts(root)["error.type"] == "agent_disconnected"
