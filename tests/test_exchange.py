"""The exchange by itself: branches that sockets reach only by luck of timing."""

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable

import pytest
from opentelemetry.trace import SpanKind

from otel_intercept import (
    ErrorType,
    Exchange,
    ExchangeOutcome,
    InterceptionError,
    Phase,
    Rollout,
    RolloutRegistry,
    StreamInterrupted,
)
from otel_intercept.record import Request
from otel_intercept.semconv import Dialect
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.upstream import MAX_WAITS

SECRET = "sk-canary-13b7aa"
REQUEST = Request("POST", "/{id}/chat/completions", "http", Dialect.CHAT_COMPLETIONS)
CHUNK = b'data: {"choices": []}\n\n'
DONE = b"data: [DONE]\n\n"

Step = Callable[[Exchange], None]


class Agent:
    """An agent that is there until it leaves."""

    def __init__(self) -> None:
        self.is_there = True


def start(rollout: Rollout, agent: Agent | None = None) -> Exchange:
    """Start an exchange with an agent that can leave."""
    agent = agent or Agent()
    return rollout.start_exchange(REQUEST, agent_present=lambda _: agent.is_there)


def begin(exchange: Exchange) -> None:
    """Begin a stream."""
    exchange.answer_began(200, event_stream=True)


def stream_and_end(exchange: Exchange) -> None:
    """Deliver a whole stream."""
    begin(exchange)
    exchange.answer_wrote(CHUNK + DONE)
    exchange.answer_ended()


def raise_in_handler(exchange: Exchange) -> None:
    """Let an exception escape from the handler."""
    exchange.handler_raised(ValueError(SECRET))


def fail_write(exchange: Exchange) -> None:
    """Let a write fail as it does when the agent is gone."""
    exchange.write_failed(ConnectionResetError(), phase=Phase.EOF)


def stream_and_lose_the_agent(exchange: Exchange) -> None:
    """Deliver a whole stream to an agent that leaves at its terminal event."""
    begin(exchange)
    exchange.answer_wrote(CHUNK + DONE)
    fail_write(exchange)


def return_and_fail_write(exchange: Exchange) -> None:
    """Let aiohttp find out that the agent is gone, after the handler."""
    exchange.handler_returned()
    fail_write(exchange)


@pytest.mark.parametrize(
    ("steps", "outcome"),
    [
        ([stream_and_end, raise_in_handler], ExchangeOutcome.OK),
        ([stream_and_lose_the_agent], ExchangeOutcome.OK),
        ([stream_and_lose_the_agent, raise_in_handler], ExchangeOutcome.OK),
        ([return_and_fail_write], ExchangeOutcome.AGENT_GONE),
        ([begin, return_and_fail_write], ExchangeOutcome.CUT),
        ([begin, fail_write, raise_in_handler], ExchangeOutcome.CUT),
        ([raise_in_handler, fail_write], ExchangeOutcome.HANDLER_FAILED),
    ],
)
def test_the_first_cause_decides(
    registry: RolloutRegistry, steps: list[Step], outcome: ExchangeOutcome
) -> None:
    """Each sequence of facts ends as its first cause says."""
    exchange = start(registry.open("r1"))

    for step in steps:
        step(exchange)
    exchange.finish()

    assert exchange.outcome is outcome


@pytest.mark.parametrize(
    ("closed", "outcome"),
    [(False, ExchangeOutcome.AGENT_GONE), (True, ExchangeOutcome.CANCELLED)],
)
def test_a_cancelled_handler_is_teardown_or_a_lost_agent(
    registry: RolloutRegistry, closed: bool, outcome: ExchangeOutcome
) -> None:
    """A handler cancelled after its agent left is agent_gone, otherwise cancelled."""
    agent = Agent()
    exchange = start(registry.open("r1"), agent)
    agent.is_there = False
    if closed:
        registry.close("r1")

    exchange.handler_cancelled()
    exchange.finish()

    assert exchange.outcome is outcome


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize("calls", [True, False])
def test_a_handler_cancelled_after_its_answer_is_ok(
    registry: RolloutRegistry, streams: bool, calls: bool
) -> None:
    """An agent that leaves with the terminal, or with all of it, has its answer."""
    agent = Agent()
    exchange = start(registry.open("r1"), agent)
    exchange.answer_began(200, event_stream=streams)
    exchange.answer_wrote(CHUNK + DONE)
    if not streams:
        exchange.answer_ended()
    agent.is_there = False

    if calls:
        with pytest.raises(asyncio.CancelledError), exchange.upstream_call():
            raise asyncio.CancelledError
    exchange.handler_cancelled()
    exchange.finish()

    assert exchange.outcome is ExchangeOutcome.OK


