"""The short ways of exchanges where all is well say what the long ways say."""

import asyncio
import concurrent.futures
import contextlib
import gc
import weakref
from collections.abc import Awaitable, Callable

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_intercept import (
    ErrorType,
    Exchange,
    ExchangeOutcome,
    Phase,
    Rollout,
    RolloutError,
    RolloutRegistry,
)
from otel_intercept.record import ExchangeEnded, Request
from otel_intercept.recorder import Recorder
from otel_intercept.semconv import Dialect
from otel_intercept.settings import Settings
from otel_intercept.telemetry import Telemetry

REQUEST = Request("POST", "/{id}/messages", "https", Dialect.MESSAGES, 2, (7, 8))
BODY = {"model": "m-1", "max_tokens": 9}
KEY = bytes(16)
ANSWER = {"model": "m-2", "usage": {"input_tokens": 3, "output_tokens": 4}}

Call = Callable[[Exchange], None]


def call_upstream(exchange: Exchange) -> None:
    """Call upstream once."""
    with exchange.upstream_call():
        pass


def call_upstream_in_vain(exchange: Exchange) -> None:
    """Have the only upstream call cancelled, which is no failure."""
    with contextlib.suppress(asyncio.CancelledError), exchange.upstream_call():
        raise asyncio.CancelledError


def record_of(
    rollout: Rollout,
    call: Call = call_upstream,
    *,
    asked: dict[str, object] = BODY,
    answered: dict[str, object] | None = None,
) -> ExchangeEnded:
    """Return the record of an exchange that goes well."""
    recorder = Recorder(9)
    exchange = Exchange(rollout, REQUEST, 5, lambda _: True, None, recorder)
    exchange.describe_request(asked)
    call(exchange)
    exchange.handler_returned()
    if answered is not None:
        exchange.describe_response(answered)
    exchange.answer_began(201, event_stream=False)
    exchange.answer_wrote(b"{}")
    exchange.answer_ended()
    (record,) = recorder.take(2)
    assert isinstance(record, ExchangeEnded)
    assert record.start_ns <= record.end_ns
    return record


def without_times(record: ExchangeEnded) -> ExchangeEnded:
    """Return the record without what differs each time."""
    waits = tuple(
        replace(wait, span_id=1, start_ns=0, end_ns=0) for wait in record.waits
    )
    facts = record.facts
    if facts is not None:
        facts = replace(facts, max_gap_s=0.0, time_to_first_chunk_s=None)
    return replace(record, span_id=1, start_ns=0, end_ns=0, waits=waits, facts=facts)


@pytest.mark.parametrize("answered", [None, ANSWER])
@pytest.mark.parametrize("stream", [False, True])
def test_an_exchange_without_trouble_has_the_same_record(
    registry: RolloutRegistry, stream: bool, answered: dict[str, object] | None
) -> None:
    """The record that is made at once has all that the one after a decision has."""
    rollout = registry.open("r1")
    asked: dict[str, object] = BODY | {"stream": stream}

    short = record_of(rollout, asked=asked, answered=answered)
    long = record_of(rollout, call_upstream_in_vain, asked=asked, answered=answered)

    assert short.outcome is ExchangeOutcome.OK
    assert without_times(short) == without_times(long)
    assert short.response == () if answered is None else short.response


CHUNK = b'data: {"choices": [{"delta": {"content": "word"}}]}\n\n'
USAGE = b'data: {"model": "m-2", "choices": [], "usage": {"completion_tokens": 4}}\n\n'
KEEPALIVE, DONE = b": keepalive\n\n", b"data: [DONE]\n\n"
FRAME = b'data: {"error": {"type": "overloaded_error"}}\n\n'
STREAM = Request("POST", "/{id}/completions", "http", Dialect.CHAT_COMPLETIONS)


def stream_of(
    rollout: Rollout,
    *written: bytes,
    call: Call = call_upstream,
    asked: dict[str, object] = BODY,
    answered: dict[str, object] | None = None,
) -> ExchangeEnded:
    """Return the record of an exchange whose answer is an event stream."""
    recorder = Recorder(9)
    exchange = Exchange(rollout, STREAM, 5, lambda _: True, None, recorder)
    exchange.describe_request(asked)
    call(exchange)
    exchange.answer_began(200, event_stream=True)
    for data in written:
        exchange.answer_wrote(data)
    if answered is not None:
        exchange.describe_response(answered)
    exchange.answer_ended()
    exchange.handler_returned()
    (record,) = recorder.take(2)
    assert isinstance(record, ExchangeEnded)
    assert record.start_ns <= record.end_ns
    return record


