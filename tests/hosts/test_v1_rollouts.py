"""verifiers' v1 sessions as rollouts: who opens them, and how they end."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator

import pytest

from otel_intercept.semconv import RolloutOutcome
from otel_intercept.testing import TelemetryRecorder
from tests.hosts.v1_spans import exchanges, facts, outcomes, rollout_outcome, roots
from tests.hosts.v1_stage import (
    TRACE_ID,
    Observer,
    Session,
    is_old,
    load,
    new_server,
    new_session,
    stage,
    started,
)
from tests.hosts.v1_upstream import SECRET

load("interception.server")

Step = Callable[[Session], None]
NOWHERE = "http://127.0.0.1:9"
PATCHED = (
    ("interception.server", "InterceptionServer"),
    ("interception.base", "Interception"),
    ("trace", "Trace"),
    ("dialects.base", "Dialect"),
    ("dialects.anthropic", "AnthropicDialect"),
)


@pytest.fixture
def observer(recorder: TelemetryRecorder) -> Iterator[Observer]:
    """Observe every v1 server during a test."""
    observer = Observer(recorder)
    yield observer
    observer.undo()


def nothing(_session: Session) -> None:
    """Leave the trace as it is."""


def stop(condition: str) -> Step:
    """Return a step that stops the trace."""
    return lambda session: session.trace.stop(condition)


def fail(error: str) -> Step:
    """Return a step that records an error of theirs."""
    return lambda session: session.trace.record_error(
        getattr(load("errors"), error)(SECRET)
    )


def time_out(session: Session) -> None:
    """Let a deadline pass, as the release in hand records it."""
    if is_old():
        fail("HarnessError")(session)
    else:
        session.trace.record_timeout("agent")


@pytest.mark.usefixtures("observer")
@pytest.mark.parametrize(
    ("step", "outcome"),
    [
        (nothing, RolloutOutcome.COMPLETED),
        (stop("agent_completed"), RolloutOutcome.COMPLETED),
        (stop("user_closed"), RolloutOutcome.COMPLETED),
        (stop("max_turns"), RolloutOutcome.STOPPED),
        (stop("context_length"), RolloutOutcome.STOPPED),
        (stop("parse_error"), RolloutOutcome.STOPPED),
        (fail("HarnessError"), RolloutOutcome.FAILED),
        (fail("TaskError"), RolloutOutcome.FAILED),
        (time_out, RolloutOutcome.FAILED if is_old() else RolloutOutcome.STOPPED),
    ],
    ids=[
        "nothing",
        "agent_completed",
        "user_closed",
        "max_turns",
        "context_length",
        "stop_with_the_name_of_an_error",
        "harness_error",
        "task_error",
        "timeout",
    ],
)
async def test_a_rollout_ends_as_its_trace_says(
    recorder: TelemetryRecorder, step: Step, outcome: RolloutOutcome
) -> None:
    """Errors fail it, limits and stops and deadlines stop it, its own end completes."""
    async with started(new_server()) as server:
        session = new_session(NOWHERE)
        secrets = server.register(session)

        step(session)
        server.unregister(*secrets)

    (root,) = roots(recorder)
    assert facts(root)["intercept.rollout.outcome"] == outcome
    assert ("error.type" in facts(root)) is (outcome is RolloutOutcome.FAILED)
    assert SECRET.encode() not in recorder.exported_bytes()
    assert recorder.telemetry.balance().open == 0


@pytest.mark.usefixtures("observer")
async def test_what_a_failed_call_leads_to_counts_once(
    recorder: TelemetryRecorder,
) -> None:
    """Verifiers records the failure of a call again at the end; we do not."""
    async with stage("500") as at:
        await at.ask()
        assert at.session.error is not None
        at.session.trace.record_error(at.session.error)

    assert rollout_outcome(recorder) == "failed"
    assert recorder.value("intercept.failures") == 1


@pytest.mark.usefixtures("observer")
async def test_a_cancelled_rollout_is_cancelled(recorder: TelemetryRecorder) -> None:
    """A rollout whose task is cancelled ends as cancelled, without an error."""
    async with started(new_server()) as server:

        async def run() -> None:
            async with server.acquire(new_session(NOWHERE)):
                await asyncio.sleep(30)

        task = asyncio.create_task(run())
        await asyncio.sleep(0.05)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    assert rollout_outcome(recorder) == "cancelled"


@pytest.mark.usefixtures("observer")
async def test_a_server_that_stops_aborts_what_is_open(
    recorder: TelemetryRecorder,
) -> None:
    """A session that nobody unregistered ends with its server."""
    async with started(new_server()) as server:
        server.register(new_session(NOWHERE))

    assert rollout_outcome(recorder) == "aborted"
    assert recorder.telemetry.balance().open == 0


@pytest.mark.usefixtures("observer")
async def test_a_trace_that_is_registered_again_has_one_root(
    recorder: TelemetryRecorder,
) -> None:
    """Another member of a pool, or a later part, joins the trace below its root."""
    async with started(new_server()) as one, started(new_server()) as other:
        first = one.register(new_session(NOWHERE))
        second = other.register(new_session(NOWHERE))
        other.unregister(*second)
        one.unregister(*first)
        third = one.register(new_session(NOWHERE))
        one.unregister(*third)

    root, *joined = roots(recorder)
    assert root.parent is None
    assert len(joined) == 2
    for span in (root, *joined):
        assert format(span.context.trace_id, "032x") == TRACE_ID
    for span in joined:
        assert span.parent is not None
        assert span.parent.span_id == root.context.span_id


@pytest.mark.usefixtures("observer")
async def test_a_trace_registered_twice_at_once_is_one_rollout(
    recorder: TelemetryRecorder,
) -> None:
    """The same trace twice at one server is open until the last has gone."""
    async with started(new_server()) as server:
        first = server.register(new_session(NOWHERE))
        second = server.register(new_session(NOWHERE))
        server.unregister(*first)
        open_still = not roots(recorder)
        server.unregister(*second)

    assert open_still
    assert rollout_outcome(recorder) == "completed"


@pytest.mark.usefixtures("observer")
@pytest.mark.parametrize("kind", ["StaticInterceptionPool", "ElasticInterceptionPool"])
async def test_pools_are_seen_through_their_members(
    recorder: TelemetryRecorder, kind: str
) -> None:
    """Whichever way a pool hands a session to a member, it is a rollout."""
    pools = load("interception.pool")
    if kind == "StaticInterceptionPool":
        member = load("interception.server").InterceptionServerConfig()
        pool = pools.StaticInterceptionPool(
            pools.StaticInterceptionPoolConfig(servers=[member, member])
        )
    else:
        pool = pools.ElasticInterceptionPool(
            pools.ElasticInterceptionPoolConfig(multiplex=1)
        )

    async with pool:
        sessions = [new_session(NOWHERE, f"{index:032x}") for index in (1, 2, 3)]
        async with contextlib.AsyncExitStack() as stack:
            for session in sessions:
                await stack.enter_async_context(pool.acquire(session))

    ids = {format(span.context.trace_id, "032x") for span in roots(recorder)}
    assert ids == {session.trace.id for session in sessions}
    assert recorder.value("intercept.rollouts") == 3


async def test_a_server_that_runs_already_is_observed_from_then_on(
    recorder: TelemetryRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Hooks on a started server see its sessions from their next request on."""
    async with stage("good") as at:
        await at.ask()
        observer = Observer(recorder)
        await at.ask(text="more")
        await at.ask(text="still more")
        at.unregister()
        observer.undo()

    told = [r for r in caplog.records if r.name == "otel_intercept.instrumentation"]
    assert outcomes(recorder) == ["ok", "ok"]
    assert rollout_outcome(recorder) == "completed"
    assert [record.levelno for record in told] == [logging.WARNING]
    assert "before instrumentation" in told[0].getMessage()


def attributes() -> dict[tuple[str, str], object]:
    """Return the attributes of every class and module that may be patched."""
    found: dict[tuple[str, str], object] = {}
    for module, name in PATCHED:
        for key, value in vars(getattr(load(module), name)).items():
            found[name, key] = value
    for key, value in vars(load("interception.server")).items():
        found["", key] = value
    return found


async def test_undoing_restores_the_very_same_objects(
    recorder: TelemetryRecorder,
) -> None:
    """After the hooks are off, each attribute is the identical object of before."""
    before = attributes()

    observer = Observer(recorder)
    during = attributes()
    observer.undo()
    after = attributes()

    assert [key for key in during if during[key] is not before.get(key)]
    assert after.keys() == before.keys()
    assert [key for key in after if after[key] is not before[key]] == []


async def test_an_undone_hook_sees_nothing(recorder: TelemetryRecorder) -> None:
    """A rollout under way when the hooks come off is aborted, and traffic goes on."""
    observer = Observer(recorder)

    async with stage("good") as at:
        await at.ask()
        observer.undo()
        answer = await at.ask(text="more")

    assert answer == "hi"
    assert len(exchanges(recorder)) == 1
    assert rollout_outcome(recorder) == "aborted"