async def test_a_failed_future_counts_before_asyncio_tells(
    registry: RolloutRegistry,
) -> None:
    """A handler that awaits a failed future goes on at once; so does the outcome."""
    state: dict[str, object] = {}
    rollout = registry.open("r1", state=state)
    exchange = start(rollout)
    future = exchange.watch(asyncio.get_running_loop().create_future())
    future.set_exception(TimeoutError(SECRET))

    begin(exchange)

    assert type(state["error"]) is StreamInterrupted
    assert exchange.failure is not None
    assert exchange.failure.error_type is ErrorType.UPSTREAM_TIMEOUT


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_failure_after_the_end_is_late(
    recorder: TelemetryRecorder, registry: RolloutRegistry, stopped: bool
) -> None:
    """A late failure is counted once beside its exchange, unless it is tail noise."""
    rollout = registry.open("r1")
    exchange = start(rollout)
    future = exchange.watch(asyncio.get_running_loop().create_future())
    stream_and_end(exchange)
    exchange.handler_returned()
    if stopped:
        rollout.stop("done")

    future.set_exception(TimeoutError(SECRET))
    await asyncio.sleep(0)
    recorder.flush()

    late = [span for span in recorder.spans() if span.name == "failure"]
    assert exchange.outcome is ExchangeOutcome.OK
    assert len(late) == rollout.failures == (0 if stopped else 1)
    assert (rollout.error is None) is stopped