@pytest.mark.parametrize("answered", [None, ANSWER])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "written",
    [
        (CHUNK, CHUNK, DONE),
        (CHUNK + CHUNK[:9], CHUNK[9:] + DONE),
        (CHUNK, KEEPALIVE, CHUNK, USAGE, DONE),
        (CHUNK, DONE, CHUNK),
        (CHUNK, DONE.rstrip()),
    ],
)
def test_a_stream_without_trouble_has_the_same_record(
    registry: RolloutRegistry,
    written: tuple[bytes, ...],
    stream: bool,
    answered: dict[str, object] | None,
) -> None:
    """What a good stream says of itself is what it says after a decision."""
    rollout = registry.open("r1")
    asked: dict[str, object] = BODY | {"stream": stream}

    short = stream_of(rollout, *written, asked=asked, answered=answered)
    long = stream_of(
        rollout, *written, call=call_upstream_in_vain, asked=asked, answered=answered
    )

    assert short.outcome is ExchangeOutcome.OK
    assert short.stream
    assert short.facts is not None
    assert short.facts.time_to_first_chunk_s is not None
    assert without_times(short) == without_times(long)
    assert bool(short.response) is (answered is not None or USAGE in written)


@pytest.mark.parametrize(
    ("written", "outcome"),
    [
        ((), ExchangeOutcome.NO_TERMINAL),
        ((CHUNK, CHUNK), ExchangeOutcome.NO_TERMINAL),
        ((DONE,), ExchangeOutcome.SILENT_EMPTY),
        ((KEEPALIVE, DONE), ExchangeOutcome.SILENT_EMPTY),
        ((CHUNK, FRAME, DONE), ExchangeOutcome.ERROR_FRAME),
        ((CHUNK, DONE, FRAME.rstrip()), ExchangeOutcome.ERROR_FRAME),
    ],
)
def test_a_stream_that_is_not_good_is_decided(
    registry: RolloutRegistry, written: tuple[bytes, ...], outcome: ExchangeOutcome
) -> None:
    """Only a stream with a chunk, its terminal event and no error frame is good."""
    record = stream_of(registry.open("r1"), *written)

    assert record.outcome is outcome
    assert record.failure is not None
    assert record.facts is not None


@pytest.mark.parametrize("ahead", [False, True])
async def test_a_future_that_succeeds_is_one_wait_on_either_way(
    registry: RolloutRegistry, ahead: bool
) -> None:
    """Whether it is told of, looked up, or one of several: a wait, once, without error.

    Looked up is what has ended before asyncio could say so.
    """
    loop = asyncio.get_running_loop()
    rollout = registry.open("r1")
    recorder = Recorder(9)
    for number in (1, 2):
        exchange = Exchange(rollout, REQUEST, number, lambda _: True, None, recorder)
        futures = [loop.create_future() for _ in range(number)]
        for future in futures:
            _ = exchange.watch(future)
            future.set_result(None)
        if not ahead:
            await asyncio.sleep(0)
        exchange.answer_began(200, event_stream=False)
        await asyncio.sleep(0)
        exchange.answer_ended()
        exchange.finish()

    records = recorder.take(3)

    for number, record in enumerate(records, start=1):
        assert isinstance(record, ExchangeEnded)
        assert len(record.waits) == len({wait.span_id for wait in record.waits})
        assert len(record.waits) == number
        for wait in record.waits:
            assert record.start_ns <= wait.start_ns <= wait.end_ns <= record.end_ns
            assert wait.error_type is None
    assert len(records) == 2


async def test_a_future_that_was_looked_up_is_not_told_again(
    registry: RolloutRegistry,
) -> None:
    """A failure found before asyncio tells of it counts once, also past the end."""
    rollout = registry.open("r1")
    recorder = Recorder(9)
    exchange = Exchange(rollout, REQUEST, 0, lambda _: True, None, recorder)
    future = asyncio.get_running_loop().create_future()
    _ = exchange.watch(future)
    future.set_exception(TimeoutError())

    exchange.answer_began(200, event_stream=False)
    exchange.answer_ended()
    exchange.finish()
    await asyncio.sleep(0)

    (record,) = recorder.take(9)
    assert isinstance(record, ExchangeEnded)
    assert record.outcome is ExchangeOutcome.SILENT_EMPTY
    assert [wait.error_type for wait in record.waits] == [ErrorType.UPSTREAM_TIMEOUT]
    assert rollout.failures == 1


