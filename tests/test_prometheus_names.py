"""The names that dashboards and alerts use are those of a real scrape."""

import pytest

from dashboards.exposed import Exposed
from dashboards.names import UnknownUnitError, label_of, names_of
from otel_intercept import semconv
from otel_intercept.semconv import Instrument
from tests.prometheus_page import samples_of, types_of

DESIGNED = {
    semconv.ROLLOUTS: "intercept_rollouts_total",
    semconv.ROLLOUTS_ACTIVE: "intercept_rollouts_active",
    semconv.ROLLOUTS_OLDEST: "intercept_rollouts_oldest_seconds",
    semconv.ROLLOUT_DURATION: "intercept_rollout_duration_seconds",
    semconv.EXCHANGES: "intercept_exchanges_total",
    semconv.EXCHANGES_REPLAYED: "intercept_exchanges_replayed_total",
    semconv.EXCHANGE_DURATION: "intercept_exchange_duration_seconds",
    semconv.UPSTREAM_DURATION: "intercept_upstream_duration_seconds",
    semconv.TIME_TO_FIRST_CHUNK: "intercept_stream_time_to_first_chunk_seconds",
    semconv.MAX_GAP: "intercept_stream_max_gap_seconds",
    semconv.KEEPALIVES: "intercept_stream_keepalives_total",
    semconv.FAILURES: "intercept_failures_total",
    semconv.RECORDS: "intercept_records_total",
    semconv.RECORDS_QUEUED: "intercept_records_queued",
    semconv.RECORDS_STARTED: "intercept_records_started_total",
    semconv.RECORDS_OPEN: "intercept_records_open",
    semconv.TOKEN_USAGE: "gen_ai_client_token_usage",
}
"""The contract with users, written out once more: renaming breaks their queries."""

ADDED_BY_THE_EXPORTER = {"otel_scope_name", "otel_scope_version", "le"}
EMPTY_IN_EACH = "otel_scope_schema_url"
OPTIONAL = {label_of(semconv.ERROR_TYPE)}
"""A wait that succeeded has no error type, as the conventions want it."""

each_instrument = pytest.mark.parametrize(
    "instrument", semconv.INSTRUMENTS, ids=lambda instrument: instrument.name
)


@pytest.fixture(scope="module")
def page() -> str:
    """A page after real rollouts of every outcome."""
    exposed = Exposed()
    exposed.play(0, seed=1)
    page = exposed.page()
    exposed.telemetry.shutdown()
    return page


def test_every_instrument_has_the_designed_name() -> None:
    """No series of the contract is missing, and none has another name."""
    assert {item: names_of(item).family for item in semconv.INSTRUMENTS} == DESIGNED


@each_instrument
def test_a_real_scrape_has_every_series(page: str, instrument: Instrument) -> None:
    """The official exporter gives exactly the series, type and labels that we say."""
    names = names_of(instrument)

    scraped = [sample for sample in samples_of(page) if sample.name in names.samples]

    assert {sample.name for sample in scraped} == set(names.samples)
    assert types_of(page)[names.family] == names.kind
    for sample in scraped:
        own = sample.labels.keys() - ADDED_BY_THE_EXPORTER - {EMPTY_IN_EACH}
        assert own | OPTIONAL == set(names.labels) | OPTIONAL


def test_a_real_scrape_has_no_series_of_ours_that_is_not_named(page: str) -> None:
    """Nothing that leaves under our prefix is missing from the catalogue's names."""
    named = {name for item in semconv.INSTRUMENTS for name in names_of(item).samples}

    scraped = {
        sample.name
        for sample in samples_of(page)
        if sample.name.startswith(("intercept_", "gen_ai_"))
    }

    assert scraped == named


def test_booleans_are_lower_case(page: str) -> None:
    """A boolean label reads as PromQL writers expect it."""
    label = label_of(semconv.EXCHANGE_STREAM)

    values = {s.labels[label] for s in samples_of(page) if label in s.labels}

    assert values == {"false", "true"}


def test_a_unit_that_is_not_known_is_refused() -> None:
    """A new unit cannot silently get a name that no exporter gives."""
    with pytest.raises(UnknownUnitError):
        names_of(Instrument("intercept.heat", "gauge", "Cel", "Heat."))


def test_a_unit_that_ends_the_name_is_not_repeated() -> None:
    """A name that says its unit does not say it twice."""
    instrument = Instrument("intercept.idle.seconds", "counter", "s", "Idle time.")

    assert names_of(instrument).family == "intercept_idle_seconds_total"


def test_only_a_histogram_has_buckets() -> None:
    """Asking a counter for buckets, or a histogram for one series, is a mistake."""
    with pytest.raises(ValueError, match="histogram"):
        _ = names_of(semconv.ROLLOUTS).bucket
    with pytest.raises(ValueError, match="histogram"):
        _ = names_of(semconv.MAX_GAP).sample


def test_a_label_cannot_start_with_a_digit() -> None:
    """A key that Prometheus could not take is refused."""
    with pytest.raises(ValueError, match="digit"):
        label_of("2xx.count")
