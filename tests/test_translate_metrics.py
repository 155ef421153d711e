"""Every record moves the instruments of the catalogue, and only with closed labels."""

import random
import time
from collections.abc import Mapping
from itertools import product
from typing import Literal

import pytest
from msgspec.structs import replace
from opentelemetry.sdk.metrics import MeterProvider, TraceBasedExemplarFilter
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    use_span,
)

from otel_intercept import RolloutRegistry, semconv
from otel_intercept import failure as failures
from otel_intercept.counters import counter_keys
from otel_intercept.record import ExchangeRejected, Record, StreamFacts
from otel_intercept.recorder import Balance
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    Fate,
    Phase,
    RolloutOutcome,
)
from otel_intercept.settings import Settings
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.translate.aggregates import Aggregates
from otel_intercept.translate.balance import (
    OBSERVED,
    BalanceInstruments,
    BalanceSheet,
)
from otel_intercept.translate.collector import Collector
from otel_intercept.translate.guard_metrics import metrics_of
from otel_intercept.translate.metrics import Instruments, views
from otel_intercept.translate.model_label import ModelLabel
from otel_intercept.translate.possible import possible_counters, possible_failures
from otel_intercept.translate.served import serve, temporality_of
from tests.samples import (
    EXCHANGE_ID,
    ROOT_ID,
    TRACE_ID,
    ended,
    exchange,
    failed_exchange,
    failure,
    failure_seen,
    rollout_ref,
    started,
    wait,
)

Way = Literal["sdk", "own"]
EMPTY_SHEET = BalanceSheet(
    balance=lambda: Balance(0, 0, 0, 0, 0, 0, 0),
    metric_fates=dict,
    log_fates=dict,
    open_rollouts=lambda: 0,
    oldest_rollout_s=lambda: 0.0,
)
OBSERVED_NAMES = {instrument.name for instrument in OBSERVED}
each_way = pytest.mark.parametrize("way", ["sdk", "own"])

Point = NumberDataPoint | HistogramDataPoint
Series = dict[frozenset[tuple[str, object]], Point]


class Bench:
    """Instruments of the SDK, or aggregates of ours, before an in-memory reader."""

    def __init__(
        self, way: Way, sheet: BalanceSheet = EMPTY_SHEET, *, cap: int = 64
    ) -> None:
        self.reader = InMemoryMetricReader()
        provider = MeterProvider(
            [self.reader],
            Resource({}),
            exemplar_filter=TraceBasedExemplarFilter(),
            shutdown_on_exit=False,
            views=views(),
        )
        label = ModelLabel(None, cap)
        self.measures: Instruments | Aggregates
        if way == "sdk":
            meter = provider.get_meter("otel_intercept")
            self.measures = Instruments(meter, label)
            BalanceInstruments(meter, sheet)
        else:
            self.measures = Aggregates(label, "sampled")
            temporality = temporality_of(self.reader)
            serve(
                self.reader,
                Collector(self.measures, sheet, Resource({}), temporality),
            )

    def record(self, *records: Record) -> None:
        """Record the metrics of some records."""
        for record in records:
            self.measures.record(record)

    def collect(self) -> dict[str, Series]:
        """Return every series by instrument and labels."""
        data = self.reader.get_metrics_data()
        collected: dict[str, Series] = {}
        for metric in metrics_of(data) if data else ():
            series = collected.setdefault(metric.name, {})
            for point in metric.data.data_points:
                assert isinstance(point, NumberDataPoint | HistogramDataPoint)
                series[frozenset((point.attributes or {}).items())] = point
        return collected


def value(series: Series, labels: Mapping[str, object]) -> float:
    """Return the value of the series with exactly these labels."""
    point = series[frozenset(labels.items())]
    assert isinstance(point, NumberDataPoint)
    return point.value


def histogram(series: Series, labels: Mapping[str, object]) -> HistogramDataPoint:
    """Return the histogram with exactly these labels."""
    point = series[frozenset(labels.items())]
    assert isinstance(point, HistogramDataPoint)
    return point