def fail_a_call(exchange: Exchange) -> None:
    """Have an upstream call fail."""
    with contextlib.suppress(TimeoutError), exchange.upstream_call():
        raise TimeoutError


def report_a_failed_call(exchange: Exchange) -> None:
    """Report that an upstream call failed which nobody timed."""
    exchange.fail(TimeoutError(), phase=Phase.UPSTREAM_CALL)


@pytest.mark.parametrize(
    ("fail", "waits"), [(fail_a_call, 2), (report_a_failed_call, 1)]
)
async def test_a_success_takes_an_earlier_failure_back_on_the_short_way_too(
    registry: RolloutRegistry, fail: Call, waits: int
) -> None:
    """A watched future that succeeds says that the call which failed was made again."""
    rollout = registry.open("r1")
    recorder = Recorder(9)
    exchange = Exchange(rollout, REQUEST, 0, lambda _: True, None, recorder)
    fail(exchange)
    future = asyncio.get_running_loop().create_future()
    _ = exchange.watch(future)
    future.set_result(None)
    await asyncio.sleep(0)

    exchange.answer_began(200, event_stream=False)
    exchange.answer_ended()
    exchange.finish()

    (record,) = recorder.take(9)
    assert isinstance(record, ExchangeEnded)
    assert record.outcome is ExchangeOutcome.OK
    assert (len(record.waits), rollout.failures) == (waits, 0)


async def test_without_telemetry_a_wait_is_known_all_the_same(
    registry: RolloutRegistry,
) -> None:
    """Whether upstream was called is known also where nobody asks for how long."""
    exchange = Exchange(registry.open("r1"), REQUEST, 0, lambda _: True, None, None)
    future = asyncio.get_running_loop().create_future()
    _ = exchange.watch(future)
    before = exchange.called_upstream

    future.set_result(None)
    await asyncio.sleep(0)

    assert (before, exchange.called_upstream) == (False, True)


Story = Callable[[Exchange, list["asyncio.Future[None]"]], None]


def all_answer(_exchange: Exchange, futures: "list[asyncio.Future[None]]") -> None:
    """Let the upstream calls succeed before the answer."""
    for future in futures:
        future.set_result(None)


def the_last_fails(_exchange: Exchange, futures: "list[asyncio.Future[None]]") -> None:
    """Let one upstream call fail before the answer."""
    futures[-1].set_exception(TimeoutError())


def all_are_cancelled(
    _exchange: Exchange, futures: "list[asyncio.Future[None]]"
) -> None:
    """Cancel the upstream calls before the answer."""
    for future in futures:
        future.cancel()


def one_fails_once_begun(
    exchange: Exchange, futures: "list[asyncio.Future[None]]"
) -> None:
    """Let an upstream call fail behind the status line."""
    exchange.answer_began(200, event_stream=False)
    futures[0].set_exception(ConnectionError())


def one_recovers(exchange: Exchange, futures: "list[asyncio.Future[None]]") -> None:
    """Let an upstream call succeed after another had failed."""
    with contextlib.suppress(OSError), exchange.upstream_call():
        raise OSError
    futures[0].set_result(None)