async def test_a_failure_after_teardown_is_tail_noise(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """What fails after its exchange was cancelled is no failure."""
    rollout = registry.open("r1")
    exchange = start(rollout)
    future = exchange.watch(asyncio.get_running_loop().create_future())
    exchange.handler_cancelled()
    exchange.finish()

    future.set_exception(TimeoutError(SECRET))
    await asyncio.sleep(0)
    recorder.flush()

    assert rollout.failures == 0
    assert not [span for span in recorder.spans() if span.name == "failure"]


async def test_an_upstream_failure_behind_a_lost_agent_is_kept(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The upstream's failure is recorded although the agent's leaving came first."""
    rollout = registry.open("r1")
    exchange = start(rollout)
    future = exchange.watch(asyncio.get_running_loop().create_future())
    begin(exchange)
    fail_write(exchange)

    future.set_exception(TimeoutError(SECRET))
    await asyncio.sleep(0)
    exchange.handler_returned()
    recorder.flush()

    (beside,) = [span for span in recorder.spans() if span.name == "failure"]
    assert exchange.outcome is ExchangeOutcome.CUT
    assert (beside.attributes or {})["error.type"] == "upstream_timeout"
    assert rollout.failures == 2
    assert rollout.error is not None
    assert rollout.error.failure.error_type is ErrorType.AGENT_DISCONNECTED


@pytest.mark.parametrize(
    ("through", "outcome"),
    [(False, ExchangeOutcome.OK), (True, ExchangeOutcome.SILENT_EMPTY)],
)
def test_a_retry_within_the_answer_takes_a_failure_back(
    registry: RolloutRegistry, through: bool, outcome: ExchangeOutcome
) -> None:
    """A call may fail and be made good under keepalives, but not behind the answer."""
    rollout = registry.open("r1")
    exchange = start(rollout)
    begin(exchange)
    with contextlib.suppress(TimeoutError), exchange.upstream_call():
        raise TimeoutError
    exchange.answer_wrote(CHUNK + DONE)
    if through:
        exchange.answer_ended()

    with exchange.upstream_call():
        pass
    exchange.answer_ended()
    exchange.handler_returned()

    assert exchange.outcome is outcome
    assert rollout.failures == (1 if through else 0)


@pytest.mark.parametrize("status", [200, 500])
async def test_a_failed_future_is_final_once_the_answer_has_begun(
    registry: RolloutRegistry, status: int
) -> None:
    """The state learns of it at once; no later success takes it back."""
    rollout = registry.open("r1")
    exchange = start(rollout)
    future = exchange.watch(asyncio.get_running_loop().create_future())
    future.set_exception(TimeoutError(SECRET))
    exchange.answer_began(status, event_stream=True)
    at_once = rollout.error

    with exchange.upstream_call():
        pass
    exchange.answer_wrote(CHUNK + DONE)
    exchange.answer_ended()
    exchange.handler_returned()

    assert at_once is not None
    assert rollout.error is at_once
    assert exchange.outcome in {
        ExchangeOutcome.SILENT_EMPTY,
        ExchangeOutcome.UPSTREAM_FAILED,
    }


def test_a_rollout_that_closes_first_still_learns_of_an_empty_stream(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An agent that leaves at an empty stream's end does not hide it from the state."""
    state: dict[str, object] = {}
    rollout = registry.open("r1", state=state)
    exchange = start(rollout)
    begin(exchange)
    exchange.answer_wrote(DONE)

    registry.close("r1")
    exchange.answer_ended()
    exchange.handler_returned()
    recorder.flush()

    assert type(state["error"]) is StreamInterrupted
    assert rollout.outcome == "failed"
    assert rollout.failures == 1
    assert exchange.outcome is ExchangeOutcome.SILENT_EMPTY
    assert exchange.failure is not None
    assert exchange.failure.error_type is ErrorType.UPSTREAM_EMPTY


async def test_a_rollout_that_closes_first_still_learns_of_a_failed_call(
    registry: RolloutRegistry,
) -> None:
    """A failure that a retry could have taken back is final when the rollout ends."""
    state: dict[str, object] = {}
    rollout = registry.open("r1", state=state)
    exchange = start(rollout)
    future = exchange.watch(asyncio.get_running_loop().create_future())
    future.set_exception(TimeoutError(SECRET))

    registry.close("r1")

    assert type(state["error"]) is InterceptionError
    assert rollout.outcome == "failed"


def test_a_failed_write_is_not_blamed_on_the_upstream(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A write that fails inside an upstream call is the agent's failure alone."""
    rollout = registry.open("r1")
    exchange = start(rollout)
    begin(exchange)

    gone = ConnectionResetError()
    call = exchange.upstream_call()

    call.__enter__()
    exchange.write_failed(gone, phase=Phase.CHUNK)
    call.__exit__(ConnectionResetError, gone, None)
    exchange.handler_returned()
    recorder.flush()

    (wait,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    assert exchange.outcome is ExchangeOutcome.CUT
    assert rollout.failures == 1
    assert "error.type" not in (wait.attributes or {})


@pytest.mark.parametrize(
    ("phase", "outcome"),
    [
        (Phase.CHUNK, ExchangeOutcome.CUT),
        (Phase.HANDLER, ExchangeOutcome.HANDLER_FAILED),
        (Phase.UPSTREAM_CALL, ExchangeOutcome.UPSTREAM_FAILED),
        (Phase.RESPONSE_FUTURE, ExchangeOutcome.UPSTREAM_FAILED),
        (Phase.LATE, ExchangeOutcome.CANCELLED),
    ],
)
def test_a_reported_failure_is_sorted_by_its_phase(
    registry: RolloutRegistry, phase: Phase, outcome: ExchangeOutcome
) -> None:
    """What a handler reports counts as the cause that its phase names."""
    rollout = registry.open("r1")
    exchange = start(rollout)

    exchange.fail(TimeoutError(SECRET), phase=phase)
    exchange.finish()

    assert exchange.outcome is outcome
    assert rollout.failures == 1


def test_a_reported_cancellation_is_no_failure(registry: RolloutRegistry) -> None:
    """Reporting a cancellation makes the exchange cancelled."""
    rollout = registry.open("r1")
    exchange = start(rollout)

    exchange.fail(asyncio.CancelledError(SECRET), phase=Phase.UPSTREAM_CALL)
    exchange.finish()

    assert exchange.outcome is ExchangeOutcome.CANCELLED
    assert rollout.failures == 0


def test_waits_are_bounded(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Of more upstream calls than the bound, the first ones are kept."""
    exchange = start(registry.open("r1"))

    for _ in range(MAX_WAITS + 5):
        with exchange.upstream_call():
            pass
    exchange.finish()
    recorder.flush()

    waits = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    assert len(waits) == MAX_WAITS


async def test_a_wait_that_the_agent_cut_short_is_kept(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An upstream call that outlasts its exchange has its span, up to the end."""
    exchange = start(registry.open("r1"))
    future = exchange.watch(asyncio.get_running_loop().create_future())
    begin(exchange)
    fail_write(exchange)
    exchange.handler_returned()
    future.set_result(None)
    await asyncio.sleep(0)
    recorder.flush()

    (wait,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    (span,) = [span for span in recorder.spans() if span.kind is SpanKind.SERVER]
    assert wait.end_time is not None
    assert span.end_time is not None
    assert wait.end_time <= span.end_time
    assert "error.type" not in (wait.attributes or {})


def test_keepalives_are_no_chunks(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Time to the first chunk and gaps are measured between chunks only."""
    exchange = start(registry.open("r1"))
    begin(exchange)
    exchange.answer_wrote(b": keepalive\n\n")
    time.sleep(0.02)
    exchange.answer_wrote(CHUNK)
    time.sleep(0.01)
    exchange.answer_wrote(b": keepalive\n\n")
    time.sleep(0.02)
    exchange.answer_wrote(CHUNK)
    exchange.answer_wrote(CHUNK + DONE)
    exchange.answer_ended()
    exchange.handler_returned()
    recorder.flush()

    (span,) = [span for span in recorder.spans() if span.kind is SpanKind.SERVER]
    facts = dict(span.attributes or {})
    assert facts["intercept.stream.chunks"] == 3
    assert facts["intercept.stream.keepalives"] == 2
    assert facts["intercept.stream.bytes"] == 3 * len(CHUNK) + len(DONE) + 26
    first, gap = (
        facts["intercept.stream.time_to_first_chunk_s"],
        facts["intercept.stream.max_gap_s"],
    )
    assert isinstance(first, float)
    assert isinstance(gap, float)
    assert first >= 0.02
    assert gap >= 0.03


def test_requests_and_responses_are_described_by_listed_keys_only(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Model, settings and usage leave; prompts, ids and everything else do not."""
    exchange = start(registry.open("r1"))
    exchange.describe_request(
        {"model": "gpt-9", "max_tokens": 7, "messages": [{"content": SECRET}]}
    )
    with exchange.upstream_call():
        pass
    exchange.describe_response(
        {
            "id": SECRET,
            "model": "gpt-9-mini",
            "choices": [{"finish_reason": "stop", "message": {"content": SECRET}}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4},
        }
    )
    exchange.answer_began(200, event_stream=False)
    exchange.answer_ended()
    exchange.handler_returned()
    recorder.flush()

    (chat,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    facts = dict(chat.attributes or {})
    assert chat.name == "chat gpt-9"
    assert facts["gen_ai.request.max_tokens"] == 7
    assert facts["gen_ai.response.model"] == "gpt-9-mini"
    assert facts["gen_ai.response.finish_reasons"] == ("stop",)
    assert facts["gen_ai.usage.input_tokens"] == 3
    assert facts["gen_ai.usage.output_tokens"] == 4
    assert SECRET.encode() not in recorder.exported_bytes()


def test_a_call_that_others_timed_is_a_wait_from_its_own_start(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The span of a reported call starts when the call did, and ends at the report."""
    exchange = start(registry.open("r1"))
    started_ns = time.time_ns() - 5_000_000_000

    exchange.upstream_called(started_ns, None)
    stream_and_end(exchange)
    exchange.handler_returned()

    (chat,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    assert exchange.called_upstream
    assert exchange.outcome is ExchangeOutcome.OK
    assert chat.start_time == started_ns
    # Two clocks are read one after the other, and a busy machine may pause between.
    assert abs((chat.end_time or 0) - started_ns - 5_000_000_000) < 1_000_000_000


@pytest.mark.parametrize(
    ("exc", "outcome", "error_type"),
    [
        (TimeoutError(SECRET), "upstream_failed", ErrorType.UPSTREAM_TIMEOUT),
        (asyncio.CancelledError(), "cancelled", None),
    ],
)
def test_a_call_that_others_saw_fail_counts_unless_it_was_cancelled(
    registry: RolloutRegistry,
    exc: BaseException,
    outcome: str,
    error_type: ErrorType | None,
) -> None:
    """A reported failure fails the rollout; a reported cancellation never does."""
    rollout = registry.open("r1")
    exchange = start(rollout)

    exchange.upstream_called(time.time_ns(), exc)
    exchange.finish()

    assert exchange.outcome == outcome
    found = rollout.error.failure.error_type if rollout.error else None
    assert found is error_type


def test_a_replayed_failure_is_shown_and_fails_nothing_again(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A replayed 503 is an error on its span, but no failure of the rollout."""
    rollout = registry.open("r1")
    exchange = start(rollout)

    exchange.replays()
    exchange.answer_began(503, event_stream=False)
    exchange.answer_ended()
    exchange.handler_returned()

    (span,) = [span for span in recorder.spans() if span.kind is SpanKind.SERVER]
    assert exchange.outcome is ExchangeOutcome.UPSTREAM_FAILED
    assert (span.attributes or {})["intercept.exchange.replayed"] is True
    assert (span.attributes or {})["error.type"] == "upstream_overloaded"
    assert rollout.error is None
    assert rollout.failures == 0
    assert recorder.value("intercept.failures") == 0
    assert recorder.value("intercept.exchanges.replayed") == 1


@pytest.mark.parametrize(
    ("outlives", "outcome"),
    [(True, ExchangeOutcome.AGENT_GONE), (False, ExchangeOutcome.CUT)],
)
def test_a_lost_agent_is_no_failure_where_the_call_goes_on(
    registry: RolloutRegistry, outlives: bool, outcome: ExchangeOutcome
) -> None:
    """A failing write under a call that outlives its agent is a lost agent only."""
    exchange = start(registry.open("r1"))
    if outlives:
        exchange.outlives_agent()

    begin(exchange)
    exchange.write_failed(ConnectionResetError(), phase=Phase.KEEPALIVE)
    exchange.finish()

    assert exchange.outcome is outcome


@pytest.mark.parametrize(
    ("body", "asked", "outcome"),
    [
        (b"<html>busy</html>", True, ExchangeOutcome.NO_TERMINAL),
        (b"", True, ExchangeOutcome.NO_TERMINAL),
        (b"<html>busy</html>", False, ExchangeOutcome.OK),
        (b' {"ok": true}', True, ExchangeOutcome.OK),
        (b"\n[1]", True, ExchangeOutcome.OK),
        (b"data: {}\n\n", True, ExchangeOutcome.OK),
        (b": keepalive\n\n" * 20 + b"data: {}\n\n", True, ExchangeOutcome.OK),
        (b": keepalive\n" * 20, True, ExchangeOutcome.NO_TERMINAL),
        (b"event: ping\n\n", True, ExchangeOutcome.OK),
    ],
)
def test_a_body_that_is_no_stream_and_no_json_is_no_answer_to_a_stream(
    registry: RolloutRegistry, body: bytes, asked: bool, outcome: ExchangeOutcome
) -> None:
    """Bytes count where headers mislead, and only where a stream was asked for."""
    exchange = start(registry.open("r1"))
    exchange.describe_request({"stream": asked})

    exchange.answer_began(200, event_stream=False, other=True)
    for index in range(len(body)):
        exchange.answer_wrote(body[index : index + 1])
    exchange.answer_ended()
    exchange.handler_returned()

    assert exchange.outcome is outcome
    if outcome is ExchangeOutcome.NO_TERMINAL:
        assert exchange.failure is not None
        assert exchange.failure.error_type is ErrorType.UPSTREAM_BAD_RESPONSE


def test_a_finished_exchange_lets_go_of_its_futures(
    registry: RolloutRegistry,
) -> None:
    """After the end the exchange keeps nothing of the upstream's answer alive."""
    loop = asyncio.new_event_loop()
    exchange = start(registry.open("r1"))
    future: asyncio.Future[bytes] = exchange.watch(loop.create_future())
    future.set_result(b"a completion")
    exchange.finish()
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    alive = weakref.ref(future)

    del future

    assert alive() is None
