"""Say in span attributes what a record knows: pure, keys from the catalogue only."""

from typing import Final

from otel_intercept import dialect, semconv
from otel_intercept.failure import Failure
from otel_intercept.record import (
    Attributes,
    AttributeValue,
    RolloutEnded,
    RolloutRef,
    StreamFacts,
)
from otel_intercept.semconv import Dialect, ErrorType, ExchangeOutcome

_STREAMED: Final = (semconv.GEN_AI_REQUEST_STREAM, True)


def rollout_attributes(rollout: RolloutRef) -> dict[str, AttributeValue]:
    """Return the operator's own attributes, for root and marker."""
    attributes = dict(rollout.attributes)
    attributes.pop(semconv.ROLLOUT_ID, None)
    return attributes


def outcome_attributes(ended: RolloutEnded) -> dict[str, AttributeValue]:
    """Return how a rollout ended, for its root."""
    attributes: dict[str, AttributeValue] = {
        semconv.ROLLOUT_OUTCOME: ended.outcome.value,
        semconv.ROLLOUT_EXCHANGES: ended.exchanges,
        semconv.ROLLOUT_FAILURES: ended.failures,
    }
    if ended.failure is not None:
        attributes.update(failure_attributes(ended.failure))
    return attributes


def exchange_attributes(
    method: str,
    route: str,
    scheme: str,
    dialect: Dialect,
    *,
    stream: bool,
    status: int | None,
    outcome: ExchangeOutcome,
    error_type: ErrorType | None,
) -> Attributes:
    """Return what many exchanges have in common, the model call aside."""
    attributes: dict[str, AttributeValue] = {
        semconv.EXCHANGE_OUTCOME: outcome.value,
        semconv.EXCHANGE_DIALECT: dialect.value,
        semconv.EXCHANGE_STREAM: stream,
        semconv.HTTP_REQUEST_METHOD: method,
        semconv.HTTP_ROUTE: route,
        semconv.URL_PATH: route,
        semconv.URL_SCHEME: scheme,
    }
    if status is not None:
        attributes[semconv.HTTP_RESPONSE_STATUS_CODE] = status
    if error_type is not None:
        attributes[semconv.ERROR_TYPE] = error_type.value
    return tuple(attributes.items())


def stream_attributes(facts: StreamFacts) -> Attributes:
    """Return what was written of a stream."""
    attributes = (
        (semconv.STREAM_CHUNKS, facts.chunks),
        (semconv.STREAM_BYTES, facts.bytes),
        (semconv.STREAM_KEEPALIVES, facts.keepalives),
        (semconv.STREAM_MAX_GAP_S, facts.max_gap_s),
    )
    first_s = facts.time_to_first_chunk_s
    if first_s is None:
        return attributes
    return (*attributes, (semconv.STREAM_TIME_TO_FIRST_CHUNK_S, first_s))


def call_attributes(asked: Dialect, model: str | None) -> Attributes:
    """Return what many model calls have in common."""
    attributes: Attributes = (
        (semconv.GEN_AI_OPERATION_NAME, dialect.operation_of(asked)),
        (semconv.GEN_AI_PROVIDER_NAME, dialect.provider_of(asked)),
    )
    if model is None:
        return attributes
    return (*attributes, (semconv.GEN_AI_REQUEST_MODEL, model))


def streamed(request: Attributes) -> Attributes:
    """Return what was asked of the model, with the fact that it was a stream."""
    if _STREAMED in request:
        return request
    key, _ = _STREAMED
    return (*(pair for pair in request if pair[0] != key), _STREAMED)


def failure_attributes(failure: Failure) -> dict[str, AttributeValue]:
    """Return what a failure says of itself, its exception's class aside."""
    attributes: dict[str, AttributeValue] = {
        semconv.ERROR_TYPE: failure.error_type.value,
        semconv.FAILURE_PHASE: failure.phase.value,
        semconv.FAILURE_ORIGIN: failure.origin.value,
        semconv.FAILURE_RETRYABLE: failure.retryable,
        semconv.FAILURE_FINGERPRINT: failure.fingerprint,
    }
    if failure.cause_types:
        attributes[semconv.FAILURE_CAUSE_TYPES] = failure.cause_types
    if failure.status_code is not None:
        attributes[semconv.FAILURE_STATUS_CODE] = failure.status_code
    return attributes


def exception_attributes(failure: Failure) -> dict[str, AttributeValue]:
    """Return all that a failure says of itself, as on its span event."""
    attributes = failure_attributes(failure)
    if failure.exception_type is not None:
        attributes[semconv.EXCEPTION_TYPE] = failure.exception_type
    return attributes