def none_ends(_exchange: Exchange, _futures: "list[asyncio.Future[None]]") -> None:
    """Answer ahead of the upstream, which fails later."""


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize(
    "story",
    [
        all_answer,
        the_last_fails,
        all_are_cancelled,
        one_fails_once_begun,
        one_recovers,
        none_ends,
    ],
)
async def test_what_futures_end_with_counts_the_same_without_telemetry(
    story: Story, number: int
) -> None:
    """Outcome, failures and the state's error do not depend on telemetry.

    Nor does a future print that nobody asked for its exception, nor is it kept.
    """
    seen: list[object] = []
    loop = asyncio.get_running_loop()
    unheard: list[object] = []
    loop.set_exception_handler(lambda _loop, context: unheard.append(context))
    for intake in (None, Recorder(9)):
        state: dict[str, object] = {}
        rollout = RolloutRegistry(Telemetry()).open("r1", state=state)
        exchange = Exchange(rollout, REQUEST, 0, lambda _: True, None, intake)
        futures: list[asyncio.Future[None]] = [
            exchange.watch(loop.create_future()) for _ in range(number)
        ]
        story(exchange, futures)
        await asyncio.sleep(0)
        told = (exchange.failure is None, exchange.called_upstream, dict(state))
        exchange.returns_plainly()
        exchange.answers_whole(200)
        exchange.answer_ended()
        exchange.handler_returned()
        at_end = (exchange.outcome, exchange.called_upstream, rollout.failures)
        for future in futures:
            if not future.done():
                future.set_exception(TimeoutError())
        await asyncio.sleep(0)
        error = state.get("error")
        seen.append(
            (told[:2], [*told[2]], at_end, rollout.failures, type(error), str(error))
        )
        kept = [weakref.ref(future) for future in futures]
        del future, futures
        gc.collect()
        assert [ref() for ref in kept] == [None] * number

    assert seen[0] == seen[1]
    assert unheard == []


class Stage:
    """A rollout and an exchange, with telemetry or without, and what is seen of them.

    Args:
        recorded: Whether there is telemetry.
    """

    def __init__(self, *, recorded: bool) -> None:
        exporter = InMemorySpanExporter() if recorded else None
        settings = Settings(recorder="inline", fingerprint_key=KEY)
        self.loop = asyncio.get_running_loop()
        self.registry = RolloutRegistry(
            Telemetry(span_exporter=exporter, settings=settings)
        )
        self.state: dict[str, object] = {}
        self.rollout = self.registry.open("r1", state=self.state)
        self.is_there = True
        self.seen: list[object] = []
        self.exchange = self.start()

    def start(self) -> Exchange:
        """Start another exchange."""
        return self.rollout.start_exchange(REQUEST, lambda _: self.is_there)

    def watch(self) -> "asyncio.Future[None]":
        """Watch a future."""
        return self.exchange.watch(self.loop.create_future())

    def see(self) -> None:
        """See what has come of it so far, without asking the exchange."""
        error = self.state.get("error")
        phase = error.failure.phase if isinstance(error, RolloutError) else None
        self.seen.append((type(error), phase, self.rollout.failures))

    def answer(self, status: int = 200) -> None:
        """Answer as the middleware does."""
        if self.exchange.returns_plainly():
            self.exchange.answers_whole(status)
            self.exchange.answer_ended()
        else:
            self.exchange.handler_returned()
            self.exchange.answer_began(status, event_stream=False)
            self.exchange.answer_ended()


async def turn() -> None:
    """Let asyncio tell of what has ended."""
    await asyncio.sleep(0)


Tale = Callable[[Stage], Awaitable[None]]


async def watched_after_the_end(stage: Stage) -> None:
    """A future fails that was first watched when all was over."""
    stage.answer()
    stage.watch().set_exception(TimeoutError())
    await turn()


async def watched_behind_the_status_line(stage: Stage) -> None:
    """A future fails that was first watched when the answer had begun."""
    stage.exchange.answer_began(200, event_stream=False)
    stage.watch().set_exception(TimeoutError())
    await turn()
    stage.see()


async def watched_beside_trouble(stage: Stage) -> None:
    """A future fails that was first watched when the agent had left."""
    stage.is_there = False
    stage.exchange.fail(asyncio.CancelledError(), phase=Phase.HANDLER)
    stage.watch().set_exception(TimeoutError())
    await turn()
    stage.see()


async def heard_of_once_there_is_trouble(stage: Stage) -> None:
    """A future fails that runs on when the agent has left."""
    future = stage.watch()
    stage.is_there = False
    stage.exchange.fail(asyncio.CancelledError(), phase=Phase.HANDLER)
    future.set_exception(TimeoutError())
    await turn()
    stage.see()


async def begun_before_it_fails(stage: Stage) -> None:
    """A future fails behind the status line of a body that nobody had described."""
    future = stage.watch()
    stage.exchange.answer_began(200, event_stream=True)
    future.set_exception(TimeoutError())
    await turn()
    stage.see()


