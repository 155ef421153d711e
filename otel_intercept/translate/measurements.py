"""Read what exchanges that ended alike have measured, before it is added up.

The hot part of metrics: it works on columns, since a loop over records costs more.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple, TypeAlias, TypeGuard

from otel_intercept import dialect, semconv
from otel_intercept.record import (
    AttributeValue,
    ExchangeEnded,
)
from otel_intercept.recorder import CounterKey, counter_keys, keepalives_of
from otel_intercept.semconv import Instrument
from otel_intercept.translate.interval import LabelValues

_NS_PER_S: Final = 1_000_000_000
_USAGE: Final = {
    semconv.GEN_AI_USAGE_INPUT_TOKENS: "input",
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: "output",
}


_Usage: TypeAlias = tuple[str, Sequence[AttributeValue], Sequence[ExchangeEnded]]
"""An attribute, its values, and the exchange that each is from."""


class Measured(NamedTuple):
    """Values for one series of a histogram, and the exchange that each is from."""

    instrument: Instrument
    labels: LabelValues
    values: Sequence[float]
    records: Sequence[ExchangeEnded]


class Counted(NamedTuple):
    """What one exchange adds to one counter."""

    key: CounterKey
    number: int
    record: ExchangeEnded


class Alike:
    """Exchanges of one outcome, dialect, stream and model.

    Args:
        records: The exchanges, at least one, oldest first.
        model: The label of their model.
    """

    def __init__(self, records: list[ExchangeEnded], model: str) -> None:
        self._records = records
        self._model = model
        self._dialect = records[0].request.dialect.value
        self._line = (self._dialect, model)
        # A list is through sooner than a generator.
        special = [one.failure or one.facts or one.replayed for one in records]
        self._special = any(special)

    def measured(self) -> Iterator[Measured]:
        """Yield the values, at least one for each series."""
        first, records = self._records[0], self._records
        yield Measured(
            semconv.EXCHANGE_DURATION,
            (first.outcome.value, self._dialect, first.stream, self._model),
            _not_negative([(one.end_ns - one.start_ns) / _NS_PER_S for one in records]),
            records,
        )
        yield from self._waits()
        yield from self._tokens()
        if self._special:
            yield from self._streams()

    def counted(self) -> Iterator[Counted]:
        """Yield what they count besides themselves: failures, repeats, keepalives."""
        if not self._special:
            return
        for record in self._records:
            # The first counts the exchange.
            for key in counter_keys(record)[1:]:
                yield Counted(key, 1, record)
            if (written := keepalives_of(record)) is not None:
                yield Counted(*written, record)

    def _waits(self) -> Iterator[Measured]:
        records = self._records
        of_each = [one.waits for one in records]
        waits = list(chain.from_iterable(of_each))
        if not waits:
            return
        # Nearly always each has one, and it went well.
        if len(waits) != len(records) or not all(of_each):
            records = [one for one in records for _ in one.waits]
        seconds = _not_negative(
            [(one.end_ns - one.start_ns) / _NS_PER_S for one in waits]
        )
        errors = [one.error_type for one in waits]
        if not any(errors):
            yield Measured(
                semconv.UPSTREAM_DURATION, (*self._line, None), seconds, records
            )
            return
        for error in dict.fromkeys(errors):
            chosen = [at for at, each in enumerate(errors) if each is error]
            yield Measured(
                semconv.UPSTREAM_DURATION,
                (*self._line, None if error is None else error.value),
                [seconds[at] for at in chosen],
                [records[at] for at in chosen],
            )

    def _tokens(self) -> Iterator[Measured]:
        shape = self._records[0].request.dialect
        api = (dialect.operation_of(shape), dialect.provider_of(shape))
        for key, values, records in self._usages():
            labels = (*api, _USAGE[key], self._model)
            if _are_ints(values) and min(values) >= 0:
                yield Measured(semconv.TOKEN_USAGE, labels, values, records)
                continue
            numbers = [each for each in values if type(each) is int and each >= 0]
            records = [
                record
                for value, record in zip(values, records, strict=True)
                if type(value) is int and value >= 0
            ]
            if numbers:
                yield Measured(semconv.TOKEN_USAGE, labels, numbers, records)

    def _usages(self) -> Iterator[_Usage]:
        records = self._records
        responses = [one.response for one in records]
        if not any(responses):
            return
        if len(set(map(len, responses))) == 1:
            columns = [
                tuple(zip(*column, strict=True))
                for column in zip(*responses, strict=True)
            ]
            # Exchanges of one kind nearly always know the same of their answers.
            if all(len(set(keys)) == 1 for keys, _ in columns):
                for keys, values in columns:
                    if keys[0] in _USAGE:
                        yield keys[0], values, records
                return
        for usage in _USAGE:
            pairs = [
                (value, record)
                for record, response in zip(records, responses, strict=True)
                for key, value in response
                if key == usage
            ]
            if pairs:
                values, chosen = zip(*pairs, strict=True)
                yield usage, values, chosen

    def _streams(self) -> Iterator[Measured]:
        streams = [
            (facts.time_to_first_chunk_s, facts.max_gap_s, one)
            for one in self._records
            if (facts := one.facts) is not None
            and facts.time_to_first_chunk_s is not None
        ]
        if streams:
            first, gaps, records = map(list, zip(*streams, strict=True))
            yield Measured(semconv.TIME_TO_FIRST_CHUNK, self._line, first, records)
            yield Measured(semconv.MAX_GAP, self._line, gaps, records)


def seconds_between(start_ns: int, end_ns: int) -> float:
    """Return a duration in seconds; 0 where the clock was set back in the middle."""
    return max((end_ns - start_ns) / _NS_PER_S, 0.0)


def _not_negative(seconds: list[float]) -> list[float]:
    if min(seconds) >= 0:
        return seconds
    return [max(each, 0.0) for each in seconds]


def _are_ints(values: Sequence[AttributeValue]) -> TypeGuard[Sequence[int]]:
    return set(map(type, values)) == {int}
