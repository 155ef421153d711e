"""Our aggregates give a reader of the SDK exactly what the SDK's instruments gave."""

import math
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.exporter.otlp.proto.common.metrics_encoder import encode_metrics
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    Counter,
    ExemplarFilter,
    Histogram,
    MeterProvider,
    ObservableCounter,
    ObservableUpDownCounter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    HistogramDataPoint,
    InMemoryMetricReader,
    MetricReader,
    MetricsData,
    NumberDataPoint,
)
from opentelemetry.sdk.metrics.view import DropAggregation
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from otel_intercept import semconv
from otel_intercept.counters import CounterKey
from otel_intercept.record import (
    ExchangeEnded,
    ExchangeRejected,
    FailureSeen,
    Record,
    RolloutEnded,
    StreamFacts,
)
from otel_intercept.recorder import Balance
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    Fate,
    Instrument,
    Origin,
    Phase,
    RolloutOutcome,
)
from otel_intercept.settings import Settings
from otel_intercept.telemetry import Telemetry
from otel_intercept.translate.aggregates import Aggregates
from otel_intercept.translate.balance import BalanceInstruments, BalanceSheet
from otel_intercept.translate.collector import Collector
from otel_intercept.translate.guard_metrics import metrics_of
from otel_intercept.translate.metrics import Instruments, views
from otel_intercept.translate.model_label import ModelLabel
from otel_intercept.translate.possible import possible_counters
from otel_intercept.translate.scope import SCOPE
from otel_intercept.translate.served import exemplars_of, serve, temporality_of
from tests.prometheus_page import samples_of, types_of
from tests.samples import (
    SECOND_NS,
    START_NS,
    ended,
    exchange,
    failure,
    failure_seen,
    rollout_ref,
    started,
    wait,
)

Round: TypeAlias = tuple[list[Record], dict[CounterKey, int]]
"""Records that come, and what is dropped, between two collections."""

CUMULATIVE: Final[dict[type, AggregationTemporality]] = {}
DELTA: Final[dict[type, AggregationTemporality]] = dict.fromkeys(
    (Counter, Histogram, ObservableCounter, ObservableUpDownCounter),
    AggregationTemporality.DELTA,
)
RESOURCE: Final = Resource({"service.name": "test"}, "https://example.test/schema")
MODELS: Final = (None, "gpt-5", "claude", "third", "beyond the cap")


class Side:
    """One of the two ways from records to a reader, with the same sheet as the other.

    Args:
        reader: What collects.
        exemplar_filter: Which measurements are exemplars.
        own: Whether it is our aggregates rather than instruments of the SDK.
    """

    def __init__(
        self, reader: MetricReader, exemplar_filter: ExemplarFilter, *, own: bool
    ) -> None:
        self._collections = 0
        self._tally: dict[CounterKey, int] = {}
        provider = MeterProvider(
            [reader],
            RESOURCE,
            exemplar_filter=exemplar_filter,
            shutdown_on_exit=False,
            views=views(),
        )
        sheet = BalanceSheet(
            balance=self._balance,
            metric_fates=lambda: {Fate.EXPORTED: 7 * self._collections},
            log_fates=dict,
            open_rollouts=lambda: 9 - self._collections,
            oldest_rollout_s=lambda: self._collections / 3,
        )
        label = ModelLabel(None, 2)
        self.measures: Aggregates | Instruments
        if own:
            exemplars = exemplars_of(exemplar_filter)
            assert exemplars is not None
            self.measures = Aggregates(label, exemplars)
            temporality = temporality_of(reader)
            serve(reader, Collector(self.measures, sheet, RESOURCE, temporality))
        else:
            meter = provider.get_meter(SCOPE.name, SCOPE.version)
            self.measures = Instruments(meter, label)
            BalanceInstruments(meter, sheet)
        # Made with the instruments: what was read then is no collection.
        self._collections = 0

    def add(self, tally: Mapping[CounterKey, int]) -> None:
        """Count what was dropped, on top of what was before."""
        for key, number in tally.items():
            self._tally[key] = self._tally.get(key, 0) + number
        self.measures.add_tally(self._tally.copy())

    def _balance(self) -> Balance:
        self._collections += 1
        each = self._collections
        return Balance(15 * each, 10 * each, 5 * each, 4 * each, 3 * each, each, each)


