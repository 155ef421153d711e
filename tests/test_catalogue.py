"""What the catalogue says of spans and attributes is true of real ones."""

from collections.abc import Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from dashboards.exposed import play
from otel_intercept import semconv
from otel_intercept.catalogue import ATTRIBUTES, SPANS, Place
from otel_intercept.testing import TelemetryRecorder

BY_KEY = {attribute.key: attribute for attribute in ATTRIBUTES}
TYPES = {
    "string": str,
    "boolean": bool,
    "int": int,
    "double": float,
    "string[]": tuple,
}
NOT_PLAYED = {
    # No server of the demo answers retries by itself; tests/test_exchange.py has one.
    semconv.EXCHANGE_REPLAYED,
    # The demo's agents do not set them; tests/test_genai.py does.
    semconv.GEN_AI_REQUEST_TEMPERATURE,
    semconv.GEN_AI_REQUEST_TOP_P,
    semconv.GEN_AI_REQUEST_TOP_K,
    semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY,
    semconv.GEN_AI_REQUEST_PRESENCE_PENALTY,
    semconv.GEN_AI_REQUEST_SEED,
    semconv.GEN_AI_REQUEST_CHOICE_COUNT,
}


@pytest.fixture(scope="module")
def spans() -> Iterator[list[ReadableSpan]]:
    """The spans of real rollouts of every outcome."""
    recorder = TelemetryRecorder()
    play(recorder.telemetry, 0, seed=1)
    yield recorder.spans()
    recorder.telemetry.shutdown()


def place_of(span: ReadableSpan) -> Place:
    """Return which kind of span of the catalogue it is."""
    match span.kind:
        case SpanKind.SERVER:
            return Place.EXCHANGE
        case SpanKind.CLIENT:
            return Place.CALL
        case _:
            return Place(span.name)


def stand_on(spans: Sequence[ReadableSpan]) -> Iterator[tuple[Place, str, object]]:
    """Yield every attribute of every span and event, and where it stands."""
    for span in spans:
        for key, value in (span.attributes or {}).items():
            yield place_of(span), key, value
        for event in span.events:
            assert event.name == semconv.EVENT_EXCEPTION
            for key, value in (event.attributes or {}).items():
                yield Place.EXCEPTION, key, value


def test_every_kind_of_span_is_described(spans: list[ReadableSpan]) -> None:
    """Each span has a kind and name of the catalogue, and each kind but one occurs."""
    described = {span.place: span for span in SPANS}

    seen = {place_of(span) for span in spans}

    # A failure outside any exchange takes a race that the demo does not play.
    assert seen | {Place.FAILURE} == described.keys()
    for span in spans:
        assert described[place_of(span)].kind == span.kind.name


def test_attributes_stand_where_the_catalogue_says(spans: list[ReadableSpan]) -> None:
    """No attribute stands on a kind of span for which it is not described."""
    misplaced = {
        (place, key)
        for place, key, _ in stand_on(spans)
        if key in BY_KEY and place not in BY_KEY[key].places
    }

    assert misplaced == set()


def test_attributes_have_the_described_type(spans: list[ReadableSpan]) -> None:
    """Each value has the type, and is of the closed set, that the catalogue names."""
    for _, key, value in stand_on(spans):
        if key in BY_KEY:
            assert type(value) is TYPES[BY_KEY[key].value_type], key
            values = BY_KEY[key].values
            assert values is None or value in [item.value for item in values], key


def test_every_described_attribute_occurs(spans: list[ReadableSpan]) -> None:
    """Nothing is described that real rollouts do not have."""
    seen = {key for _, key, _ in stand_on(spans)}

    assert BY_KEY.keys() - seen - NOT_PLAYED == set()


def test_no_key_is_described_twice() -> None:
    """Each key has one meaning."""
    assert len(BY_KEY) == len(ATTRIBUTES)
