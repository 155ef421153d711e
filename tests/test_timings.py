"""Exchanges without a span make no record where all that is asked is how long."""

import asyncio
import contextlib
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)
from msgspec.structs import replace
from opentelemetry.sdk.metrics import AlwaysOnExemplarFilter, MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_intercept import Exchange, RolloutRegistry, Telemetry, semconv
from otel_intercept.record import ExchangeEnded, Record, Request, RequestFacts
from otel_intercept.recorder import Recorder
from otel_intercept.semconv import Dialect, Phase
from otel_intercept.settings import Settings
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.timings import MAX_KINDS, Kind, Timing, Timings
from otel_intercept.translate.aggregates import Aggregates
from otel_intercept.translate.interval import Interval
from otel_intercept.translate.model_label import ModelLabel
from tests.samples import SECOND_NS, exchange, rollout_ref, wait

CHAT: Final = Dialect.CHAT_COMPLETIONS
REQUEST: Final = Request("POST", "/x", "http", CHAT)
BODY: Final = {"model": "gpt-5", "temperature": 0.5}
ANSWER: Final = {"usage": {"prompt_tokens": 7, "completion_tokens": 3}}
MOST: Final = 9
MOMENT_S: Final = 0.002
LABELS: Final = {
    semconv.EXCHANGE_OUTCOME: "ok",
    semconv.EXCHANGE_DIALECT: CHAT.value,
    semconv.EXCHANGE_STREAM: False,
}


def kind(model: str, *, stream: bool = False, dialect: Dialect = CHAT) -> Kind:
    """Return what exchanges have in common."""
    return dialect, RequestFacts(model, stream, ())


class Line(RuleBasedStateMachine):
    """Adds and takes in any order, and knows what has to be there."""

    def __init__(self) -> None:
        super().__init__()
        self.timings = Timings(MOST)
        self.waiting: dict[Kind, list[Timing]] = {}
        self.number = 0

    @rule(model=st.sampled_from(["a", "b", "c"]), stream=st.booleans())
    def add(self, model: str, stream: bool) -> None:
        """One is added exactly if fewer wait than may."""
        self.number += 1
        timing = (self.number, None, ())
        each = kind(model, stream=stream)

        added = self.timings.add(*each, timing)

        assert added == (sum(map(len, self.waiting.values())) < MOST)
        if added:
            self.waiting.setdefault(each, []).append(timing)

    @precondition(lambda self: any(self.waiting.values()))
    @rule(limit=st.integers(1, 4))
    def take(self, limit: int) -> None:
        """The oldest of one kind come out, and no more than asked for."""
        taken = self.timings.take(limit)

        assert taken is not None
        each, timings = taken
        assert timings == self.waiting[each][:limit] != []
        del self.waiting[each][:limit]

    @precondition(lambda self: not any(self.waiting.values()))
    @rule()
    def take_none(self) -> None:
        """Where nothing waits, nothing comes out."""
        assert self.timings.take(1) is None

    @invariant()
    def has_a_length(self) -> None:
        """It tells how many wait."""
        assert len(self.timings) == sum(map(len, self.waiting.values()))


TestLine = Line.TestCase
TestLine.settings = settings(max_examples=60, deadline=None)


def test_only_kinds_that_wait_take_a_place() -> None:
    """So many kinds may wait, whatever models agents ask for; those taken make room."""
    timings = Timings(10 * MAX_KINDS)
    for number in range(MAX_KINDS):
        assert timings.add(*kind(f"m-{number}"), (1, None, ()))

    refused = timings.add(*kind("one more"), (1, None, ()))
    known = timings.add(*kind("m-0"), (2, None, ()))
    taken = timings.take(9)
    added = timings.add(*kind("one more"), (3, None, ()))

    assert (refused, known, added) == (False, True, True)
    assert taken == (kind("m-0"), [(1, None, ()), (2, None, ())])
    assert len(timings) == MAX_KINDS


