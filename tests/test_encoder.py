"""The direct encoder says what the official one says, and nothing the guard forbids."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_intercept import catalogue, semconv
from otel_intercept.record import (
    Attributes,
    AttributeValue,
    ExchangeEnded,
    Record,
    RolloutStarted,
    StreamFacts,
    UpstreamWait,
)
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    RolloutOutcome,
)
from otel_intercept.translate.cache import Cache
from otel_intercept.translate.encoder import SpanEncoder
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.pairs import NotAllowed
from otel_intercept.translate.readable import readable_span
from otel_intercept.translate.scope import SCOPE
from otel_intercept.translate.span import (
    CLIENT,
    INTERNAL,
    SERVER,
    ExceptionEvent,
    Shape,
    Span,
    SpanLink,
    Trace,
)
from otel_intercept.translate.spans import SpanFactory
from otel_intercept.translate.translator import Translator
from otel_intercept.translate.usual import UsualExchanges
from tests.readable import ReadableSpans
from tests.samples import (
    ended,
    exchange,
    failed_exchange,
    failure,
    failure_seen,
    rollout_ref,
    started,
    wait,
)

RESOURCE = Resource({"service.name": "s"})

# On a busy machine neither drawing nor encoding keeps to a time.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | (
    st.sampled_from(["", "x" * 127, "x" * 128, "x" * 256, "ü" * 64, "\N{SNAKE}" * 256])
)
values = st.one_of(
    texts,
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 127, 128, 16383, 16384, -1, -(2**63), 2**63 - 1]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.lists(texts, max_size=5).map(tuple),
)
keys = sorted(catalogue.SPAN_ATTRIBUTES)
pairs = st.dictionaries(st.sampled_from(keys), values, max_size=12)
ids = st.integers(1, 2**64 - 1)
trace_ids = st.integers(1, 2**128 - 1)
times = st.integers(0, 2**64 - 1)


@st.composite
def spans(draw: st.DrawFn) -> Span:
    """Draw any span that the guard lets through as it is."""
    attributes = tuple(draw(pairs).items())
    first, second, third = sorted(draw(st.tuples(*[st.integers(0, 12)] * 3)))
    events = st.builds(ExceptionEvent, times, pairs.map(lambda each: (*each.items(),)))
    links = st.builds(SpanLink, trace_ids, ids, st.booleans())
    parent_id = draw(st.none() | ids)
    return Span(
        Shape(
            draw(texts),
            draw(st.sampled_from([INTERNAL, SERVER, CLIENT])),
            attributes[:first],
            is_error=draw(st.booleans()),
            parent_is_remote=parent_id is not None and draw(st.booleans()),
        ),
        Trace(draw(trace_ids), attributes[first:second]),
        attributes[second:third],
        draw(ids),
        parent_id,
        draw(times),
        draw(times),
        attributes[third:],
        tuple(draw(st.lists(events, max_size=3))),
        tuple(draw(st.lists(links, max_size=3))),
    )


def decoded(request: bytes) -> ExportTraceServiceRequest:
    """Return a request as any receiver reads it."""
    return ExportTraceServiceRequest.FromString(request)


# One for all examples, so that each may find what others left in its caches.
ENCODER = SpanEncoder(RESOURCE, SCOPE, Guard())


@patient
@given(st.lists(spans(), min_size=1, max_size=4))
def test_a_request_is_what_the_official_encoder_makes(drawn: list[Span]) -> None:
    """Decoded, both requests are equal, over every type and extreme of a span."""
    request = ENCODER.request([ENCODER.encode(span) for span in drawn])

    official = [readable_span(span, RESOURCE, SCOPE) for span in drawn]
    assert decoded(request) == encode_spans(official)


@patient
@given(values, values)
def test_every_value_is_written_in_the_shortest_way(
    first: AttributeValue, second: AttributeValue
) -> None:
    """Not only equal when decoded: not a byte is more than the official encoder's."""
    span = Span(
        Shape("rollout", INTERNAL, ((semconv.ROLLOUT_ID, first),)),
        Trace(1, ()),
        (),
        2,
        3,
        4,
        5,
        values=((semconv.STREAM_BYTES, second),),
    )

    request = ENCODER.request([ENCODER.encode(span)])

    official = encode_spans([readable_span(span, RESOURCE, SCOPE)])
    assert len(request) == len(official.SerializeToString())


