"""The short ways of exchanges where all is well say what the long ways say."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from otel_intercept import (
    ErrorType,
    Exchange,
    ExchangeOutcome,
    Phase,
    Rollout,
    RolloutRegistry,
)
from otel_intercept.record import ExchangeEnded, Request
from otel_intercept.recorder import Recorder
from otel_intercept.semconv import Dialect
from otel_intercept.telemetry import Telemetry

REQUEST = Request("POST", "/{id}/messages", "https", Dialect.MESSAGES, 2, (7, 8))
BODY = {"model": "m-1", "max_tokens": 9}
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
