"""Verifiers' own rollout loop: what it makes of failures, and what we say of them."""

from typing import NamedTuple

import openai
import pytest

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.hosts.legacy_loop import Loop, Upstream
from tests.hosts.legacy_stage import SECRET
from tests.served import attribute, exchange_spans

pytestmark = pytest.mark.filterwarnings(
    # Theirs, and those of what they use.
    "ignore::DeprecationWarning",
)


class Case(NamedTuple):
    """One row of what can happen upstream, for one kind of agent.

    Args:
        answers: The upstream's.
        stream: Whether the agent streams.
        outcomes: Of the exchanges.
        error_type: The rollout's, or None.
        rollout: The rollout's outcome.
        stop: Their stop condition, or None where the rollout raises.
        goes_on: Whether the agent asks again after an error.
        timeout_s: The rollout's, or None.
        rejected: How many requests came after the rollout.
    """

    answers: tuple[str, ...]
    stream: bool
    outcomes: tuple[str, ...]
    error_type: str | None
    rollout: str
    stop: str | None
    goes_on: bool = False
    timeout_s: float | None = None
    rejected: int = 0


def pair(
    answer: str, whole: str, streamed: str, error_type: str | None, *rest: str | None
) -> list[Case]:
    """Return the cases of an agent that does not stream, and of one that does."""
    rollout, stop = rest
    assert rollout is not None
    return [
        Case((answer,), stream, (outcome,), error_type, rollout, stop)
        for stream, outcome in ((False, whole), (True, streamed))
    ]


CASES = [
    *pair("fine", "ok", "ok", None, "completed", "agent_completed"),
    *pair(
        "500",
        "upstream_failed",
        "silent_empty",
        "upstream_server_error",
        "failed",
        "has_error",
    ),
    *pair(
        "429",
        "upstream_failed",
        "silent_empty",
        "upstream_rate_limited",
        "failed",
        "has_error",
    ),
    *pair(
        "empty",
        "upstream_failed",
        "silent_empty",
        "upstream_empty",
        "failed",
        "has_error",
    ),
    *pair("too_long", "clean_stop", "clean_stop", None, "stopped", "prompt_too_long"),
    *pair("401", "upstream_failed", "silent_empty", "upstream_auth", "failed", None),
    *[
        case._replace(timeout_s=2.0)
        for case in pair(
            "hangs", "cancelled", "cancelled", None, "cancelled", "timeout_reached"
        )
    ],
    Case(
        ("fine", "500"),
        stream=False,
        outcomes=("ok", "upstream_failed"),
        error_type="upstream_server_error",
        rollout="failed",
        stop="has_error",
        goes_on=True,
        rejected=1,
    ),
]


def name_of(case: Case) -> str:
    """Return a name for a case."""
    return "-".join((*case.answers, "stream" if case.stream else "json"))


async def run(case: Case, url: str) -> tuple[object, ...]:
    """Run a case; give all that the trainer and the agent see of it."""
    loop = Loop(url, case.stream, goes_on=case.goes_on, timeout_s=case.timeout_s)
    try:
        output = await loop.run()
    except openai.AuthenticationError as raised:
        return type(raised), str(raised), loop.heard
    steady = {
        key: value
        for key, value in output.items()
        if key not in {"timing", "metrics", "trajectory_id"}
    }
    return steady, output["stop_condition"], loop.heard


@pytest.mark.parametrize("case", CASES, ids=name_of)
async def test_their_loop_is_seen_and_not_changed(
    recorder: TelemetryRecorder, serve: Serve, case: Case
) -> None:
    """Results and answers are the same; one trace says what really happened."""
    plain = await run(case, await serve(Upstream(case.answers).app()))
    url = await serve(Upstream(case.answers).app())
    VerifiersInstrumentor().instrument(telemetry=recorder.telemetry)
    try:
        observed = await run(case, url)
    finally:
        VerifiersInstrumentor().uninstrument()

    assert observed == plain
    if case.stop is not None:
        assert observed[1] == case.stop
    (root,) = (span for span in recorder.spans() if span.name == "rollout")
    assert (
        tuple(
            attribute(span, "intercept.exchange.outcome")
            for span in exchange_spans(recorder)
        )
        == case.outcomes
    )
    assert attribute(root, "intercept.rollout.outcome") == case.rollout
    assert attribute(root, "error.type") == case.error_type
    rejected = {"intercept.exchange.outcome": "rejected"}
    assert recorder.value("intercept.exchanges", rejected) == case.rejected
    assert len({span.context.trace_id for span in recorder.spans()}) == 1
    assert SECRET.encode() not in recorder.exported_bytes()
    assert recorder.telemetry.balance().open == 0


async def test_attempts_are_linked(recorder: TelemetryRecorder, serve: Serve) -> None:
    """A rollout that verifiers repeats has a trace per attempt, the later linked."""
    url = await serve(Upstream(("empty", "fine")).app())
    VerifiersInstrumentor().instrument(telemetry=recorder.telemetry)
    try:
        output = await Loop(url).run(max_retries=1)
    finally:
        VerifiersInstrumentor().uninstrument()

    first, second = (span for span in recorder.spans() if span.name == "rollout")
    assert output["error"] is None
    assert attribute(first, "intercept.rollout.outcome") == "failed"
    assert attribute(second, "intercept.rollout.outcome") == "completed"
    assert first.context.trace_id != second.context.trace_id
    assert [(link.context.trace_id, link.context.span_id) for link in second.links] == [
        (first.context.trace_id, first.context.span_id)
    ]
    assert not first.links