async def made_good_in_the_same_call(stage: Stage) -> None:
    """A future fails inside a call, which succeeds nevertheless."""
    with stage.exchange.upstream_call():
        stage.watch().set_exception(TimeoutError())
        await turn()


async def made_good_by_a_reported_call(stage: Stage) -> None:
    """A future fails, and a call of somebody else's then succeeds."""
    stage.watch().set_exception(TimeoutError())
    await turn()
    stage.exchange.upstream_called(1, None)


async def made_good_by_the_next_future(stage: Stage) -> None:
    """A future fails, and then another succeeds."""
    first, second = stage.watch(), stage.watch()
    first.set_exception(TimeoutError())
    await turn()
    second.set_result(None)
    await turn()


async def made_good_before_another_call_fails(stage: Stage) -> None:
    """A future succeeds between two calls that fail, of which the second stands."""
    fail_a_call(stage.exchange)
    stage.watch().set_result(None)
    await turn()
    with contextlib.suppress(ConnectionError), stage.exchange.upstream_call():
        raise ConnectionRefusedError


async def failed_before_a_stop(stage: Stage) -> None:
    """A future fails, and then the rollout stops."""
    stage.watch().set_exception(TimeoutError())
    await turn()
    stage.rollout.stop("done")


async def failed_after_a_stop(stage: Stage) -> None:
    """A future fails once the rollout has stopped."""
    future = stage.watch()
    stage.rollout.stop("done")
    future.set_exception(TimeoutError())
    await turn()


async def failed_on_a_prompt_too_long(stage: Stage) -> None:
    """A future fails once the host has noted why."""
    future = stage.watch()
    stage.state["prompt_too_long"] = True
    future.set_exception(TimeoutError())
    await turn()


async def failed_before_the_handler(stage: Stage) -> None:
    """A handler stumbles over what its future failed with."""
    stage.watch().set_exception(TimeoutError())
    stage.exchange.handler_raised(ValueError())


async def failed_at_watch(stage: Stage) -> None:
    """A future had failed before it was watched, and the rollout closes at once."""
    future: asyncio.Future[None] = stage.loop.create_future()
    future.set_exception(TimeoutError())
    _ = stage.exchange.watch(future)
    stage.registry.close("r1")
    stage.see()


async def watched_twice(stage: Stage) -> None:
    """A future that is watched twice fails."""
    future = stage.watch()
    _ = stage.exchange.watch(future)
    future.set_exception(TimeoutError())
    await turn()


async def watched_by_two(stage: Stage) -> None:
    """A future fails that is watched by two exchanges, of which one has ended."""
    future = stage.watch()
    other = stage.start()
    _ = other.watch(future)
    assert other.returns_plainly()
    other.answers_whole(200)
    other.answer_ended()
    future.set_exception(TimeoutError())
    await turn()
    stage.see()


async def past_a_deadline(stage: Stage) -> None:
    """A handler gives its future up at a deadline of its own."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stage.watch(), 0.001)
    stage.answer(504)


async def past_a_shielded_deadline(stage: Stage) -> None:
    """A handler gives up a future that goes on, and fails late."""
    future = stage.watch()
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(asyncio.shield(future), 0.001)
    stage.answer(504)
    future.set_exception(TimeoutError())
    await turn()


async def torn_down(stage: Stage) -> None:
    """A rollout ends under its call, before the agent leaves."""
    future = stage.watch()
    stage.registry.close("r1")
    future.cancel()
    await turn()
    stage.is_there = False
    stage.answer(499)


async def given_up_before_teardown(stage: Stage) -> None:
    """A handler gives its future up, and its rollout ends before it can say so."""
    stage.watch().cancel()
    await turn()
    stage.registry.close("r1")
    stage.answer(504)


async def left(stage: Stage) -> None:
    """An agent leaves, and its call is cancelled for it."""
    future = stage.watch()
    stage.is_there = False
    future.cancel()
    await turn()
    stage.answer(499)


async def left_and_answered(stage: Stage) -> None:
    """An agent leaves, its call is cancelled, and a handler answers all the same."""
    future = stage.watch()
    stage.is_there = False
    future.cancel()
    await turn()
    stage.answer()


async def shut_down(stage: Stage) -> None:
    """A server cancels what runs, and then finds its own connection closed."""
    stage.watch().cancel()
    stage.exchange.handler_returned()
    stage.exchange.write_failed(ConnectionResetError(), phase=Phase.PREPARE)


async def switched(stage: Stage) -> None:
    """A WebSocket's future fails after the handshake."""
    future = stage.watch()
    stage.exchange.answer_began(101, event_stream=False)
    future.set_exception(TimeoutError())
    await turn()
    stage.see()
    stage.exchange.handler_returned()