def test_resource_and_scope_are_in_every_request() -> None:
    """Attributes, version and schemas of both leave as the official encoder writes."""
    resource = Resource({"service.name": "ü", "n": -1, "b": True, "f": 0.5}, "http://r")
    scope = InstrumentationScope("otel_intercept", "1.2", "http://s", {"a": 1})
    encoder = SpanEncoder(resource, scope, Guard())
    span = Span(Shape("rollout", INTERNAL), Trace(1, ()), (), 2, None, 3, 4)

    request = encoder.request([encoder.encode(span)])

    official = encode_spans([readable_span(span, resource, scope)])
    assert decoded(request) == official


def test_equal_values_of_different_types_stay_different() -> None:
    """A value that was encoded before is not taken for one that only equals it."""
    encoder = SpanEncoder(RESOURCE, SCOPE, Guard())
    key = semconv.GEN_AI_REQUEST_SEED

    for value in (1, True, 1.0, 0.0, False, 0):
        span = Span(
            Shape("rollout", INTERNAL),
            Trace(1, ()),
            ((key, value),),
            2,
            None,
            3,
            4,
            values=((semconv.STREAM_BYTES, value),),
        )
        request = decoded(encoder.request([encoder.encode(span)]))
        assert request == encode_spans([readable_span(span, RESOURCE, SCOPE)])


def test_what_the_guard_forbids_is_forbidden_each_time_until_it_is_allowed() -> None:
    """A refusal is not remembered: a key that is declared later leaves from then on."""
    guard = Guard()
    encoder = SpanEncoder(RESOURCE, SCOPE, guard)
    text, number = (
        Span(
            Shape("rollout", INTERNAL), Trace(1, ()), (), 2, None, 3, 4, values=(pair,)
        )
        for pair in (("team", "blue"), ("team", 7))
    )

    for span in (text, number) * 2:
        with pytest.raises(NotAllowed):
            encoder.encode(span)
    guard.declare(["team"])

    request = encoder.request([encoder.encode(span) for span in (text, number)])
    official = [readable_span(span, RESOURCE, SCOPE) for span in (text, number)]
    assert decoded(request) == encode_spans(official)


asked: list[tuple[str, AttributeValue]] = [
    (semconv.GEN_AI_REQUEST_MAX_TOKENS, 64),
    (semconv.GEN_AI_REQUEST_TEMPERATURE, 0.7),
    (semconv.GEN_AI_REQUEST_STREAM, False),
    (semconv.GEN_AI_REQUEST_STREAM, True),
]
answered: list[tuple[str, AttributeValue]] = [
    (semconv.GEN_AI_USAGE_INPUT_TOKENS, 123_456),
    (semconv.GEN_AI_RESPONSE_MODEL, "gpt-5"),
    (semconv.GEN_AI_RESPONSE_FINISH_REASONS, ("stop", "length")),
]
facts = st.builds(
    StreamFacts,
    st.integers(0, 2**40),
    st.integers(0, 2**40),
    st.integers(0, 300),
    st.floats(0, 1e6),
    st.none() | st.floats(0, 1e6),
)
waits = st.builds(
    UpstreamWait,
    ids,
    st.integers(0, 2**62),
    st.integers(0, 2**62),
    st.none() | st.sampled_from(ErrorType),
)
rollouts = st.builds(
    rollout_ref,
    rollout_id=texts,
    trace_id=trace_ids,
    span_id=ids,
    parent_span_id=st.none() | ids,
)


def unique(pairs: list[tuple[str, AttributeValue]]) -> Attributes:
    """Return pairs without a second one of a key."""
    return tuple(dict(pairs).items())


exchanges = st.builds(
    exchange,
    rollouts,
    span_id=ids,
    method=st.sampled_from(["POST", "GET", "GETSECRET"]),
    dialect=st.sampled_from(Dialect),
    stream=st.booleans(),
    status=st.none() | st.integers(100, 599),
    outcome=st.sampled_from(ExchangeOutcome),
    failed=st.none() | st.builds(failure, st.sampled_from(ErrorType)),
    retry_count=st.none() | st.integers(0, 99),
    link=st.none() | st.tuples(trace_ids, ids),
    facts=st.none() | facts,
    model=st.none() | st.sampled_from(["gpt-5", "a/b"]),
    request=st.lists(st.sampled_from(asked)).map(unique),
    response=st.lists(st.sampled_from(answered)).map(unique),
    waits=st.lists(waits, max_size=3).map(tuple),
)
records = exchanges | st.one_of(
    st.builds(started, rollouts),
    st.builds(ended, rollouts, outcome=st.sampled_from(RolloutOutcome)),
    st.builds(ended, rollouts, failed=st.builds(failure)),
    st.builds(failed_exchange, rollouts),
    st.builds(failure_seen, rollouts, exchange_span_id=st.none() | ids),
)
FACTORY = SpanFactory(ENCODER)
USUAL = UsualExchanges(ENCODER)