def nonzero(series: Series) -> dict[frozenset[tuple[str, object]], float]:
    """Return the labels and values of the counters that moved."""
    return {
        labels: point.value
        for labels, point in series.items()
        if isinstance(point, NumberDataPoint) and point.value
    }


@each_way
def test_every_combination_that_can_occur_starts_at_zero(way: Way) -> None:
    """The first scrape has all series of the three counters, each at 0."""
    collected = Bench(way).collect()

    rollouts = collected["intercept.rollouts"]
    exchanges = collected["intercept.exchanges"]
    assert len(rollouts) == len(RolloutOutcome)
    assert len(exchanges) == len(ExchangeOutcome) * len(Dialect) * 2
    assert len(collected["intercept.failures"]) == len(possible_failures())
    for series in collected.values():
        assert nonzero(series) == {}


def test_every_failure_that_can_be_described_has_a_seeded_series() -> None:
    """No described failure, in any phase, makes a series that did not start at 0."""
    key = b"k" * 16
    exceptions: list[BaseException] = [
        TimeoutError(),
        ConnectionResetError(),
        BrokenPipeError(),
        ValueError(),
        RuntimeError(),
        OSError(),
        KeyError(),
        ExceptionGroup("g", [TimeoutError()]),
        KeyboardInterrupt(),
    ]
    described = [
        *(
            failures.describe(exc, phase=phase, key=key, default=default)
            for exc, phase in product(exceptions, Phase)
            for default in (ErrorType.OTHER, ErrorType.HANDLER_ERROR)
        ),
        *(
            failures.from_status(status, phase=phase, key=key)
            for status, phase in product(
                (400, 401, 413, 429, 500, 503, 504, 529), Phase
            )
        ),
        failures.from_error_frame("overloaded_error", None, key=key),
        failures.from_error_frame("made_up", "code", key=key),
        *(
            failures.without_exception(error, phase=phase, key=key)
            for error, phase in product(ErrorType, Phase)
        ),
    ]

    triples = {(each.error_type, each.phase, each.origin) for each in described}

    assert triples <= possible_failures()


def test_every_counter_key_of_every_record_is_seeded() -> None:
    """Whatever a record adds one to is among the series that start at 0."""
    seeded = set(possible_counters())

    for outcome, dialect, stream in product(ExchangeOutcome, Dialect, (True, False)):
        record = exchange(outcome=outcome, dialect=dialect, stream=stream)
        assert set(counter_keys(record)) <= seeded
        assert set(counter_keys(replace(record, replayed=True))) <= seeded
    for rollout_outcome in RolloutOutcome:
        assert set(counter_keys(ended(outcome=rollout_outcome))) <= seeded
    others: tuple[Record, ...] = (
        failed_exchange(),
        failure_seen(),
        ExchangeRejected(Dialect.OTHER),
    )
    for other in others:
        assert set(counter_keys(other)) <= seeded


@each_way
def test_an_ended_rollout_is_counted_and_timed(way: Way) -> None:
    """The end of a rollout moves its counter and its duration, by outcome."""
    bench = Bench(way)

    bench.record(started(), ended(outcome=RolloutOutcome.STOPPED))

    collected = bench.collect()
    labels = {"intercept.rollout.outcome": "stopped"}
    assert nonzero(collected["intercept.rollouts"]) == {frozenset(labels.items()): 1}
    assert histogram(collected["intercept.rollout.duration"], labels).sum == 10.0