class Near(float):
    """A sum that may differ in its last digits: the order of adding is not fixed."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, float) and math.isclose(self, other, rel_tol=1e-9)

    __hash__ = float.__hash__


def shown(data: MetricsData | None, *, spans: bool = True) -> list[dict[str, object]]:
    """Return decoded OTLP without what two runs cannot share: times, orders, ulps.

    Args:
        data: What was collected.
        spans: Whether to show the spans of exemplars.
    """
    assert data is not None
    decoded = MessageToDict(encode_metrics(data), preserving_proto_field_name=True)
    (resource,) = decoded["resource_metrics"]
    (scope,) = resource["scope_metrics"]
    assert resource["schema_url"] == RESOURCE.schema_url
    assert scope["scope"]["name"] == SCOPE.name
    for metric in scope["metrics"]:
        for kind in ("sum", "gauge", "histogram"):
            for point in metric.get(kind, {}).get("data_points", ()):
                assert int(point.pop("time_unix_nano")) > 0
                point.pop("start_time_unix_nano", None)
                point.setdefault("attributes", []).sort(key=str)
                for exemplar in point.get("exemplars", ()):
                    assert int(exemplar.pop("time_unix_nano")) > 0
                    if not spans:
                        exemplar.pop("span_id", None)
                        exemplar.pop("trace_id", None)
                if "sum" in point:
                    point["sum"] = Near(point["sum"])
            if kind in metric:
                metric[kind]["data_points"].sort(
                    key=lambda point: str(point["attributes"])
                )
    return sorted(scope["metrics"], key=lambda metric: str(metric["name"]))


seconds = st.floats(0, 30_000, allow_subnormal=False) | st.sampled_from(
    [bound for item in semconv.INSTRUMENTS for bound in item.buckets]
)
references = st.builds(
    lambda number, sampled, start_s: replace(
        rollout_ref(span_id=number, sampled=sampled),
        start_ns=START_NS - int(start_s * SECOND_NS),
    ),
    st.integers(1, 99),
    st.booleans(),
    seconds,
)
failures = st.builds(
    failure, st.sampled_from(ErrorType), st.sampled_from(Phase), st.sampled_from(Origin)
).filter(
    lambda each: (
        (
            semconv.FAILURES.name,
            (each.error_type.value, each.phase.value, each.origin.value),
        )
        in set(possible_counters())
    )
)
waits = st.builds(
    lambda seconds_, error: replace(
        wait(error_type=error), end_ns=START_NS + int(seconds_ * SECOND_NS)
    ),
    seconds,
    st.none() | st.sampled_from(ErrorType),
)
usages = st.lists(
    st.tuples(
        st.sampled_from(
            [
                semconv.GEN_AI_USAGE_INPUT_TOKENS,
                semconv.GEN_AI_USAGE_OUTPUT_TOKENS,
                semconv.GEN_AI_RESPONSE_MODEL,
            ]
        ),
        st.integers(-1, 2**40) | st.just("text") | st.booleans(),
    ),
    max_size=3,
).map(tuple)
facts = st.none() | st.builds(
    StreamFacts,
    st.integers(0, 9),
    st.integers(0, 999),
    st.integers(0, 5),
    seconds,
    st.none() | seconds,
)
exchanges = st.builds(
    lambda ref, took_s, outcome, failed, replayed, **kwargs: replace(
        exchange(ref, outcome=outcome, failed=failed, **kwargs),
        start_ns=START_NS - int(took_s * SECOND_NS),
        replayed=replayed,
    ),
    references,
    seconds | st.just(-1.0),
    st.sampled_from(ExchangeOutcome),
    st.none() | failures,
    st.booleans(),
    dialect=st.sampled_from(Dialect),
    stream=st.booleans(),
    facts=facts,
    model=st.sampled_from(MODELS),
    response=usages,
    waits=st.lists(waits, max_size=3).map(tuple),
    span_id=st.integers(1, 2**63),
)
records = (
    exchanges
    | st.builds(ended, references, outcome=st.sampled_from(RolloutOutcome))
    | st.builds(started, references)
    | st.builds(failure_seen, references)
    | st.builds(ExchangeRejected, st.sampled_from(Dialect))
)
tallies = st.dictionaries(
    st.sampled_from(list(possible_counters())), st.integers(1, 5), max_size=3
)
rounds = st.lists(
    st.tuples(st.lists(records, max_size=12), tallies), min_size=1, max_size=4
)


def at(number: int, record: Record) -> Record:
    """Return the record so many seconds after the start of all, as long as it was."""
    end_ns = START_NS + number * SECOND_NS
    match record:
        case ExchangeEnded():
            start_ns = end_ns - record.end_ns + record.start_ns
            return replace(record, start_ns=start_ns, end_ns=end_ns)
        case RolloutEnded():
            start_ns = end_ns - record.end_ns + record.rollout.start_ns
            rollout = replace(record.rollout, start_ns=start_ns)
            return replace(record, rollout=rollout, end_ns=end_ns)
        case FailureSeen():
            return replace(record, at_ns=end_ns)
        case _:
            return record


def play(number: int, sides: Sequence[Side], given_: Round) -> None:
    """Measure the records of one round on each side, and what was dropped in it."""
    came, tally = given_
    for side in sides:
        for index, record in enumerate(came):
            side.measures.record(at(100 * number + index, record))
        side.add(tally)


@pytest.mark.parametrize("preferred", [CUMULATIVE, DELTA], ids=["cumulative", "delta"])
@pytest.mark.parametrize(
    "exemplar_filter", [TraceBasedExemplarFilter(), AlwaysOffExemplarFilter()]
)
@given(rounds=rounds)
@settings(deadline=None, max_examples=30)
def test_every_point_is_that_of_the_sdks_instruments(
    preferred: dict[type, AggregationTemporality],
    exemplar_filter: ExemplarFilter,
    rounds: list[Round],
) -> None:
    """Whatever is measured and dropped, each collection is the same as OTLP."""
    readers = InMemoryMetricReader(preferred), InMemoryMetricReader(preferred)
    sides = [
        Side(reader, exemplar_filter, own=own)
        for reader, own in zip(readers, (False, True), strict=True)
    ]

    for number, each in enumerate(rounds):
        play(number, sides, each)
        sdk, own = (shown(reader.get_metrics_data()) for reader in readers)

        assert own == sdk


@given(rounds=rounds)
@settings(deadline=None, max_examples=20)
def test_a_filter_for_all_has_the_exemplars_of_all_exchanges(
    rounds: list[Round],
) -> None:
    """Histograms have those without a span too; seeds and gauges are none of them."""
    readers = InMemoryMetricReader(), InMemoryMetricReader()
    sides = [
        Side(reader, AlwaysOnExemplarFilter(), own=own)
        for reader, own in zip(readers, (False, True), strict=True)
    ]

    for number, each in enumerate(rounds):
        play(number, sides, each)
        sdk, own = (
            [
                metric
                # The SDK leaves the span of an earlier one beside one without a span.
                for metric in shown(reader.get_metrics_data(), spans=False)
                if "histogram" in metric
            ]
            for reader in readers
        )

        assert own == sdk


@given(rounds=rounds)
@settings(deadline=None, max_examples=30)
def test_a_prometheus_page_is_that_of_the_sdks_instruments(
    rounds: list[Round],
) -> None:
    """A pull reader shows the same families and samples, in any scrape."""
    registries = CollectorRegistry(), CollectorRegistry()
    sides = [
        Side(
            PrometheusMetricReader(registry=registry),
            TraceBasedExemplarFilter(),
            own=own,
        )
        for registry, own in zip(registries, (False, True), strict=True)
    ]

    for number, each in enumerate(rounds):
        play(number, sides, each)
        sdk, own = (generate_latest(registry).decode() for registry in registries)

        assert types_of(own) == types_of(sdk)
        assert described(own) == described(sdk)
        assert rounded(own) == rounded(sdk)


def described(page: str) -> set[str]:
    """Return the lines that describe the families of a page."""
    return {line for line in page.splitlines() if line.startswith("# HELP")}


def rounded(page: str) -> dict[tuple[str, frozenset[tuple[str, str]]], str]:
    """Return the samples of a page, without the last digits of floats."""
    return {
        (sample.name, frozenset(sample.labels.items())): f"{sample.value:.9g}"
        for sample in samples_of(page)
    }


def points_of(data: MetricsData | None, name: str) -> list[NumberDataPoint]:
    """Return the points of one instrument that is no histogram."""
    assert data is not None
    return [
        point
        for metric in metrics_of(data)
        if metric.name == name
        for point in metric.data.data_points
        if isinstance(point, NumberDataPoint)
    ]


@pytest.mark.parametrize("own", [False, True], ids=["sdk", "own"])
@pytest.mark.parametrize("instrument", [semconv.ROLLOUTS, semconv.ROLLOUT_DURATION])
def test_start_times_say_since_when_a_point_counts(
    instrument: Instrument, *, own: bool
) -> None:
    """Cumulative points start at the beginning, delta points where the last ended."""
    began = time.time_ns()
    whole, part = InMemoryMetricReader(CUMULATIVE), InMemoryMetricReader(DELTA)
    for reader in (whole, part):
        side = Side(reader, TraceBasedExemplarFilter(), own=own)
        times, counts = [], []
        for _ in range(3):
            side.measures.record(ended())
            start_ns, time_ns, count = moved(reader.get_metrics_data(), instrument)
            times.append((start_ns, time_ns))
            counts.append(count)
        (first, first_ns), (second, second_ns), (third, third_ns) = times

        assert began <= first <= first_ns <= second_ns <= third_ns
        if reader is whole:
            assert counts == [1, 2, 3]
            assert first == second == third
        else:
            assert counts == [1, 1, 1]
            assert (second, third) == (first_ns, second_ns)


def moved(data: MetricsData | None, instrument: Instrument) -> tuple[int, int, float]:
    """Return start, time and count of the one series of an instrument that moved."""
    assert data is not None
    for metric in metrics_of(data):
        for point in metric.data.data_points if metric.name == instrument.name else ():
            assert isinstance(point, NumberDataPoint | HistogramDataPoint)
            count = point.value if isinstance(point, NumberDataPoint) else point.count
            if count:
                return point.start_time_unix_nano, point.time_unix_nano, count
    raise AssertionError("no series has moved")


def test_a_bad_record_takes_no_other_with_it() -> None:
    """What cannot be measured is left out alone, and nothing of it is counted."""
    reader = InMemoryMetricReader()
    side = Side(reader, TraceBasedExemplarFilter(), own=True)
    bad = exchange(waits=(replace(wait(), start_ns=10**400),))

    for record in (exchange(), bad, exchange(), ended()):
        side.measures.record(record)

    data = reader.get_metrics_data()
    counted = sum(point.value for point in points_of(data, semconv.EXCHANGES.name))
    ended_ = sum(point.value for point in points_of(data, semconv.ROLLOUTS.name))
    assert (counted, ended_) == (2, 1)


def test_the_latest_measurement_of_a_bucket_is_its_exemplar() -> None:
    """Also where exchanges that ended in another way came before it."""
    reader = InMemoryMetricReader()
    side = Side(reader, TraceBasedExemplarFilter(), own=True)

    for number, outcome in enumerate(
        (ExchangeOutcome.OK, ExchangeOutcome.CUT, ExchangeOutcome.OK), 1
    ):
        record = exchange(outcome=outcome, waits=(wait(),), span_id=number)
        side.measures.record(at(number, record))

    data = reader.get_metrics_data()
    assert data is not None
    (metric,) = (
        metric
        for metric in metrics_of(data)
        if metric.name == semconv.UPSTREAM_DURATION.name
    )
    (point,) = metric.data.data_points
    assert [exemplar.span_id for exemplar in point.exemplars] == [3]


def test_model_names_without_end_make_a_bounded_number_of_series() -> None:
    """Beyond the cap, exchanges are counted under ``_OTHER``; none is lost."""
    reader = InMemoryMetricReader()
    side = Side(reader, TraceBasedExemplarFilter(), own=True)

    for number in range(1000):
        side.measures.record(exchange(model=f"model-{number}"))

    data = reader.get_metrics_data()
    assert data is not None
    models = {
        (point.attributes or {})[semconv.GEN_AI_REQUEST_MODEL]: point.count
        for metric in metrics_of(data)
        if metric.name == semconv.EXCHANGE_DURATION.name
        for point in metric.data.data_points
        if isinstance(point, HistogramDataPoint)
    }
    assert models == {"model-0": 1, "model-1": 1, "_OTHER": 998}


def test_nothing_is_lost_or_doubled_while_collections_overtake_each_other() -> None:
    """However often others collect while records come, the sum is exact."""
    reader = InMemoryMetricReader(DELTA)
    side = Side(reader, TraceBasedExemplarFilter(), own=True)
    totals: list[float] = []
    done = threading.Event()

    def collect() -> None:
        while not done.is_set():
            data = reader.get_metrics_data()
            totals.extend(p.value for p in points_of(data, semconv.EXCHANGES.name))

    threads = [threading.Thread(target=collect) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5000):
        side.measures.record(exchange())
    done.set()
    for thread in threads:
        thread.join()
    collect_last = points_of(reader.get_metrics_data(), semconv.EXCHANGES.name)

    assert sum(totals) + sum(point.value for point in collect_last) == 5000


class Keeping(InMemoryMetricReader):
    """A reader that keeps what was collected at the last flush."""

    latest = MetricsData([])

    def _receive_metrics(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> None:
        self.latest = metrics_data


class Slow(ExemplarFilter):
    """A filter of somebody's own: exemplars of what took more than a second."""

    def should_sample(
        self, value: float, time_unix_nano: int, attributes: object, context: object
    ) -> bool:
        """Return whether it took that long."""
        return value > 1


