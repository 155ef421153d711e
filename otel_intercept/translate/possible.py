"""Which label values can occur together: what counters are seeded with."""

from collections.abc import Iterator
from itertools import product

from otel_intercept import semconv
from otel_intercept.counters import CounterKey
from otel_intercept.failure import origin_of
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    Origin,
    Phase,
    RolloutOutcome,
)


def possible_failures() -> frozenset[tuple[ErrorType, Phase, Origin]]:
    """Return every (error type, phase, origin) that a failure can have.

    Any type can occur in any phase, since adapters may report what they like; but type
    and phase fix the origin.
    """
    return frozenset(
        (error, phase, origin_of(error, phase))
        for error, phase in product(ErrorType, Phase)
    )


def possible_counters() -> Iterator[CounterKey]:
    """Yield every series of the record counters that can occur."""
    for rollout in RolloutOutcome:
        yield semconv.ROLLOUTS.name, (rollout.value,)
    for outcome, dialect, stream in product(ExchangeOutcome, Dialect, (False, True)):
        for counter in (semconv.EXCHANGES, semconv.EXCHANGES_REPLAYED):
            yield counter.name, (outcome.value, dialect.value, stream)
    for dialect in Dialect:
        yield semconv.KEEPALIVES.name, (dialect.value,)
    for error, phase, origin in possible_failures():
        yield semconv.FAILURES.name, (error.value, phase.value, origin.value)