@each_way
def test_an_exchange_moves_every_instrument_that_it_has_facts_for(way: Way) -> None:
    """Durations, gaps, first chunk and tokens of an exchange land where they belong."""
    bench = Bench(way)

    bench.record(
        exchange(
            facts=StreamFacts(3, 90, 0, 0.5, 0.125),
            response=(
                (semconv.GEN_AI_USAGE_INPUT_TOKENS, 100),
                (semconv.GEN_AI_USAGE_OUTPUT_TOKENS, 20),
            ),
            waits=(wait(error_type=ErrorType.UPSTREAM_OVERLOADED), wait(seconds=1)),
        )
    )

    collected = bench.collect()
    shape = {
        "intercept.exchange.dialect": "chat_completions",
        "gen_ai.request.model": "gpt-5",
    }
    ended_as = {
        **shape,
        "intercept.exchange.outcome": "ok",
        "intercept.exchange.stream": True,
    }
    failed_as = {**shape, "error.type": "upstream_overloaded"}
    usage = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
    }
    upstream = collected["intercept.upstream.duration"]
    tokens = collected["gen_ai.client.token.usage"]
    assert histogram(collected["intercept.exchange.duration"], ended_as).sum == 3.0
    assert histogram(upstream, failed_as).sum == 2.0
    assert histogram(upstream, shape).sum == 1.0
    first_chunk = collected["intercept.stream.time_to_first_chunk"]
    assert histogram(first_chunk, shape).sum == 0.125
    assert histogram(collected["intercept.stream.max_gap"], shape).sum == 0.5
    assert histogram(tokens, {**usage, "gen_ai.token.type": "input"}).sum == 100
    assert histogram(tokens, {**usage, "gen_ai.token.type": "output"}).sum == 20


@each_way
def test_an_exchange_without_facts_moves_no_stream_instrument(way: Way) -> None:
    """A unary answer has no first chunk and no gap, and unknown usage is not zero."""
    bench = Bench(way)

    bench.record(
        exchange(stream=False), exchange(facts=StreamFacts(0, 0, 2, 0.0, None))
    )

    assert bench.collect().keys() - OBSERVED_NAMES == {
        "intercept.rollouts",
        "intercept.exchanges",
        "intercept.exchanges.replayed",
        "intercept.exchange.duration",
        "intercept.stream.keepalives",
        "intercept.failures",
    }


@each_way
def test_a_replayed_failure_counts_as_replayed_and_as_no_new_failure(way: Way) -> None:
    """An answer of an earlier exchange moves both exchange counters, not failures."""
    bench = Bench(way)

    bench.record(replace(failed_exchange(), replayed=True))

    collected = bench.collect()
    moved = {
        name: sum(nonzero(collected[name]).values())
        for name in (
            "intercept.exchanges",
            "intercept.exchanges.replayed",
            "intercept.failures",
        )
    }
    assert moved == {
        "intercept.exchanges": 1,
        "intercept.exchanges.replayed": 1,
        "intercept.failures": 0,
    }


@each_way
def test_keepalives_are_counted_by_dialect(way: Way) -> None:
    """An ended stream adds what was written in its silences, and each dialect has 0."""
    bench = Bench(way)

    bench.record(
        exchange(facts=StreamFacts(3, 90, 5, 0.5, 0.1)),
        exchange(facts=StreamFacts(0, 90, 2, 0.0, None)),
        exchange(facts=StreamFacts(1, 9, 1, 0.5, 0.1), dialect=Dialect.MESSAGES),
        exchange(stream=False),
    )

    series = bench.collect()["intercept.stream.keepalives"]
    assert len(series) == len(Dialect)
    assert nonzero(series) == {
        frozenset({("intercept.exchange.dialect", "chat_completions")}): 7,
        frozenset({("intercept.exchange.dialect", "messages")}): 1,
    }


def test_the_oldest_open_rollout_shows_its_age() -> None:
    """The gauge rises with the oldest open rollout, and is 0 when none is open."""
    recorder = TelemetryRecorder()
    registry = RolloutRegistry(recorder.telemetry)

    before = recorder.value("intercept.rollouts.oldest")
    registry.open("old")
    time.sleep(0.05)
    opened = time.monotonic()
    registry.open("young")
    open_ = recorder.value("intercept.rollouts.oldest")
    registry.close("old")
    younger = recorder.value("intercept.rollouts.oldest")
    at_most = time.monotonic() - opened + 0.01
    registry.close("young")

    assert before == recorder.value("intercept.rollouts.oldest") == 0
    assert 0.05 <= open_ < 60
    assert 0 < younger <= at_most


@each_way
def test_a_failed_exchange_and_a_late_failure_count_as_failures_once_each(
    way: Way,
) -> None:
    """Failures are counted where they were seen, not again with their rollout."""
    bench = Bench(way)

    bench.record(
        failed_exchange(),
        failure_seen(),
        ended(outcome=RolloutOutcome.FAILED, failed=failure()),
    )

    moved = nonzero(bench.collect()["intercept.failures"])
    phases = {dict(labels)["intercept.failure.phase"] for labels in moved}
    assert phases == {"chunk", "late"}
    assert set(moved.values()) == {1}


