"""Opening, joining, failing, stopping and closing rollouts."""

import asyncio
import collections
import gc
import time
from collections.abc import Iterator, MutableMapping

import msgspec
import pytest
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.trace import INVALID_SPAN_CONTEXT, SpanContext, TraceFlags

from otel_intercept import (
    ConfigurationError,
    ErrorType,
    InterceptionError,
    Phase,
    RolloutExistsError,
    RolloutOutcome,
    RolloutRegistry,
    StreamInterrupted,
    Telemetry,
)
from otel_intercept.settings import Settings
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import logged

SECRET = "sk-canary-d81f02"
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


class Hostile(MutableMapping[str, object]):
    """A state that refuses everything, with a secret in what it raises."""

    def __getitem__(self, key: str) -> object:
        raise RuntimeError(SECRET)

    def __setitem__(self, key: str, value: object) -> None:
        raise RuntimeError(SECRET)

    def __delitem__(self, key: str) -> None:
        raise RuntimeError(SECRET)

    def __iter__(self) -> Iterator[str]:
        raise RuntimeError(SECRET)

    def __len__(self) -> int:
        return 0


def test_a_rollout_is_one_trace_seen_at_once(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The marker leaves when the rollout opens, the root when it closes."""
    rollout = registry.open("r1", attributes={"env": "gsm8k", "step": 3})

    recorder.flush()
    (marker,) = recorder.spans()
    registry.close("r1")
    recorder.flush()

    _, root = recorder.spans()
    assert (marker.name, root.name) == ("rollout.started", "rollout")
    assert marker.start_time == marker.end_time == root.start_time
    assert root.context is not None
    assert marker.parent is not None
    assert marker.parent.span_id == root.context.span_id == rollout.ref.span_id
    assert f"{root.context.trace_id:032x}" == rollout.trace_id
    assert root.parent is None
    assert (root.attributes or {})["env"] == "gsm8k"
    assert (root.attributes or {})["step"] == 3
    assert (root.attributes or {})["intercept.rollout.outcome"] == "completed"


def test_a_given_trace_id_is_used(registry: RolloutRegistry) -> None:
    """A trajectory id of 32 hex digits becomes the trace id, whatever its case."""
    rollout = registry.open("r1", trace_id=TRACE.upper())

    assert rollout.trace_id == TRACE
    assert rollout.traceparent.startswith(f"00-{TRACE}-")
    assert rollout.traceparent.endswith("-01")


@pytest.mark.parametrize(
    "parent",
    [
        PARENT,
        SpanContext(int(TRACE, 16), 0x00F067AA0BA902B7, True, TraceFlags(1)),
    ],
)
def test_a_parent_is_joined(
    recorder: TelemetryRecorder, registry: RolloutRegistry, parent: str | SpanContext
) -> None:
    """The root hangs below the span that started the rollout, in that span's trace."""
    registry.open("r1", parent=parent)
    registry.close("r1")
    recorder.flush()

    root = recorder.spans()[-1]
    assert root.parent is not None
    assert root.parent.is_remote
    assert f"{root.parent.span_id:016x}" == "00f067aa0ba902b7"
    assert f"{root.parent.trace_id:032x}" == TRACE


def test_an_unsampled_parent_is_followed(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A rollout below an unsampled parent has no spans, and still counts in metrics."""
    registry.open("r1", parent=PARENT[:-1] + "0")
    registry.close("r1")
    recorder.flush()

    assert recorder.spans() == []
    assert recorder.value(
        "intercept.rollouts", {"intercept.rollout.outcome": "completed"}
    )


def test_a_repeated_attempt_links_to_the_one_before(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Each attempt is a trace of its own, whose root and marker link to the former."""
    first = registry.open("r1")
    registry.close("r1")
    second = registry.open("r1", previous=first.traceparent)
    registry.close("r1")

    roots = [span for span in recorder.spans() if span.name == "rollout"]
    linked = {
        span.name: [link.context.span_id for link in span.links]
        for span in recorder.spans()
        if f"{span.context.trace_id:032x}" == second.trace_id
    }

    assert first.trace_id != second.trace_id
    assert roots[0].links == ()
    root_id = roots[0].context.span_id
    assert linked == {"rollout": [root_id], "rollout.started": [root_id]}


def test_a_malformed_previous_attempt_is_refused(registry: RolloutRegistry) -> None:
    """The error names the argument and the form, and does not repeat what was given."""
    with pytest.raises(ConfigurationError, match="previous is not a W3C") as refused:
        registry.open("r1", previous="sk-canary")

    assert "canary" not in f"{refused.value}"
    assert registry.get("r1") is None


@pytest.mark.parametrize(
    ("trace_id", "parent", "advice"),
    [
        ("", None, "32 hex digits"),
        ("0" * 32, None, "32 hex digits"),
        ("x" * 32, None, "32 hex digits"),
        (None, "nonsense", "W3C traceparent"),
        (None, f"00-{'0' * 32}-00f067aa0ba902b7-01", "W3C traceparent"),
        (None, INVALID_SPAN_CONTEXT, "invalid span context"),
        ("ab" * 16, PARENT, "different traces"),
    ],
)
def test_malformed_ids_are_refused_without_echo(
    registry: RolloutRegistry,
    trace_id: str | None,
    parent: str | SpanContext | None,
    advice: str,
) -> None:
    """A bad trace id or parent gets a clear error, and opens nothing."""
    with pytest.raises(ConfigurationError, match=advice) as caught:
        registry.open("r1", trace_id=trace_id, parent=parent)

    assert len(registry) == 0
    assert "nonsense" not in str(caught.value)


@pytest.mark.parametrize("rollout_id", ["", "x" * 257, 7])
def test_a_malformed_rollout_id_is_refused(
    registry: RolloutRegistry, rollout_id: str
) -> None:
    """An id is a string of 1 to 256 characters."""
    with pytest.raises(ConfigurationError, match="1 to 256"):
        registry.open(rollout_id)


def test_an_open_rollout_cannot_be_opened_again(registry: RolloutRegistry) -> None:
    """The second open is refused, and the first one goes on."""
    first = registry.open("r1")

    with pytest.raises(RolloutExistsError):
        registry.open("r1")

    assert registry.get("r1") is first
    assert len(registry) == 1


def test_close_is_idempotent(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Closing twice ends the rollout once; an unknown id is no error."""
    rollout = registry.open("r1")

    assert registry.close("r1") is rollout
    assert registry.close("r1") is None
    rollout.close(RolloutOutcome.ABORTED)
    recorder.flush()

    assert rollout.outcome is RolloutOutcome.COMPLETED
    assert [span.name for span in recorder.spans()] == ["rollout.started", "rollout"]


def test_a_clock_that_is_set_back_makes_no_rollout_end_before_it_began(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Its length is then measured by the clock that nobody can set."""
    rollout = registry.open("r1")
    later_ns = rollout.ref.start_ns + 3_600_000_000_000
    rollout.ref = msgspec.structs.replace(rollout.ref, start_ns=later_ns)
    time.sleep(0.01)

    registry.close("r1")

    (root,) = [span for span in recorder.spans() if span.name == "rollout"]
    assert root.start_time == later_ns
    assert root.end_time is not None
    assert 0.01 <= (root.end_time - later_ns) / 1e9 < 60


def test_the_first_failure_wins(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Later failures are counted and exported, but the state keeps the first."""
    state: dict[str, object] = {}
    rollout = registry.open("r1", state=state)

    first = rollout.fail(TimeoutError(SECRET), phase=Phase.UPSTREAM_CALL)
    second = rollout.fail(
        ConnectionRefusedError(SECRET), phase=Phase.CHUNK, streaming=True
    )
    registry.close("r1")
    recorder.flush()

    root = recorder.spans()[-1]
    failures = [span for span in recorder.spans() if span.name == "failure"]
    assert type(first) is InterceptionError
    assert type(second) is StreamInterrupted
    assert state["error"] is rollout.error
    assert rollout.error is not None
    assert rollout.error.failure.error_type is ErrorType.UPSTREAM_TIMEOUT
    assert rollout.failures == len(failures) == 2
    assert rollout.outcome is RolloutOutcome.FAILED
    assert (root.attributes or {})["error.type"] == "upstream_timeout"
    assert (root.attributes or {})["intercept.rollout.failures"] == 2
    assert SECRET.encode() not in recorder.exported_bytes()


def test_a_state_with_an_error_is_left_alone(registry: RolloutRegistry) -> None:
    """The host's own error stays on the state; ours is on the rollout."""
    host_error = ValueError("the host's")
    state: dict[str, object] = {"error": host_error}
    rollout = registry.open("r1", state=state)

    rollout.fail(TimeoutError(), phase=Phase.UPSTREAM_CALL)
    registry.close("r1")

    assert state["error"] is host_error
    assert rollout.error is not None
    assert rollout.outcome is RolloutOutcome.FAILED


@pytest.mark.parametrize("by_state", [False, True])
def test_a_clean_stop_beats_tail_noise(
    recorder: TelemetryRecorder, registry: RolloutRegistry, by_state: bool
) -> None:
    """After a clean stop nothing is written on the state and nothing is counted."""
    state: dict[str, object] = {}
    rollout = registry.open("r1", state=state)
    if by_state:
        state["prompt_too_long"] = True
    else:
        rollout.stop("max turns")

    rollout.fail(TimeoutError(), phase=Phase.LATE)
    registry.close("r1")
    recorder.flush()

    assert "error" not in state
    assert rollout.failures == 0
    assert rollout.outcome is RolloutOutcome.STOPPED
    assert rollout.stop_reason == (None if by_state else "max turns")
    assert not [span for span in recorder.spans() if span.name == "failure"]


def test_a_cancellation_is_no_failure(registry: RolloutRegistry) -> None:
    """Failing a rollout with a cancellation changes nothing."""
    rollout = registry.open("r1", state={})

    rollout.fail(asyncio.CancelledError(SECRET), phase=Phase.RESPONSE_FUTURE)

    assert rollout.error is None
    assert rollout.failures == 0


def test_a_closed_rollout_writes_on_no_state(registry: RolloutRegistry) -> None:
    """A failure after the end is counted, but the state is the host's again."""
    state: dict[str, object] = {}
    rollout = registry.open("r1", state=state)
    registry.close("r1")

    rollout.fail(TimeoutError(), phase=Phase.LATE)

    assert state == {}
    assert rollout.error is None
    assert rollout.failures == 1


def test_a_hostile_state_harms_nobody(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A mapping that raises is survived, reported once, and not quoted."""
    rollout = registry.open("r1", state=Hostile())

    rollout.fail(TimeoutError(), phase=Phase.UPSTREAM_CALL)
    registry.close("r1")

    assert rollout.error is not None
    assert rollout.outcome is RolloutOutcome.FAILED
    assert "refused its error" in logged(caplog)
    assert SECRET not in logged(caplog)


@pytest.mark.parametrize(
    ("raised", "outcome", "error_type"),
    [
        (None, RolloutOutcome.COMPLETED, None),
        (KeyError(SECRET), RolloutOutcome.FAILED, ErrorType.HANDLER_ERROR),
        (asyncio.CancelledError(), RolloutOutcome.CANCELLED, None),
        (KeyboardInterrupt(), RolloutOutcome.ABORTED, None),
    ],
)
async def test_the_context_manager_closes_as_the_block_earned(
    registry: RolloutRegistry,
    raised: BaseException | None,
    outcome: RolloutOutcome,
    error_type: ErrorType | None,
) -> None:
    """What ends the block decides the outcome, and is raised on unchanged."""
    seen: list[BaseException] = []
    rollouts = []

    try:
        async with registry.rollout("r1", state={}) as rollout:
            rollouts.append(rollout)
            if raised is not None:
                raise raised  # noqa: TRY301 - the block under test
    except BaseException as exc:  # noqa: BLE001 - every kind is under test
        seen.append(exc)

    (ended,) = rollouts
    error = ended.error
    assert seen == ([raised] if raised else [])
    assert ended.outcome is outcome
    assert (error.failure.error_type if error else None) is error_type
    assert len(registry) == 0


async def test_a_block_may_close_its_rollout_itself(registry: RolloutRegistry) -> None:
    """An outcome that was set inside the block stays."""
    async with registry.rollout("r1") as rollout:
        registry.close("r1", outcome=RolloutOutcome.ABANDONED)

    assert rollout.outcome is RolloutOutcome.ABANDONED


def test_shutdown_aborts_what_is_open(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Open rollouts end as aborted before the exporters stop, so their roots leave."""
    rollouts = [registry.open(f"r{number}") for number in range(3)]

    balance = recorder.telemetry.shutdown()

    assert {rollout.outcome for rollout in rollouts} == {RolloutOutcome.ABORTED}
    assert len(registry) == 0
    assert balance.open == balance.queued == 0
    assert balance.exported == 6


def test_attributes_of_wrong_type_are_left_out_and_counted(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only plain values under plain keys leave; the warning quotes neither."""

    class Text(str):
        """A string that lies about itself."""

        __slots__ = ()

        def __str__(self) -> str:
            return SECRET

    registry.open(
        "r1",
        attributes={
            "env": "gsm8k",
            "step": 7,
            "share": 0.5,
            "eval": True,
            "long": "x" * 1000,
            "nested": {"token": SECRET},
            "object": RuntimeError(SECRET),
            "subclass": Text("plain"),
            "bytes": "no text \udcff",
            "huge": 1 << 80,
            "nan": float("nan"),
            f"Bad {SECRET}": 1,
            "intercept.rollout.id": SECRET,
            "exception.message": SECRET,
        },
    )
    recorder.flush()

    (marker,) = recorder.spans()
    attributes = dict(marker.attributes or {})
    assert attributes.pop("intercept.rollout.id") == "r1"
    assert attributes.pop("long") == "x" * 256
    assert attributes == {"env": "gsm8k", "step": 7, "share": 0.5, "eval": True}
    assert "9 of 14 rollout attributes were left out" in logged(caplog)
    assert SECRET not in logged(caplog)
    assert SECRET.encode() not in recorder.exported_bytes()


def test_attributes_are_bounded(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A rollout carries at most 32 own attributes."""
    registry.open("r1", attributes={f"key{number}": number for number in range(50)})
    recorder.flush()

    (marker,) = recorder.spans()
    own = [key for key in marker.attributes or {} if key.startswith("key")]
    assert len(own) == 32


def test_disabled_telemetry_still_keeps_the_rollouts_honest() -> None:
    """Without exporters errors and outcomes work as ever, and nothing is counted."""
    registry = RolloutRegistry(Telemetry())
    state: dict[str, object] = {}

    rollout = registry.open("r1", state=state)
    rollout.fail(TimeoutError(), phase=Phase.UPSTREAM_CALL)
    registry.close("r1")

    assert type(state["error"]) is InterceptionError
    assert rollout.outcome is RolloutOutcome.FAILED
    assert set(registry.telemetry.balance()) == {0}


def test_ids_do_not_repeat_when_random_is_seeded(registry: RolloutRegistry) -> None:
    """Training code seeds ``random``; the ids of equal seeds still differ."""
    import random

    seen: collections.Counter[str] = collections.Counter()
    for number in range(4):
        random.seed(42)
        seen[registry.open(f"r{number}").traceparent] += 1

    assert set(seen.values()) == {1}


def test_an_error_that_only_the_host_knows_of_is_a_failure(
    registry: RolloutRegistry, recorder: TelemetryRecorder
) -> None:
    """What stands on the state at the end types the rollout if nothing else did."""
    state: dict[str, object] = {"error": TimeoutError("sk-canary")}
    rollout = registry.open("r1", state=state)

    registry.close("r1")

    (root,) = (span for span in recorder.spans() if span.name == "rollout")
    assert rollout.outcome is RolloutOutcome.FAILED
    assert rollout.error is not None
    assert rollout.error.failure.error_type == "upstream_timeout"
    assert (root.attributes or {})["error.type"] == "upstream_timeout"
    assert isinstance(state["error"], TimeoutError)
    assert b"canary" not in recorder.exported_bytes()


def test_a_rollout_without_a_failure_can_end_in_a_way_of_the_hosts(
    registry: RolloutRegistry,
) -> None:
    """An outcome for the case that nothing failed does not hide a failure."""
    fine, broken = registry.open("fine"), registry.open("broken")
    broken.fail(TimeoutError(), phase=Phase.UPSTREAM_CALL)

    for rollout_id in ("fine", "broken"):
        registry.close(rollout_id, unless_failed=RolloutOutcome.CANCELLED)

    assert fine.outcome is RolloutOutcome.CANCELLED
    assert broken.outcome is RolloutOutcome.FAILED


def test_an_open_rollout_is_one_object_to_the_garbage_collector() -> None:
    """Of thousands of open rollouts a collection has so many objects to look at."""
    settings = Settings(recorder="inline")
    telemetry = Telemetry(metric_reader=InMemoryMetricReader(), settings=settings)
    registry = RolloutRegistry(telemetry)
    registry.open("first")
    telemetry.flush()
    gc.collect()
    before = len(gc.get_objects())

    for number in range(500):
        registry.open(f"r{number}", attributes={"env": "gsm8k"}, parent=PARENT)
    telemetry.flush()
    gc.collect()
    added = len(gc.get_objects()) - before
    telemetry.shutdown()

    # A few others come and go meanwhile.
    assert 450 < added < 550