O = ExchangeOutcome  # noqa: E741 - the table below


@pytest.mark.parametrize(
    ("tale", "outcome", "failures"),
    [
        (watched_after_the_end, O.OK, 1),
        (watched_behind_the_status_line, O.SILENT_EMPTY, 1),
        (watched_beside_trouble, O.AGENT_GONE, 1),
        (heard_of_once_there_is_trouble, O.AGENT_GONE, 1),
        (begun_before_it_fails, O.CUT, 1),
        (made_good_in_the_same_call, O.OK, 0),
        (made_good_by_a_reported_call, O.OK, 0),
        (made_good_by_the_next_future, O.OK, 0),
        (made_good_before_another_call_fails, O.SILENT_EMPTY, 1),
        (failed_before_a_stop, O.SILENT_EMPTY, 1),
        (failed_after_a_stop, O.CLEAN_STOP, 0),
        (failed_on_a_prompt_too_long, O.CLEAN_STOP, 0),
        (failed_before_the_handler, O.SILENT_EMPTY, 1),
        (failed_at_watch, O.SILENT_EMPTY, 1),
        (watched_twice, O.SILENT_EMPTY, 1),
        (watched_by_two, O.SILENT_EMPTY, 2),
        (past_a_deadline, O.UPSTREAM_FAILED, 1),
        (past_a_shielded_deadline, O.UPSTREAM_FAILED, 2),
        (torn_down, O.CANCELLED, 0),
        (given_up_before_teardown, O.UPSTREAM_FAILED, 1),
        (left, O.AGENT_GONE, 0),
        (left_and_answered, O.AGENT_GONE, 0),
        (shut_down, O.CANCELLED, 0),
        (switched, O.SILENT_EMPTY, 1),
    ],
)
async def test_what_comes_first_counts_first_without_telemetry_too(
    tale: Tale, outcome: ExchangeOutcome, failures: int
) -> None:
    """Outcome, failure and the state's error are the same, and there as soon."""
    said: list[object] = []
    for recorded in (True, False):
        stage = Stage(recorded=recorded)
        await tale(stage)
        if stage.exchange.outcome is None:
            stage.answer()
        stage.see()
        exchange = stage.exchange
        said.append((stage.seen, exchange.failure, exchange.called_upstream))

        assert exchange.outcome is outcome
        assert stage.rollout.failures == failures

    assert said[0] == said[1]


@pytest.mark.parametrize("recorded", [False, True])
async def test_what_the_host_sets_meanwhile_comes_first_without_telemetry(
    recorded: bool,
) -> None:
    """A clean stop that nobody tells of hides a failure that nobody had looked at."""
    stage = Stage(recorded=recorded)
    stage.watch().set_exception(TimeoutError())
    await turn()

    stage.state["prompt_too_long"] = True
    stage.answer()

    assert stage.exchange.outcome is (O.SILENT_EMPTY if recorded else O.CLEAN_STOP)


Ending = Callable[["concurrent.futures.Future[None]"], object]

