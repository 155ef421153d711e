"""With both options on, no raw text leaves verifiers' legacy server by any exit."""

from collections.abc import Iterator

import pytest

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from otel_intercept.testing import TelemetryRecorder
from tests.hosts.legacy_scenes import SCENES, Scene, Verdict
from tests.hosts.legacy_stage import KEEPALIVE_S, SECRET, Stage, load
from tests.served import outcomes, until

# Their own /health handler is no coroutine function.
pytestmark = pytest.mark.filterwarnings("ignore:Bare functions:DeprecationWarning")

SERVER = load("utils.interception_utils")


@pytest.fixture(autouse=True)
def _redacted(recorder: TelemetryRecorder) -> Iterator[None]:
    settings, name = vars(SERVER), "KEEPALIVE_INTERVAL_SECONDS"
    before, settings[name] = settings[name], KEEPALIVE_S
    VerifiersInstrumentor().instrument(
        telemetry=recorder.telemetry, redact_state=True, redact_responses=True
    )
    yield
    VerifiersInstrumentor().uninstrument()
    settings[name] = before


@pytest.mark.parametrize(
    ("scene", "verdict"), SCENES.items(), ids=[scene.__name__ for scene in SCENES]
)
async def test_nothing_raw_leaves(
    recorder: TelemetryRecorder, scene: Scene, verdict: Verdict
) -> None:
    """Agent, state and telemetry hold no secret, and the verdict is the same."""
    server = SERVER.InterceptionServer(0, secret="the-secret")
    await server.start()
    stage = Stage(SERVER, server)
    stage.register()
    try:
        await scene(stage)
    finally:
        server.unregister_rollout(stage.rollout_id)
        await stage.stop()

    await until(lambda: tuple(outcomes(recorder)) == verdict.outcomes)
    assert SECRET not in str(stage.played())
    assert SECRET.encode() not in recorder.exported_bytes()
    assert len(recorder.spans()) > 1