def test_nothing_is_lost_or_doubled_between_two_threads() -> None:
    """What one thread adds, with new kinds all the time, the other takes once."""
    timings, number = Timings(10**9), 60_000
    got: Counter[int] = Counter()
    done = threading.Event()

    def take_all() -> None:
        while True:
            last = done.is_set()
            while (taken := timings.take(50)) is not None:
                got.update(took for took, _, _ in taken[1])
            if last:
                return

    thread = threading.Thread(target=take_all)
    thread.start()
    refused = [
        one
        for one in range(number)
        if not timings.add(*kind(f"m-{one // 7 % (2 * MAX_KINDS)}"), (one, None, ()))
    ]
    done.set()
    thread.join()

    assert got == Counter(set(range(number)).difference(refused))
    assert len(timings) == 0


eighths = st.integers(0, 8 * 700).map(lambda eighth: eighth * SECOND_NS // 8)
tokens = st.lists(
    st.tuples(
        st.sampled_from(
            [semconv.GEN_AI_USAGE_INPUT_TOKENS, semconv.GEN_AI_USAGE_OUTPUT_TOKENS]
        ),
        st.integers(-1, 2**40) | st.just("text"),
    ),
    max_size=2,
).map(tuple)
timed = st.tuples(
    st.sampled_from(["gpt-5", "claude", "third"]),
    st.booleans(),
    st.sampled_from(Dialect),
    st.tuples(eighths, st.none() | eighths, tokens),
)


@given(came=st.lists(timed, min_size=1, max_size=30))
@settings(deadline=None)
def test_they_are_added_up_as_their_records_would_be(
    came: list[tuple[str, bool, Dialect, Timing]],
) -> None:
    """Durations, upstream waits, tokens and counts are those of unsampled records."""
    by_record = Aggregates(ModelLabel(None, 9), "sampled")
    by_timing = Aggregates(ModelLabel(None, 9), "sampled")
    unsampled, line = rollout_ref(sampled=False), Timings(99)
    for model, stream, dialect, timing in came:
        took, waited, response = timing
        record = exchange(
            unsampled,
            dialect=dialect,
            model=model,
            stream=stream,
            response=response,
            waits=() if waited is None else (wait(seconds=0),),
        )
        by_record.record(_lasting(record, took, waited))
        assert line.add(*kind(model, stream=stream, dialect=dialect), timing)

    while (taken := line.take(4)) is not None:
        by_timing.add_timings(*taken)

    assert _shown(by_timing.take()) == _shown(by_record.take())


def test_a_bad_one_takes_no_other_with_it() -> None:
    """What cannot be measured is left out alone, and no word of it is raised."""
    aggregates = Aggregates(ModelLabel(None, 9), "sampled")
    bad: Timing = (10**400, None, ())

    aggregates.add_timings(kind("gpt-5"), [(1, None, ()), bad, (2, None, ())])

    series = aggregates.take().counts[semconv.EXCHANGES.name]
    assert sum(count.value for count in series.values()) == 2


@contextlib.contextmanager
def unsampled(given_: Settings | None = None) -> Iterator[TelemetryRecorder]:
    """Record what would leave the process while no rollout is sampled."""
    recorder = TelemetryRecorder(given_, sampler=ALWAYS_OFF)
    yield recorder
    recorder.telemetry.shutdown()


def start(telemetry: Telemetry, *, rollout_id: str = "r") -> Exchange:
    """Start an exchange of a new rollout."""
    rollout = RolloutRegistry(telemetry).open(rollout_id, state={})
    made = rollout.start_exchange(REQUEST, agent_present=lambda _: True)
    made.describe_request(BODY)
    return made


def end(made: Exchange) -> None:
    """End it with an answer in one piece."""
    made.handler_returned()
    made.answer_began(200, event_stream=False)
    made.answer_ended()


def pass_a_moment() -> None:
    """Come back when a clock of ours has gone on for as long."""
    until = time.perf_counter() + MOMENT_S
    while time.perf_counter() < until:
        pass


def call(made: Exchange) -> None:
    """Call the upstream, which answers."""
    with made.upstream_call():
        pass


def timings_of(telemetry: Telemetry) -> Timings:
    """Return those that wait."""
    assert isinstance(telemetry.intake, Recorder)
    assert telemetry.intake.timings is not None
    return telemetry.intake.timings


def waiting(telemetry: Telemetry) -> tuple[int, int]:
    """Tell how many records wait, besides that the rollout began, and timings."""
    intake = telemetry.intake
    assert isinstance(intake, Recorder)
    timings = intake.timings
    return len(intake) - 1, 0 if timings is None else len(timings)


def test_one_that_goes_well_makes_no_record_and_is_measured() -> None:
    """All that its record would have told of in metrics is there."""
    with unsampled() as recorder:
        made = start(recorder.telemetry)
        call(made)
        made.describe_response(ANSWER)
        end(made)

        left = waiting(recorder.telemetry)

        assert left == (0, 1)
        assert recorder.value("intercept.exchanges", LABELS) == 1
        assert _measured(recorder) == {
            "intercept.exchange.duration": 1,
            "intercept.upstream.duration": 1,
            "gen_ai.client.token.usage": 2,
        }
        assert waiting(recorder.telemetry)[1] == 0


async def watch_a_future(made: Exchange) -> None:
    """Have a consumer answer the call."""
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    _ = made.watch(future)
    pass_a_moment()
    future.set_result(None)
    await future


async def hear_of_a_future(made: Exchange) -> None:
    """Have a consumer answer the call, and do not go on at once."""
    await watch_a_future(made)
    await asyncio.sleep(0)


async def watch_a_call(made: Exchange) -> None:
    """Call the upstream in the handler."""
    with made.upstream_call():
        pass_a_moment()


@pytest.mark.parametrize("upstream", [watch_a_future, hear_of_a_future, watch_a_call])
@pytest.mark.parametrize("full", [False, True], ids=["timing", "record"])
async def test_it_is_timed_as_long_as_the_upstream_took(
    upstream: Callable[[Exchange], Awaitable[None]],
    full: bool,
) -> None:
    """Also where the bound was met and it has to make a record after all."""
    with unsampled(Settings(queue_size=MOST)) as recorder:
        for _ in range(MOST if full else 0):
            assert timings_of(recorder.telemetry).add(*kind("gpt-5"), (1, None, ()))
        began = time.perf_counter()
        made = start(recorder.telemetry)
        await upstream(made)
        end(made)
        took_s = time.perf_counter() - began

        left = waiting(recorder.telemetry)

        assert left == ((1, MOST) if full else (0, 1))
        assert _measured(recorder)[semconv.UPSTREAM_DURATION.name] == 1
        assert MOMENT_S <= _waited_s(recorder) <= took_s


def fail(made: Exchange) -> None:
    """Fail, as a handler saw."""
    made.fail(ValueError(), phase=Phase.HANDLER)


def fail_after_a_call(made: Exchange) -> None:
    """Fail over the upstream's answer."""
    with made.upstream_call():
        pass_a_moment()
    fail(made)


def call_twice(made: Exchange) -> None:
    """Call the upstream twice, for a moment the first time."""
    with made.upstream_call():
        pass_a_moment()
    call(made)


def call_in_vain(made: Exchange) -> None:
    """Call the upstream, and try again when that failed."""
    with contextlib.suppress(TimeoutError), made.upstream_call():
        pass_a_moment()
        raise TimeoutError
    call(made)


def stream(made: Exchange) -> None:
    """Begin an event stream, with all that belongs to one."""
    made.answer_began(200, event_stream=True)
    made.answer_wrote(b'data: {"choices": []}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize(
    ("deviate", "waits"),
    [
        (fail, {}),
        (fail_after_a_call, {None: 1}),
        (call_twice, {None: 2}),
        (call_in_vain, {"upstream_timeout": 1, None: 1}),
        (stream, {}),
    ],
)
def test_one_of_which_more_is_asked_makes_a_record(
    deviate: Callable[[Exchange], None], waits: dict[str | None, int]
) -> None:
    """Failures are logged; streams and repeated calls measure more of their own."""
    with unsampled() as recorder:
        made = start(recorder.telemetry)
        deviate(made)
        end(made)

        left = waiting(recorder.telemetry)

        assert left == (1, 0)
        assert _measured(recorder)["intercept.exchange.duration"] == 1
        assert {
            point.attributes.get(semconv.ERROR_TYPE): point.value
            for point in recorder.metrics()
            if point.name == semconv.UPSTREAM_DURATION.name
        } == waits
        assert _waited_s(recorder) >= (MOMENT_S if waits else 0)


def test_a_sampled_one_makes_a_record(recorder: TelemetryRecorder) -> None:
    """What has a span is never only measured."""
    end(start(recorder.telemetry))

    assert waiting(recorder.telemetry) == (1, 0)


def test_where_every_measurement_may_be_an_exemplar_all_make_records() -> None:
    """An exemplar tells when it was measured, which is not kept of a timing."""
    with unsampled(Settings(exemplar_filter=AlwaysOnExemplarFilter())) as recorder:
        end(start(recorder.telemetry))

        assert waiting(recorder.telemetry) == (1, 0)


def test_where_instruments_of_the_sdk_measure_all_make_records() -> None:
    """A meter provider of the application is told of each exchange."""
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader], shutdown_on_exit=False)
    telemetry = Telemetry(meter_provider=provider, settings=Settings(recorder="inline"))

    end(start(telemetry))
    left = waiting(telemetry)

    assert left == (1, 0)
    telemetry.shutdown()
    provider.shutdown()