ENDINGS: list[Ending] = [
    lambda _: None,
    lambda future: future.set_result(None),
    lambda future: future.set_exception(TimeoutError()),
    lambda future: future.cancel(),
]


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("end", ENDINGS, ids=("never", "well", "badly", "cancelled"))
async def test_the_future_of_an_executor_is_watched_the_same_without_telemetry(
    end: Ending, before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """It tells at once and in any thread, and says in its own way that it is over."""
    said: list[object] = []
    for recorded in (True, False):
        stage = Stage(recorded=recorded)
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        if before:
            end(future)
        watch_anything(stage.exchange, future)
        if not before:
            end(future)
        stage.answer()
        stage.see()
        said.append((stage.seen, stage.exchange.outcome, stage.exchange.failure))

    assert said[0] == said[1]
    assert not caplog.records


@pytest.mark.parametrize("recorded", [False, True])
async def test_what_is_no_future_is_said_once(
    recorded: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Watching it says in one constant line that it was in vain; traffic goes on."""
    stage = Stage(recorded=recorded)

    watch_anything(stage.exchange, "sk-canary-0f77e1")
    stage.answer()

    assert stage.exchange.outcome is O.OK
    assert [record.getMessage() for record in caplog.records] == [
        "telemetry failed in Exchange.watch; please report it"
    ]


def watch_anything(exchange: Exchange, future: object) -> None:
    """Watch what the types do not allow."""
    watch: Callable[[object], object] = getattr(exchange, "watch")  # noqa: B009 - as said
    assert watch(future) is future


@pytest.mark.parametrize("before", [False, True])
async def test_no_log_is_told_how_a_future_failed_whose_exchange_never_ends(
    before: bool,
) -> None:
    """Whether it fails before or after everybody has let go of the exchange."""
    printed: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: printed.append(context))
    future = Stage(recorded=True).watch()
    gone = weakref.ref(future)

    if before:
        future.set_exception(ValueError("sk-canary-0f77e1"))
        await turn()
    gc.collect()
    if not before:
        future.set_exception(ValueError("sk-canary-0f77e1"))
        await turn()
    del future
    gc.collect()

    assert gone() is None
    assert printed == []


@pytest.mark.parametrize("late", [False, True])
def test_an_exchange_that_outlives_its_rollout_is_found(
    registry: RolloutRegistry, late: bool
) -> None:
    """Ending all exchanges ends those of a rollout that has ended before, too.

    Also one that came late, in whatever server holds on to a rollout.
    """
    rollout = registry.open("r1")
    if late:
        registry.close("r1")
    left = rollout.start_exchange(REQUEST, agent_present=lambda _: True)
    over = rollout.start_exchange(REQUEST, agent_present=lambda _: True)
    registry.close("r1")
    over.fail(TimeoutError(), phase=Phase.HANDLER)
    over.finish()

    registry.end_exchanges()

    assert left.outcome is ExchangeOutcome.CANCELLED
    assert over.outcome is ExchangeOutcome.HANDLER_FAILED
    assert rollout.running == 0


class State(dict[str, object]):
    """A state of which can be told whether it is still held."""


def test_a_rollout_that_all_have_left_is_let_go(registry: RolloutRegistry) -> None:
    """A rollout that ends before its exchange is held until that has ended."""
    state = State()
    held = weakref.ref(state)
    rollout = registry.open("r1", state=state)
    exchange = rollout.start_exchange(REQUEST, agent_present=lambda _: True)
    registry.close("r1")
    del state, rollout
    held_before = held() is not None

    exchange.finish()
    del exchange
    gc.collect()

    assert held_before
    assert held() is None


async def test_a_cancelled_future_leaves_no_garbage(
    registry: RolloutRegistry,
) -> None:
    """What asyncio raises for a cancelled future does not keep itself alive."""
    exchange = Exchange(
        registry.open("r1"), REQUEST, 0, lambda _: True, None, Recorder(9)
    )
    gone = weakref.ref(exchange)
    told, found = (asyncio.get_running_loop().create_future() for _ in range(2))
    for future in (told, found):
        _ = exchange.watch(future)

    gc.disable()
    try:
        told.cancel()
        await asyncio.sleep(0)
        found.cancel()
        exchange.finish()
        await asyncio.sleep(0)
        del exchange, future, told, found

        assert gone() is None
    finally:
        gc.enable()


def test_what_a_write_raised_is_let_go_at_the_end(registry: RolloutRegistry) -> None:
    """An exchange keeps no raw exception, whose traceback would keep the exchange."""
    exchange = Exchange(
        registry.open("r1"), REQUEST, 0, lambda _: True, None, Recorder(9)
    )
    gone = weakref.ref(exchange)
    exchange.answer_began(200, event_stream=False)

    gc.disable()
    try:
        fail_a_write(exchange)
        exchange.finish()
        del exchange

        assert gone() is None
    finally:
        gc.enable()


def fail_a_write(exchange: Exchange) -> None:
    """Report a write that raised, in a frame that holds the exchange."""
    try:
        lose_the_agent()
    except ConnectionResetError as exc:
        exchange.write_failed(exc, phase=Phase.CHUNK)


def lose_the_agent() -> None:
    """Raise what a write to an agent that has gone raises."""
    raise ConnectionResetError
