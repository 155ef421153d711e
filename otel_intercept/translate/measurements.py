"""Read what exchanges that ended alike have measured, before it is added up."""

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from otel_intercept import dialect, semconv
from otel_intercept.record import ExchangeEnded
from otel_intercept.recorder import CounterKey, counter_keys, keepalives_of
from otel_intercept.semconv import Dialect, Instrument
from otel_intercept.translate.interval import LabelValues

_NS_PER_S: Final = 1_000_000_000
_INPUT: Final = semconv.GEN_AI_USAGE_INPUT_TOKENS
_OUTPUT: Final = semconv.GEN_AI_USAGE_OUTPUT_TOKENS


class Measured(NamedTuple):
    """Values for one series of a histogram, and the exchange that each is from."""

    instrument: Instrument
    labels: LabelValues
    values: list[float]
    records: list[ExchangeEnded]


class Counted(NamedTuple):
    """What one exchange adds to one counter."""

    key: CounterKey
    number: int
    record: ExchangeEnded


def measured(alike: list[ExchangeEnded], model: str) -> Iterator[Measured]:
    """Yield the values of some exchanges, at least one for each series.

    Args:
        alike: Exchanges of one outcome, dialect, stream and model, at least one.
        model: The label of their model.
    """
    first = alike[0]
    took_s = [(each.end_ns - each.start_ns) / _NS_PER_S for each in alike]
    ended = (first.outcome.value, first.dialect.value, first.stream, model)
    yield Measured(semconv.EXCHANGE_DURATION, ended, not_negative(took_s), alike)
    yield from _waits(alike, (first.dialect.value, model))
    yield from _tokens(alike, first.dialect, model)
    if first.facts is not None or first.stream:
        yield from _streams(alike, (first.dialect.value, model))


def counted(alike: Sequence[ExchangeEnded]) -> Iterator[Counted]:
    """Yield what exchanges count besides themselves: failures, repeats, keepalives."""
    for record in alike:
        if record.failure is not None or record.replayed:
            # The first counts the exchange.
            for key in counter_keys(record)[1:]:
                yield Counted(key, 1, record)
        if record.facts is not None and record.facts.keepalives:
            written = keepalives_of(record)
            if written is not None:
                yield Counted(*written, record)


def not_negative(durations: list[float]) -> list[float]:
    """Return the durations, with 0 where the clock was set back in the middle."""
    if min(durations) >= 0:
        return durations
    return [max(duration, 0.0) for duration in durations]


def _waits(alike: list[ExchangeEnded], line: tuple[str, str]) -> Iterator[Measured]:
    waits = [(wait, each) for each in alike for wait in each.waits]
    # Nearly always one: all went well.
    for error_type in {wait.error_type for wait, _ in waits}:
        ended = [pair for pair in waits if pair[0].error_type is error_type]
        yield Measured(
            semconv.UPSTREAM_DURATION,
            (*line, None if error_type is None else error_type.value),
            not_negative(
                [(wait.end_ns - wait.start_ns) / _NS_PER_S for wait, _ in ended]
            ),
            [each for _, each in ended],
        )


def _streams(alike: list[ExchangeEnded], line: tuple[str, str]) -> Iterator[Measured]:
    streams = [
        (facts.time_to_first_chunk_s, facts.max_gap_s, each)
        for each in alike
        if (facts := each.facts) and facts.time_to_first_chunk_s is not None
    ]
    if streams:
        first_chunks, gaps, records = map(list, zip(*streams, strict=True))
        yield Measured(semconv.TIME_TO_FIRST_CHUNK, line, first_chunks, records)
        yield Measured(semconv.MAX_GAP, line, gaps, records)


def _tokens(
    alike: list[ExchangeEnded], shape: Dialect, model: str
) -> Iterator[Measured]:
    usage = (dialect.operation_of(shape), dialect.provider_of(shape))
    for attribute, token_type in ((_INPUT, "input"), (_OUTPUT, "output")):
        pairs = [
            (value, each)
            for each in alike
            for key, value in each.response
            if key == attribute and type(value) is int and value >= 0
        ]
        if pairs:
            values, records = map(list, zip(*pairs, strict=True))
            labels = (*usage, token_type, model)
            yield Measured(semconv.TOKEN_USAGE, labels, values, records)
