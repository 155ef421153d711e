"""verifiers' v1 server as it is, observed: every way in which a call can end."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import pytest
from opentelemetry.trace import SpanKind, StatusCode

from otel_intercept.outcome import is_error
from otel_intercept.semconv import ErrorType, ExchangeOutcome
from otel_intercept.testing import TelemetryRecorder
from tests.hosts.v1_scenes import EVERYWHERE
from tests.hosts.v1_spans import exchanges as server_spans
from tests.hosts.v1_spans import roots
from tests.hosts.v1_stage import TRACE_ID, Observer, Scene, Stage, is_old, load, play
from tests.hosts.v1_upstream import SECRET

load("interception.server")

O = ExchangeOutcome  # noqa: E741
E = ErrorType
OLD: Final = is_old()


@dataclass(frozen=True)
class Ending:
    """What an upstream does, and what must come of it.

    Args:
        word: The upstream's script.
        stream: Whether the agent asks for a stream.
        outcome: The exchange's.
        error_type: The failure's, on span, metric and error.
    """

    word: str
    stream: bool
    outcome: ExchangeOutcome
    error_type: ErrorType | None = None


ENDINGS: Final = (
    Ending("good", False, O.OK),
    Ending("good", True, O.OK),
    Ending("500", False, O.UPSTREAM_FAILED, E.UPSTREAM_SERVER_ERROR),
    Ending("500", True, O.UPSTREAM_FAILED, E.UPSTREAM_SERVER_ERROR),
    Ending("429", False, O.UPSTREAM_FAILED, E.UPSTREAM_RATE_LIMITED),
    Ending("429", True, O.UPSTREAM_FAILED, E.UPSTREAM_RATE_LIMITED),
    Ending("502", False, O.UPSTREAM_FAILED, E.UPSTREAM_SERVER_ERROR),
    Ending("503", False, O.UPSTREAM_FAILED, E.UPSTREAM_OVERLOADED),
    Ending("503", True, O.UPSTREAM_FAILED, E.UPSTREAM_OVERLOADED),
    Ending("401", False, O.UPSTREAM_FAILED, E.UPSTREAM_AUTH),
    Ending("reset", False, O.UPSTREAM_FAILED, E.UPSTREAM_CONNECTION),
    Ending("reset", True, O.UPSTREAM_FAILED, E.UPSTREAM_CONNECTION),
    Ending("page", False, O.UPSTREAM_FAILED, E.UPSTREAM_BAD_RESPONSE),
    Ending("page", True, O.NO_TERMINAL, E.UPSTREAM_BAD_RESPONSE)
    if OLD
    else Ending("page", True, O.UPSTREAM_FAILED, E.UPSTREAM_TRUNCATED),
    Ending("cut", False, O.UPSTREAM_FAILED, E.UPSTREAM_TRUNCATED),
    Ending("cut", True, O.CUT if OLD else O.UPSTREAM_FAILED, E.UPSTREAM_TRUNCATED),
    Ending(
        "endless",
        True,
        O.NO_TERMINAL if OLD else O.UPSTREAM_FAILED,
        E.UPSTREAM_TRUNCATED,
    ),
    Ending("frame", True, O.ERROR_FRAME, E.UPSTREAM_OVERLOADED),
)


@pytest.fixture
def observer(recorder: TelemetryRecorder) -> Iterator[Observer]:
    """Observe every v1 server during a test."""
    observer = Observer(recorder)
    yield observer
    observer.undo()


@pytest.mark.usefixtures("observer")
@pytest.mark.parametrize(
    "ending", ENDINGS, ids=lambda each: f"{each.word}-{each.stream}"
)
async def test_each_ending_is_told_alike_on_every_side(
    recorder: TelemetryRecorder, ending: Ending
) -> None:
    """Spans, metrics and rollout say the same of each way in which a call ends."""

    async def scene(stage: Stage) -> None:
        await stage.ask(stream=ending.stream)

    played = await play(scene, ending.word)
    failed = is_error(ending.outcome)
    (exchange,) = server_spans(recorder)
    (call,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    (root,) = roots(recorder)

    assert {format(s.context.trace_id, "032x") for s in recorder.spans()} == {TRACE_ID}
    assert dict(exchange.attributes or {})["intercept.exchange.outcome"] == (
        ending.outcome
    )
    assert dict(exchange.attributes or {}).get("error.type") == ending.error_type
    assert call.name == "chat up-1"
    assert dict(root.attributes or {}).get("error.type") == ending.error_type
    assert dict(root.attributes or {})["intercept.rollout.outcome"] == (
        "failed" if failed else "completed"
    )
    expected = StatusCode.ERROR if failed else StatusCode.UNSET
    assert exchange.status.status_code is root.status.status_code is expected
    assert recorder.value("intercept.failures") == int(failed)
    assert recorder.value("intercept.exchanges") == 1
    assert recorder.value("intercept.exchanges.replayed") == 0
    if ending.error_type:
        labels = {"error.type": ending.error_type.value}
        assert recorder.value("intercept.failures", labels) == 1
    assert len(played.calls) == 1
    assert SECRET.encode() not in recorder.exported_bytes()
    assert recorder.telemetry.balance().open == 0


@pytest.mark.parametrize(
    "ending", ENDINGS, ids=lambda each: f"{each.word}-{each.stream}"
)
async def test_nobody_else_can_tell_that_a_server_is_observed(
    recorder: TelemetryRecorder, ending: Ending
) -> None:
    """Bytes to the agent, headers upstream, trace and error are the same as without."""

    async def scene(stage: Stage) -> None:
        await stage.ask(stream=ending.stream)

    off = await play(scene, ending.word)
    observer = Observer(recorder)
    on = await play(scene, ending.word)
    observer.undo()

    assert server_spans(recorder)
    assert on == off


@pytest.mark.parametrize(
    ("scene", "script"),
    EVERYWHERE,
    ids=[f"{scene.__name__}-{script[0]}" for scene, script in EVERYWHERE],
)
async def test_nor_can_anybody_tell_in_a_longer_scene(
    recorder: TelemetryRecorder, scene: Scene, script: tuple[str, ...]
) -> None:
    """Replays, refusals, cancellations and hooks are the same as without, too."""
    off = await play(scene, *script)
    observer = Observer(recorder)
    on = await play(scene, *script)
    observer.undo()

    assert roots(recorder)
    assert on == off
    assert SECRET.encode() not in recorder.exported_bytes()
    assert recorder.telemetry.balance().open == 0
