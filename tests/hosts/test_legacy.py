"""Verifiers' legacy server, unmodified: nothing changes for it, and we see all."""

from collections.abc import Iterator

import pytest
from opentelemetry.trace import StatusCode

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from otel_intercept.rollout import Rollout
from otel_intercept.testing import TelemetryRecorder
from tests.hosts.legacy_scenes import SCENES, Scene, Verdict
from tests.hosts.legacy_stage import (
    KEEPALIVE_S,
    SECRET,
    TRAJECTORY,
    Played,
    Stage,
    load,
)
from tests.served import attribute, exchange_spans, outcomes, until

# Their own /health handler is no coroutine function.
pytestmark = pytest.mark.filterwarnings("ignore:Bare functions:DeprecationWarning")

SERVER = load("utils.interception_utils")

each_scene = pytest.mark.parametrize(
    ("scene", "verdict"),
    SCENES.items(),
    ids=[scene.__name__ for scene in SCENES],
)


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SERVER, "KEEPALIVE_INTERVAL_SECONDS", KEEPALIVE_S)


@pytest.fixture
def instrumentor(recorder: TelemetryRecorder) -> Iterator[VerifiersInstrumentor]:
    """Instrument verifiers, for the length of a test."""
    instrumentor = VerifiersInstrumentor()
    instrumentor.instrument(telemetry=recorder.telemetry)
    yield instrumentor
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


async def play(scene: Scene) -> tuple[Played, Rollout | None]:
    """Play a scene to its end; give the rollout too if it is observed."""
    server = SERVER.InterceptionServer(0, secret="the-secret")
    await server.start()
    stage = Stage(SERVER, server)
    stage.register()
    rollout = VerifiersInstrumentor().rollout_of(server, stage.rollout_id)
    try:
        await scene(stage)
    finally:
        server.unregister_rollout(stage.rollout_id)
        await stage.stop()
    return stage.played(), rollout


@each_scene
async def test_a_scene_is_seen_and_not_changed(
    recorder: TelemetryRecorder, scene: Scene, verdict: Verdict
) -> None:
    """The agent's bytes and the state are the same; we know what happened, no text."""
    plain, nothing = await play(scene)
    VerifiersInstrumentor().instrument(telemetry=recorder.telemetry)
    try:
        observed, rollout = await play(scene)
    finally:
        VerifiersInstrumentor().uninstrument()

    assert nothing is None
    assert rollout is not None
    assert observed == plain
    await until(lambda: len(exchange_spans(recorder)) == len(verdict.outcomes))
    check_spans(recorder, verdict)
    check_metrics(recorder, verdict)
    assert (rollout.error and type(rollout.error)) is verdict.error
    assert rollout.outcome == verdict.rollout
    assert {span.context.trace_id for span in recorder.spans()} == {int(TRAJECTORY, 16)}
    assert SECRET.encode() not in recorder.exported_bytes()
    assert recorder.telemetry.balance().open == 0


def check_spans(recorder: TelemetryRecorder, verdict: Verdict) -> None:
    """Compare what the spans say with the verdict."""
    spans = recorder.spans()
    (root,) = (span for span in spans if span.name == "rollout")
    exchanges = exchange_spans(recorder)
    erring = [s for s in exchanges if s.status.status_code is StatusCode.ERROR]
    assert tuple(outcomes(recorder)) == verdict.outcomes
    assert attribute(root, "intercept.rollout.outcome") == verdict.rollout
    assert attribute(root, "error.type") == verdict.error_type
    assert attribute(root, "intercept.failure.phase") == verdict.phase
    assert attribute(root, "intercept.rollout.failures") == verdict.failures
    assert [attribute(span, "error.type") for span in erring] == [
        verdict.error_type for _ in erring
    ]
    late = [span for span in spans if span.name == "failure"]
    assert bool(erring or late) is (verdict.error_type is not None)
    assert len(erring) + len(late) == verdict.failures


def check_metrics(recorder: TelemetryRecorder, verdict: Verdict) -> None:
    """Compare what the metrics say with the verdict."""

    def count(name: str, **labels: object) -> float:
        return recorder.value(name, {k.replace("_", "."): v for k, v in labels.items()})

    for outcome in verdict.outcomes:
        counted = recorder.value(
            "intercept.exchanges", {"intercept.exchange.outcome": outcome}
        )
        assert counted == verdict.outcomes.count(outcome)
    assert count("intercept.rollouts", intercept_rollout_outcome=verdict.rollout) == 1
    assert count("intercept.failures") == verdict.failures
    if verdict.error_type is not None:
        assert count("intercept.failures", error_type=verdict.error_type) >= 1
    rejected = {"intercept.exchange.outcome": "rejected"}
    assert recorder.value("intercept.exchanges", rejected) == verdict.rejected + (
        verdict.outcomes.count("rejected")
    )