@patient
@given(records)
def test_every_record_leaves_as_the_sdk_would_send_it(record: Record) -> None:
    """The way from record to bytes and the way over the SDK's spans end the same."""
    direct = decoded(ENCODER.request(FACTORY.spans_of(record)))

    official = encode_spans(ReadableSpans(RESOURCE, SCOPE).spans_of(record))
    assert by_key(direct) == by_key(official)


indexes = st.integers(0, 2**63 - 1) | st.sampled_from([0, 127, 128, 511, 512])
usual_exchanges = st.builds(
    lambda record, index: replace(record, exchange_index=index),
    st.builds(
        exchange,
        rollouts,
        span_id=ids,
        method=st.sampled_from(["POST", "GETSECRET"]),
        dialect=st.sampled_from(Dialect),
        stream=st.booleans(),
        status=st.none() | st.integers(100, 599),
        outcome=st.sampled_from(ExchangeOutcome),
        retry_count=st.none() | st.integers(0, 99),
        facts=st.none() | facts,
        model=st.none() | st.sampled_from(["gpt-5", "a/b", "m" * 96]),
        request=st.lists(st.sampled_from(asked)).map(unique),
        response=st.lists(st.sampled_from(answered)).map(unique)
        | st.just(((semconv.GEN_AI_RESPONSE_FINISH_REASONS, ("x" * 200,) * 99),)),
        waits=st.tuples(
            st.builds(
                UpstreamWait,
                ids,
                st.integers(0, 2**64 - 1),
                st.integers(0, 2**64 - 1),
                st.none(),
            )
        ),
    ),
    indexes,
)


@patient
@given(usual_exchanges)
def test_a_usual_exchange_leaves_by_the_short_way_as_by_the_long(
    record: ExchangeEnded,
) -> None:
    """Decoded, what is joined of known parts is what the official encoder makes."""
    spans = USUAL.spans_of(record)

    assert spans is not None
    frames, number, readable = spans
    official = encode_spans(ReadableSpans(RESOURCE, SCOPE).spans_of(record))
    assert by_key(decoded(ENCODER.request([frames]))) == by_key(official)
    assert (number, readable) == (2, ())


UNUSUAL: Mapping[str, Record] = {
    "failed": replace(failed_exchange(), waits=(wait(),)),
    "replayed": replace(exchange(waits=(wait(),)), replayed=True),
    "linked": exchange(waits=(wait(),), link=(5, 6)),
    "no-call": exchange(),
    "two-calls": exchange(waits=(wait(), wait(span_id=7))),
    "failed-call": exchange(waits=(wait(error_type=ErrorType.OTHER),)),
    "marker": started(),
    "root": ended(),
    "failure": failure_seen(),
}


@pytest.mark.parametrize("record", UNUSUAL.values(), ids=UNUSUAL)
def test_what_is_not_usual_is_not_taken_for_it(record: Record) -> None:
    """What the short way leaves out is seen first, and all of it takes the long way."""
    translator = Translator(RESOURCE, None, None, Guard(), readable=False)

    assert USUAL.spans_of(record) is None
    ((frames, number, _),) = translator.spans_of([record])
    official = ReadableSpans(RESOURCE, SCOPE).spans_of(record)
    assert number == len(official)
    sent = decoded(translator.request_of([frames]))
    assert by_key(sent) == by_key(encode_spans(official))


def by_key(request: ExportTraceServiceRequest) -> ExportTraceServiceRequest:
    """Sort the attributes, whose order means nothing."""
    for span in request.resource_spans[0].scope_spans[0].spans:
        ordered = sorted(span.attributes, key=lambda pair: pair.key)
        del span.attributes[:]
        span.attributes.extend(ordered)
    return request


hostile = st.one_of(
    values,
    st.text(min_size=257),
    st.just("\ud800"),
    st.integers(min_value=2**63),
    st.sampled_from([math.nan, math.inf, None, b"x", ["x"], {"x": 1}, ("x", 1)]),
)