def test_those_beyond_the_bound_are_records_and_then_counted_as_any() -> None:
    """No more wait than records may; all the others are counted where they end."""
    with unsampled(Settings(queue_size=3)) as recorder:
        for number in range(9):
            made = start(recorder.telemetry, rollout_id=f"r{number}")
            call(made)
            end(made)

        records, timings = waiting(recorder.telemetry)

        assert (records + 1, timings) == (3, 3)
        assert recorder.value("intercept.exchanges", LABELS) == 9


def test_those_of_unknown_models_without_end_are_all_counted() -> None:
    """Beyond the kinds that may wait they make records."""
    number = 2 * MAX_KINDS
    with unsampled() as recorder:
        for each in range(number):
            made = start(recorder.telemetry, rollout_id=f"r{each}")
            made.describe_request({"model": f"m-{each}"})
            end(made)

        _, timings = waiting(recorder.telemetry)

        assert timings == MAX_KINDS
        assert recorder.value("intercept.exchanges", LABELS) == number


def test_a_shutdown_measures_what_waits_and_takes_no_more() -> None:
    """The last export has them all, and what comes later is left out as a record is."""
    with unsampled() as recorder:
        end(start(recorder.telemetry))

        recorder.telemetry.shutdown()
        end(start(recorder.telemetry))

        assert waiting(recorder.telemetry)[1] == 0
        assert recorder.value("intercept.exchanges", LABELS) == 1


def _measured(recorder: TelemetryRecorder) -> dict[str, float]:
    found: Counter[str] = Counter()
    for point in recorder.metrics():
        if isinstance(point.point, HistogramDataPoint):
            found[point.name] += int(point.value)
    return {**found}


def _waited_s(recorder: TelemetryRecorder) -> float:
    return sum(
        point.point.sum
        for point in recorder.metrics()
        if point.name == semconv.UPSTREAM_DURATION.name
        and isinstance(point.point, HistogramDataPoint)
    )


def _lasting(record: ExchangeEnded, took_ns: int, waited_ns: int | None) -> Record:
    waits = [
        replace(one, end_ns=one.start_ns + (waited_ns or 0)) for one in record.waits
    ]
    return replace(record, end_ns=record.start_ns + took_ns, waits=tuple(waits))


def _shown(interval: Interval) -> tuple[object, object]:
    counts = {
        (name, labels): count.value
        for name, series in interval.counts.items()
        for labels, count in series.items()
    }
    values = {
        (name, labels): (each.counts, each.sum, each.smallest, each.largest)
        for name, series in interval.distributions.items()
        for labels, each in series.items()
    }
    return counts, values
