"""verifiers' v1 server, observed: answers that it repeats, refuses and gives up."""

from collections.abc import Iterator

import pytest

from otel_intercept.testing import TelemetryRecorder
from tests.hosts import v1_scenes as scenes
from tests.hosts.v1_spans import (
    calls,
    exchanges,
    facts,
    outcomes,
    rollout_outcome,
    roots,
)
from tests.hosts.v1_stage import Observer, Stage, is_old, load, play, stage
from tests.hosts.v1_upstream import SECRET

load("interception.server")

OLD = is_old()
NEW_ONLY = pytest.mark.skipif(
    OLD, reason="not before 0.4: it relays streams as they come"
)
OLD_ONLY = pytest.mark.skipif(not OLD, reason="not since 0.4: it serves streams whole")


@pytest.fixture(autouse=True)
def observer(recorder: TelemetryRecorder) -> Iterator[Observer]:
    """Observe every v1 server during a test."""
    observer = Observer(recorder)
    yield observer
    observer.undo()


def replayed(recorder: TelemetryRecorder) -> list[bool]:
    """Tell of each exchange whether its answer was that of an earlier one."""
    return [
        facts(span).get("intercept.exchange.replayed") is True
        for span in exchanges(recorder)
    ]


@pytest.mark.parametrize(
    "stream", [False, pytest.param(True, marks=NEW_ONLY)], ids=["whole", "stream"]
)
async def test_a_replay_is_no_model_call(
    recorder: TelemetryRecorder, stream: bool
) -> None:
    """A retry that gets the answer of before is told apart, and makes no chat span."""
    played = await play(
        scenes.ask_for_a_stream_again if stream else scenes.ask_again, "good"
    )

    assert played.got == ("hi", "hi")
    assert len(played.calls) == 1
    assert outcomes(recorder) == ["ok", "ok"]
    assert replayed(recorder) == [False, True]
    assert len(calls(recorder)) == 1
    assert recorder.value("intercept.exchanges") == 2
    assert recorder.value("intercept.exchanges.replayed") == 1
    assert rollout_outcome(recorder) == "completed"


@pytest.mark.parametrize(
    "stream", [False, pytest.param(True, marks=NEW_ONLY)], ids=["whole", "stream"]
)
@pytest.mark.parametrize(("word", "failures"), [("slow-good", 0), ("slow-500", 1)])
async def test_a_retry_that_joins_a_running_call_counts_nothing_again(
    recorder: TelemetryRecorder, word: str, failures: int, stream: bool
) -> None:
    """Both exchanges show how the one call ended; its failure counts once."""
    played = await play(scenes.coalesce_streams if stream else scenes.coalesce, word)

    outcome = "upstream_failed" if failures else "ok"
    assert len(played.calls) == 1
    assert outcomes(recorder) == [outcome, outcome]
    assert replayed(recorder) == [False, True]
    assert len(calls(recorder)) == 1
    assert recorder.value("intercept.failures") == failures
    assert recorder.value("intercept.exchanges.replayed") == 1
    (root,) = roots(recorder)
    assert facts(root)["intercept.rollout.failures"] == failures
    labels = {"intercept.exchange.outcome": outcome}
    assert recorder.value("intercept.exchanges.replayed", labels) == 1