@pytest.mark.parametrize(
    ("reader", "exemplar_filter"),
    [
        (Keeping(), Slow()),
        (
            Keeping(preferred_aggregation={Counter: DropAggregation()}),
            None,
        ),
    ],
    ids=["filter", "aggregation"],
)
def test_what_aggregates_cannot_do_is_done_by_instruments_of_the_sdk(
    reader: Keeping, exemplar_filter: ExemplarFilter | None
) -> None:
    """A filter or an aggregation of somebody's own is asked, as it was."""
    telemetry = Telemetry(
        metric_reader=reader,
        settings=Settings(recorder="inline", exemplar_filter=exemplar_filter),
    )
    short = replace(exchange(), start_ns=START_NS + 2 * SECOND_NS + 1)
    telemetry.put(short)
    telemetry.put(exchange())

    telemetry.flush()

    durations = [
        exemplar.value
        for metric in metrics_of(reader.latest)
        if metric.name == semconv.EXCHANGE_DURATION.name
        for point in metric.data.data_points
        for exemplar in point.exemplars
    ]
    counted = points_of(reader.latest, semconv.EXCHANGES.name)
    if exemplar_filter is None:
        assert counted == []
    else:
        assert durations == [3.0]
        assert sum(point.value for point in counted) == 2
    telemetry.shutdown()


