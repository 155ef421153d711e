"""Read what exchanges that ended alike have measured, before it is added up.

The hot part of metrics: it works on columns, since a loop over records costs more.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from otel_intercept import dialect, semconv
from otel_intercept.counters import CounterKey, counter_keys, keepalives_of
from otel_intercept.record import (
    Attributes,
    AttributeValue,
    ExchangeEnded,
    StreamFacts,
    UpstreamWait,
)
from otel_intercept.semconv import Dialect, ExchangeOutcome, Instrument
from otel_intercept.timings import Kind, Timing
from otel_intercept.translate.interval import LabelValues

_NS_PER_S: Final = 1_000_000_000
_USAGE: Final = {
    semconv.GEN_AI_USAGE_INPUT_TOKENS: "input",
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: "output",
}


_Places: TypeAlias = Sequence[int] | None
"""Which exchange each value is from, by its place; None where each has one value."""


class Measured(NamedTuple):
    """Values for one series of a histogram.

    Args:
        instrument: The histogram.
        labels: The series.
        values: What was measured, at least one value, oldest first.
        places: Which exchange each is from, by its place among those that were alike;
            None where each of them has one, in their order.
    """

    instrument: Instrument
    labels: LabelValues
    values: Sequence[float]
    places: _Places = None


class Counted(NamedTuple):
    """What one exchange adds to one counter."""

    key: CounterKey
    number: int
    place: int


def measured(records: Sequence[ExchangeEnded], model: str) -> Iterator[Measured]:
    """Yield what exchanges of one outcome, dialect, stream and model have measured.

    Args:
        records: The exchanges, at least one, oldest first.
        model: The label of their model.
    """
    first = records[0]
    spoken = first.request.dialect
    line = (spoken.value, model)
    yield Measured(
        semconv.EXCHANGE_DURATION,
        (first.outcome.value, spoken.value, first.stream, model),
        # A list is through sooner than a generator.
        _not_negative([(one.end_ns - one.start_ns) / _NS_PER_S for one in records]),
    )
    yield from _waits(line, [one.waits for one in records])
    yield from _tokens(spoken, model, [one.response for one in records])
    yield from _streams(line, [one.facts for one in records])


def measured_timings(
    kind: Kind, timings: Sequence[Timing], model: str
) -> Iterator[Measured]:
    """Yield what exchanges have measured that made no record.

    Args:
        kind: What they have in common.
        timings: Of each, at least one, oldest first.
        model: The label of their model.
    """
    spoken, asked = kind
    took, waited, responses = zip(*timings, strict=True)
    yield Measured(
        semconv.EXCHANGE_DURATION,
        (ExchangeOutcome.OK.value, spoken.value, asked.stream, model),
        [each / _NS_PER_S for each in took],
    )
    calls = [each / _NS_PER_S for each in waited if each is not None]
    if calls:
        line = (spoken.value, model, None)
        yield Measured(semconv.UPSTREAM_DURATION, line, calls)
    yield from _tokens(spoken, model, responses)


def counted(records: Sequence[ExchangeEnded]) -> Iterator[Counted]:
    """Yield what they count besides themselves: failures, repeats, keepalives."""
    # A list is through sooner than a generator.
    special = [one.failure or one.facts or one.replayed for one in records]
    if not any(special):
        return
    for place, record in enumerate(records):
        # The first counts the exchange.
        for key in counter_keys(record)[1:]:
            yield Counted(key, 1, place)
        if (written := keepalives_of(record)) is not None:
            yield Counted(*written, place)


def _waits(
    line: LabelValues, of_each: Sequence[tuple[UpstreamWait, ...]]
) -> Iterator[Measured]:
    waits = list(chain.from_iterable(of_each))
    if not waits:
        return
    # Nearly always each has one, and it went well.
    places: _Places = None
    if len(waits) != len(of_each) or not all(of_each):
        places = [place for place, each in enumerate(of_each) for _ in each]
    seconds = _not_negative([(one.end_ns - one.start_ns) / _NS_PER_S for one in waits])
    errors = [one.error_type for one in waits]
    if not any(errors):
        yield Measured(semconv.UPSTREAM_DURATION, (*line, None), seconds, places)
        return
    for error in dict.fromkeys(errors):
        chosen = [at for at, each in enumerate(errors) if each is error]
        yield Measured(
            semconv.UPSTREAM_DURATION,
            (*line, None if error is None else error.value),
            [seconds[at] for at in chosen],
            chosen if places is None else [places[at] for at in chosen],
        )


def _streams(
    line: LabelValues, of_each: Sequence[StreamFacts | None]
) -> Iterator[Measured]:
    if not any(of_each):
        return
    streams = [
        (facts.time_to_first_chunk_s, facts.max_gap_s, place)
        for place, facts in enumerate(of_each)
        if facts is not None and facts.time_to_first_chunk_s is not None
    ]
    if streams:
        first, gaps, places = map(list, zip(*streams, strict=True))
        yield Measured(semconv.TIME_TO_FIRST_CHUNK, line, first, places)
        yield Measured(semconv.MAX_GAP, line, gaps, places)


def _tokens(
    spoken: Dialect, model: str, responses: Sequence[Attributes]
) -> Iterator[Measured]:
    if not any(responses):
        return
    api = (dialect.operation_of(spoken), dialect.provider_of(spoken))
    for key, values, places in _usages(responses):
        labels = (*api, _USAGE[key], model)
        if _are_ints(values) and min(values) >= 0:
            yield Measured(semconv.TOKEN_USAGE, labels, values, places)
            continue
        numbers = [
            (value, at if places is None else places[at])
            for at, value in enumerate(values)
            if type(value) is int and value >= 0
        ]
        if numbers:
            counts, chosen = zip(*numbers, strict=True)
            yield Measured(semconv.TOKEN_USAGE, labels, counts, chosen)


def _usages(
    responses: Sequence[Attributes],
) -> Iterator[tuple[str, Sequence[AttributeValue], _Places]]:
    if len(set(map(len, responses))) == 1:
        columns = [
            tuple(zip(*column, strict=True)) for column in zip(*responses, strict=True)
        ]
        # Exchanges of one kind nearly always know the same of their answers.
        if all(len(set(keys)) == 1 for keys, _ in columns):
            for keys, values in columns:
                if keys[0] in _USAGE:
                    yield keys[0], values, None
            return
    for usage in _USAGE:
        pairs = [
            (value, place)
            for place, response in enumerate(responses)
            for key, value in response
            if key == usage
        ]
        if pairs:
            values, places = zip(*pairs, strict=True)
            yield usage, values, places


def seconds_between(start_ns: int, end_ns: int) -> float:
    """Return a duration in seconds; 0 where the clock was set back in the middle."""
    return max((end_ns - start_ns) / _NS_PER_S, 0.0)


def _not_negative(seconds: list[float]) -> list[float]:
    if min(seconds) >= 0:
        return seconds
    return [max(each, 0.0) for each in seconds]


def _are_ints(values: Sequence[AttributeValue]) -> TypeGuard[Sequence[int]]:
    return set(map(type, values)) == {int}
