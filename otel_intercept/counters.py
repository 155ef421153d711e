"""Tell which counters a record adds to; their labels are from closed sets."""

from typing import TypeAlias

from otel_intercept import semconv
from otel_intercept.failure import Failure
from otel_intercept.record import (
    ExchangeEnded,
    ExchangeRejected,
    FailureSeen,
    Record,
    RolloutEnded,
    RolloutStarted,
)
from otel_intercept.semconv import Dialect, ExchangeOutcome

CounterKey: TypeAlias = tuple[str, tuple[str | bool, ...]]
"""An instrument's name and its label values, in the order of ``Instrument.labels``."""


def keepalives_of(record: Record) -> tuple[CounterKey, int] | None:
    """Return the counter of keepalives and what the record adds, or None for none."""
    if not isinstance(record, ExchangeEnded) or record.facts is None:
        return None
    if not record.facts.keepalives:
        return None
    key = (semconv.KEEPALIVES.name, (record.request.dialect.value,))
    return key, record.facts.keepalives


def counter_keys(record: Record) -> tuple[CounterKey, ...]:
    """Return every counter that the record adds one to. Values are closed labels."""
    match record:
        case RolloutEnded():
            return ((semconv.ROLLOUTS.name, (record.outcome.value,)),)
        case ExchangeEnded():
            exchange = exchanges_key(
                record.outcome, record.request.dialect, stream=record.stream
            )
            if record.replayed:
                return (exchange, (semconv.EXCHANGES_REPLAYED.name, exchange[1]))
            if record.failure is None:
                return (exchange,)
            return (exchange, _failure_key(record.failure))
        case FailureSeen():
            return (_failure_key(record.failure),)
        case ExchangeRejected():
            rejected = ExchangeOutcome.REJECTED
            return (exchanges_key(rejected, record.dialect, stream=False),)
        case RolloutStarted():
            return ()


def exchanges_key(
    outcome: ExchangeOutcome, dialect: Dialect, *, stream: bool
) -> CounterKey:
    """Return the counter of exchanges that ended so."""
    return semconv.EXCHANGES.name, (outcome.value, dialect.value, stream)


def _failure_key(failure: Failure) -> CounterKey:
    labels = (failure.error_type.value, failure.phase.value, failure.origin.value)
    return (semconv.FAILURES.name, labels)