@NEW_ONLY
@pytest.mark.parametrize("joined", [False, True])
async def test_a_failure_after_the_grace_period_is_an_error_frame(
    recorder: TelemetryRecorder, joined: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow failure becomes an error frame in a 200, and counts once all the same."""
    monkeypatch.setattr(load("interception.server"), "KEEPALIVE_GRACE_SECONDS", 0.05)

    played = await play(
        scenes.coalesce_streams if joined else scenes.ask_patiently, "slow-503"
    )

    number = 2 if joined else 1
    assert played.got == ("!APIError",) * number
    assert outcomes(recorder) == ["error_frame"] * number
    assert replayed(recorder) == [False, True][:number]
    assert recorder.value("intercept.failures") == 1
    labels = {"error.type": "upstream_overloaded"}
    assert recorder.value("intercept.failures", labels) == 1
    assert rollout_outcome(recorder) == "failed"
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_an_sdks_own_retries_are_calls_of_their_own(
    recorder: TelemetryRecorder,
) -> None:
    """A retry that calls the upstream anew is no replay, and says which try it is."""
    played = await play(scenes.ask, "500", "good", retries=1)

    counts = [
        facts(s).get("intercept.exchange.retry_count") for s in exchanges(recorder)
    ]
    assert played.got == ("hi",)
    assert outcomes(recorder) == ["upstream_failed", "ok"]
    assert counts == [0, 1]
    assert replayed(recorder) == [False, False]
    assert len(calls(recorder)) == 2


async def test_a_limit_refuses_and_stops(recorder: TelemetryRecorder) -> None:
    """A call beyond a limit is rejected, not replayed, and the rollout has stopped."""
    played = await play(scenes.ask_beyond_a_limit, "good")

    assert played.got == ("hi", "!BadRequestError", "!BadRequestError")
    assert outcomes(recorder) == ["ok", "rejected", "rejected"]
    assert replayed(recorder) == [False, False, False]
    assert rollout_outcome(recorder) == "stopped"
    assert recorder.value("intercept.failures") == 0


async def test_tail_noise_after_a_stop_is_no_failure(
    recorder: TelemetryRecorder,
) -> None:
    """A call that fails once the trace has stopped counts as a clean stop."""
    await play(scenes.stop_meanwhile, "slow-500")

    assert outcomes(recorder) == ["clean_stop"]
    assert rollout_outcome(recorder) == "stopped"
    assert recorder.value("intercept.failures") == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long(
    recorder: TelemetryRecorder, stream: bool
) -> None:
    """Before 0.4 it stops the rollout cleanly; since then it is a failed call."""
    await play(scenes.ask_for_a_stream if stream else scenes.ask, "overlong")

    assert outcomes(recorder) == ["clean_stop" if OLD else "upstream_failed"]
    assert rollout_outcome(recorder) == ("stopped" if OLD else "failed")
    assert recorder.value("intercept.failures") == (0 if OLD else 1)
    assert SECRET.encode() not in recorder.exported_bytes()


@pytest.mark.parametrize("stream", [False, True])
async def test_a_straggler_at_the_end_is_cancelled(
    recorder: TelemetryRecorder, stream: bool
) -> None:
    """A handler that is cancelled as its rollout ends is no failure."""
    await play(
        scenes.end_a_stream_meanwhile if stream else scenes.end_meanwhile, "slow-good"
    )

    assert outcomes(recorder) == ["cancelled"]
    assert rollout_outcome(recorder) == "completed"
    assert recorder.value("intercept.failures") == 0


@pytest.mark.parametrize(
    ("word", "outcome"),
    [("slow-good", "agent_gone"), ("slow-500", "upstream_failed")],
)
async def test_a_turn_goes_on_without_its_agent(
    recorder: TelemetryRecorder, word: str, outcome: str
) -> None:
    """An agent that leaves is no failure; an upstream that fails meanwhile is one."""
    await play(scenes.leave, word)

    assert outcomes(recorder) == [outcome]
    assert len(calls(recorder)) == 1


@NEW_ONLY
@pytest.mark.parametrize(("word", "failures"), [("slow-good", 0), ("slow-500", 1)])
async def test_a_stream_goes_on_without_its_agent(
    recorder: TelemetryRecorder,
    word: str,
    failures: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Keepalives that nobody reads are no failure; what the upstream does still is."""
    server = load("interception.server")
    monkeypatch.setattr(server, "KEEPALIVE_GRACE_SECONDS", 0.05)
    monkeypatch.setattr(server, "KEEPALIVE_INTERVAL_SECONDS", 0.05)

    played = await play(scenes.leave_a_stream, word)

    assert outcomes(recorder) == ["agent_gone"]
    assert recorder.value("intercept.failures") == failures
    assert rollout_outcome(recorder) == ("failed" if failures else "completed")
    assert len(played.calls) == 1


@OLD_ONLY
async def test_a_relayed_stream_is_lost_with_its_agent(
    recorder: TelemetryRecorder,
) -> None:
    """Where streams are relayed, an agent that leaves takes its turn along, once."""
    await play(scenes.leave_a_stream, "slow-good")

    (exchange,) = exchanges(recorder)
    assert outcomes(recorder) == ["cut"]
    assert facts(exchange)["error.type"] == "agent_disconnected"
    assert recorder.value("intercept.failures") == 1
    assert rollout_outcome(recorder) == "failed"


async def test_a_model_call_that_times_out(recorder: TelemetryRecorder) -> None:
    """A deadline of verifiers' own client is an upstream timeout, with a 504."""
    await play(scenes.be_impatient, "hang")

    (exchange,) = exchanges(recorder)
    assert facts(exchange)["error.type"] == "upstream_timeout"
    assert facts(exchange)["http.response.status_code"] == 504
    assert rollout_outcome(recorder) == "failed"


async def test_a_tasks_own_code_that_fails_is_the_proxys_side(
    recorder: TelemetryRecorder,
) -> None:
    """A hook that raises makes no model call, and its failure is no upstream's."""
    played = await play(scenes.fail_in_a_hook, "good")

    (exchange,) = exchanges(recorder)
    assert played.calls == ()
    assert outcomes(recorder) == ["handler_failed"]
    assert facts(exchange)["error.type"] == "handler_error"
    assert replayed(recorder) == [False]
    assert rollout_outcome(recorder) == "failed"
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_a_hook_that_fails_over_a_good_answer_leaves_the_call_good(
    recorder: TelemetryRecorder,
) -> None:
    """The model call succeeded; what failed behind it is the proxy's side."""
    await play(scenes.fail_in_a_hook_of_the_answer, "good")

    assert outcomes(recorder) == ["handler_failed"] * 2
    assert len(calls(recorder)) == 2
    assert not any("error.type" in facts(call) for call in calls(recorder))
    labels = {"error.type": "handler_error"}
    assert recorder.value("intercept.failures", labels) == 2
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_an_unknown_secret_is_rejected_without_a_span(
    recorder: TelemetryRecorder,
) -> None:
    """A request that belongs to no session is counted, and nothing else."""
    played = await play(scenes.be_unknown, "good")

    assert played.got == ("!AuthenticationError",)
    assert exchanges(recorder) == []
    labels = {"intercept.exchange.outcome": "rejected"}
    assert recorder.value("intercept.exchanges", labels) == 1
    assert SECRET.encode() not in recorder.exported_bytes()


@pytest.mark.parametrize(
    ("word", "outcome"), [("good", "ok"), ("500", "upstream_failed")]
)
async def test_a_side_request_is_an_exchange_without_a_model_call(
    recorder: TelemetryRecorder, word: str, outcome: str
) -> None:
    """Counting tokens is seen, makes no chat span, and is never taken for a replay."""
    await play(scenes.count_tokens, word)

    assert outcomes(recorder) == [outcome]
    assert calls(recorder) == []
    assert replayed(recorder) == [False]


async def test_other_routes_are_no_exchanges(recorder: TelemetryRecorder) -> None:
    """State and task of a rollout go to its tools, not to its agent."""

    async def scene(at: Stage) -> None:
        for route in ("/state", "/task"):
            await at.get(route, at.secrets[1])

    await play(scene, "good")

    assert exchanges(recorder) == []
    assert recorder.value("intercept.exchanges") == 0


async def test_secrets_never_leave(recorder: TelemetryRecorder) -> None:
    """Neither bearer of a session stands in any exported byte."""
    async with stage("good") as at:
        await at.ask()
        at.unregister()

        exported = recorder.exported_bytes()
        assert exchanges(recorder)
        assert not any(secret.encode() in exported for secret in at.secrets)