@pytest.mark.parametrize(
    ("exemplar_filter", "number"),
    [
        (None, 1),
        (TraceBasedExemplarFilter(), 1),
        (AlwaysOnExemplarFilter(), 1),
        (AlwaysOffExemplarFilter(), 0),
    ],
)
def test_the_exemplar_filter_of_the_settings_decides(
    exemplar_filter: ExemplarFilter | None, number: int
) -> None:
    """Each filter of the SDK means for aggregates what it means for instruments."""
    reader = Keeping()
    telemetry = Telemetry(
        metric_reader=reader,
        settings=Settings(recorder="inline", exemplar_filter=exemplar_filter),
    )
    telemetry.put(ended())

    telemetry.flush()

    (metric,) = (
        metric
        for metric in metrics_of(reader.latest)
        if metric.name == semconv.ROLLOUT_DURATION.name
    )
    (point,) = metric.data.data_points
    assert len(point.exemplars) == number
    telemetry.shutdown()


def test_a_reader_of_another_provider_is_refused() -> None:
    """A reader collects for one provider: giving it to two is a mistake, as ever."""
    reader = InMemoryMetricReader()
    MeterProvider([reader], shutdown_on_exit=False)

    with pytest.raises(Exception, match="registered already"):
        Telemetry(metric_reader=reader)