@patient
@given(
    st.dictionaries(st.sampled_from([*keys, "other"]), hostile),
    st.sampled_from([0, 1, 2**64]),
)
def test_both_ways_out_hold_the_same_back_and_count_it_the_same(
    attributes: Mapping[str, object], span_id: int
) -> None:
    """The encoder lets through what the guard of the SDK's spans does, item by item."""
    rollout = replace(rollout_ref(), attributes=(*attributes.items(),))
    record = RolloutStarted(rollout, span_id)
    old, new = Guard(), Guard()
    translator = Translator(RESOURCE, None, None, new, readable=False)

    made = translator.spans_of([record])
    sent = decoded(translator.request_of([spans for spans, *_ in made]))

    safe = old.spans(ReadableSpans(RESOURCE, SCOPE).spans_of(record))
    assert new.dropped == old.dropped
    assert bool(safe) == bool(sent.resource_spans[0].scope_spans[0].spans)
    if safe:
        assert by_key(sent) == by_key(encode_spans(safe))


BROKEN = {
    "long-name": exchange(model="x" * 300, waits=(wait(),)),
    "name-that-is-no-text": exchange(model="\ud800", waits=(wait(),)),
    "no-root": exchange(rollout_ref(span_id=0), waits=(wait(),)),
    "no-trace": exchange(rollout_ref(trace_id=0)),
    "huge-trace": exchange(rollout_ref(trace_id=2**128)),
    "no-parent": ended(rollout_ref(parent_span_id=0)),
    "no-link": exchange(link=(0, 5)),
    "no-linked-span": exchange(link=(5, 0)),
    "huge-link": exchange(link=(2**128, 5)),
    "event": exchange(failed=failure(exception_type="\ud800" + "x")),
    "long-event": exchange(failed=failure(exception_type="x" * 300)),
    "no-own-id": exchange(span_id=0, waits=(wait(),)),
    "huge-own-id": exchange(span_id=2**64, waits=(wait(),)),
    "no-call-id": exchange(waits=(wait(span_id=0),)),
    "huge-call-id": exchange(waits=(wait(span_id=2**64),)),
    "negative-index": replace(exchange(waits=(wait(),)), exchange_index=-1),
    "huge-index": replace(exchange(waits=(wait(),)), exchange_index=2**63),
    "huge-retry-count": exchange(retry_count=2**63, waits=(wait(),)),
    "odd-answer": exchange(response=(("team", "blue"),), waits=(wait(),)),
    "long-answer": exchange(
        response=((semconv.GEN_AI_RESPONSE_MODEL, "x" * 300),), waits=(wait(),)
    ),
    "odd-request": exchange(request=(("team", "blue"),), waits=(wait(),)),
}


@pytest.mark.parametrize("record", BROKEN.values(), ids=BROKEN)
def test_both_ways_out_mend_a_record_in_the_same_way(record: Record) -> None:
    """Names, ids, links and events are checked as strictly as on the SDK's spans."""
    old, new = Guard(), Guard()
    translator = Translator(RESOURCE, None, None, new, readable=False)

    made = translator.spans_of([record])
    sent = decoded(translator.request_of([spans for spans, *_ in made]))

    safe = old.spans(ReadableSpans(RESOURCE, SCOPE).spans_of(record))
    assert new.dropped == old.dropped
    if safe:
        assert by_key(sent) == by_key(encode_spans(safe))
    else:
        assert not sent.resource_spans[0].scope_spans[0].spans


def test_the_encoder_keeps_no_text_that_is_longer_than_allowed() -> None:
    """What has to be cut is not taken as it is, and so is never kept uncut."""
    encoder = SpanEncoder(RESOURCE, SCOPE, Guard())

    with pytest.raises(NotAllowed):
        encoder.attributes(((semconv.ROLLOUT_ID, "x" * 257),))


def test_a_time_that_is_none_spoils_its_own_record_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A record that OTLP cannot carry is dropped; the same translator goes on."""
    translator = Translator(RESOURCE, None, None, Guard(), readable=False)
    usual = exchange(waits=(wait(),))
    broken = [replace(one, end_ns=-1) for one in (exchange(), usual)]

    made = translator.spans_of([broken[0], usual, broken[1]])

    assert [number for _, number, _ in made] == [2]
    assert len(caplog.records) == 1


def test_a_cache_is_bounded_and_forgets_no_refusal() -> None:
    """It never holds more than its size; what raised is asked for again."""
    asked: list[int] = []

    def half(number: int) -> float:
        asked.append(number)
        if number < 0:
            raise NotAllowed
        return number / 2

    cache = Cache(half, 3)
    halves = [cache[number] for number in (1, 1, 2, 3, 4, 1)]
    for _ in range(2):
        with pytest.raises(NotAllowed):
            cache[-1]

    assert halves == [0.5, 0.5, 1.0, 1.5, 2.0, 0.5]
    assert asked == [1, 2, 3, 4, 1, -1, -1]
    assert len(cache.known) <= 3