@each_way
def test_a_rejected_request_counts_as_an_exchange(way: Way) -> None:
    """A request for an unknown rollout is counted under ``rejected``."""
    bench = Bench(way)

    bench.record(ExchangeRejected(Dialect.MESSAGES))

    labels = {
        "intercept.exchange.outcome": "rejected",
        "intercept.exchange.dialect": "messages",
        "intercept.exchange.stream": False,
    }
    assert value(bench.collect()["intercept.exchanges"], labels) == 1


@each_way
def test_unsampled_rollouts_are_counted_all_the_same(way: Way) -> None:
    """Metrics count every rollout, and link to no span that does not exist."""
    bench = Bench(way)

    bench.record(exchange(rollout_ref(sampled=False)))

    series = bench.collect()["intercept.exchange.duration"]
    assert [point.exemplars for point in series.values()] == [[]]


@each_way
def test_exemplars_lead_to_the_span_and_carry_no_attributes(way: Way) -> None:
    """Histogram and counter exemplars have the record's own trace and span id."""
    bench = Bench(way)

    bench.record(exchange(), ended())

    collected = bench.collect()
    linked = {
        name: {
            (exemplar.trace_id, exemplar.span_id)
            for point in collected[name].values()
            for exemplar in point.exemplars
        }
        for name in ("intercept.exchanges", "intercept.exchange.duration")
    }
    assert set(map(frozenset, linked.values())) == {
        frozenset({(TRACE_ID, EXCHANGE_ID)})
    }
    (exemplar,) = next(iter(collected["intercept.rollout.duration"].values())).exemplars
    assert exemplar.span_id == ROOT_ID
    assert not exemplar.filtered_attributes


@each_way
def test_a_span_that_happens_to_be_current_is_no_exemplar(way: Way) -> None:
    """Unsampled records and dropped ones never link to the caller's own span."""
    bench = Bench(way)
    context = SpanContext(1, 2, is_remote=False, trace_flags=TraceFlags(1))

    with use_span(NonRecordingSpan(context)):
        bench.record(exchange(rollout_ref(sampled=False)))
        bench.measures.add_tally(
            {(semconv.EXCHANGES.name, ("ok", "messages", True)): 2}
        )

    for series in bench.collect().values():
        assert not [point for point in series.values() if point.exemplars]


@each_way
def test_recording_and_collecting_draw_nothing_from_the_global_random(way: Way) -> None:
    """Seeded training code gets the same numbers with telemetry as without."""
    bench = Bench(way)
    random.seed(42)
    state = random.getstate()

    for _ in range(50):
        bench.record(failed_exchange(), exchange(), ended())
    bench.collect()

    assert random.getstate() == state


@each_way
def test_a_tally_is_added_once_however_often_it_is_shown(way: Way) -> None:
    """What the recorder dropped is counted by the difference to the last tally."""
    bench = Bench(way)
    key = (semconv.ROLLOUTS.name, ("failed",))

    for total in (2, 2, 5):
        bench.measures.add_tally({key: total})

    labels = {"intercept.rollout.outcome": "failed"}
    assert value(bench.collect()["intercept.rollouts"], labels) == 5


@each_way
@pytest.mark.parametrize(
    ("instrument", "largest"),
    [
        (semconv.EXCHANGE_DURATION, 3600.0),
        (semconv.ROLLOUT_DURATION, 21600.0),
        (semconv.TOKEN_USAGE, 67108864.0),
    ],
)
def test_histograms_have_the_buckets_of_the_catalogue(
    way: Way, instrument: semconv.Instrument, largest: float
) -> None:
    """Buckets reach as far as the thing that they measure takes."""
    bench = Bench(way)

    bench.record(exchange(response=((semconv.GEN_AI_USAGE_INPUT_TOKENS, 1),)), ended())

    (point,) = bench.collect()[instrument.name].values()
    assert isinstance(point, HistogramDataPoint)
    assert tuple(point.explicit_bounds) == instrument.buckets
    assert point.explicit_bounds[-1] == largest


def test_units_kinds_and_descriptions_are_those_of_the_catalogue() -> None:
    """Every instrument is exported as the catalogue has it, with its labels only."""
    recorder = TelemetryRecorder()
    telemetry = recorder.telemetry
    facts = StreamFacts(1, 1, 0, 0.1, 0.1)
    usage = ((semconv.GEN_AI_USAGE_INPUT_TOKENS, 1),)
    for record in (started(), exchange(facts=facts, response=usage, waits=(wait(),))):
        telemetry.begin(True)
        telemetry.put(record)
    telemetry.begin(True)
    telemetry.put(ended())

    points = recorder.metrics()

    labels = {
        instrument.name: set(instrument.labels) for instrument in semconv.INSTRUMENTS
    }
    assert {point.name for point in points} == labels.keys()
    for point in points:
        assert set(point.attributes) <= labels[point.name]


def test_model_names_beyond_the_cap_become_other() -> None:
    """The number of model labels is bounded, and those seen before stay."""
    label = ModelLabel(None, 2)

    named = [label(name) for name in ("a", "b", "c", "a", None, "d", "b")]

    assert named == ["a", "b", "_OTHER", "a", "_OTHER", "_OTHER", "b"]


def test_only_listed_models_become_labels() -> None:
    """A configured list narrows the names; the rest does not use up the cap."""
    label = ModelLabel(frozenset({"a", "b"}), 2)

    assert [label(name) for name in ("x", "y", "z", "a", "b")] == [
        "_OTHER",
        "_OTHER",
        "_OTHER",
        "a",
        "b",
    ]


def test_the_settings_narrow_the_models_of_a_telemetry() -> None:
    """The list of the settings reaches the labels."""
    recorder = TelemetryRecorder(Settings(models=frozenset({"known"})))
    recorder.telemetry.put(exchange(rollout_ref(sampled=False), model="known"))
    recorder.telemetry.put(exchange(rollout_ref(sampled=False), model="unknown"))

    models = {
        point.attributes[semconv.GEN_AI_REQUEST_MODEL]
        for point in recorder.metrics()
        if point.name == semconv.EXCHANGE_DURATION.name
    }

    assert models == {"known", "_OTHER"}


@each_way
def test_the_balance_is_one_snapshot_within_each_collection(way: Way) -> None:
    """However the balance moves between reads, the identity holds in every scrape."""
    reads = 0

    def moving() -> Balance:
        nonlocal reads
        reads += 1
        return Balance(
            reads * 15, reads * 10, reads * 5, reads * 4, reads * 3, reads * 2, reads
        )

    bench = Bench(
        way,
        BalanceSheet(
            balance=moving,
            metric_fates=lambda: {Fate.EXPORTED: 7},
            log_fates=dict,
            open_rollouts=lambda: 3,
            oldest_rollout_s=lambda: 1.5,
        ),
    )

    for _ in range(5):
        collected = bench.collect()
        fates = {
            fate: value(
                collected["intercept.records"],
                {"intercept.record.signal": "traces", "intercept.record.fate": fate},
            )
            for fate in Fate
        }
        queued = value(collected["intercept.records.queued"], {})
        open_ = value(collected["intercept.records.open"], {})
        begun = value(collected["intercept.records.started"], {})
        assert begun == open_ + sum(fates.values()) + queued
        assert value(collected["intercept.rollouts.active"], {}) == 3
        assert value(collected["intercept.rollouts.oldest"], {}) == 1.5


@each_way
def test_all_signals_have_every_fate_from_the_start(way: Way) -> None:
    """The records counter has its nine series at once; it only grows."""
    bench = Bench(way)

    series = bench.collect()["intercept.records"]

    assert len(series) == 9
    assert nonzero(series) == {}
    data = bench.reader.get_metrics_data()
    assert data is not None
    sums = [
        metric.data for metric in metrics_of(data) if metric.name == "intercept.records"
    ]
    assert all(isinstance(each, Sum) and each.is_monotonic for each in sums)
