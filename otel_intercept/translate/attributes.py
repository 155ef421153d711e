"""Say in span attributes what a record knows: pure, keys from the catalogue only."""

from otel_intercept import dialect, semconv
from otel_intercept.failure import Failure
from otel_intercept.record import AttributeValue, ExchangeEnded, RolloutRef


def rollout_attributes(rollout: RolloutRef) -> dict[str, AttributeValue]:
    """Return what root and marker say: the operator's own attributes and the id."""
    attributes = dict(rollout.attributes)
    attributes[semconv.ROLLOUT_ID] = rollout.rollout_id
    return attributes


def exchange_attributes(record: ExchangeEnded) -> dict[str, AttributeValue]:
    """Return what is known of an exchange, its method and model call aside."""
    attributes: dict[str, AttributeValue] = {
        semconv.ROLLOUT_ID: record.rollout.rollout_id,
        semconv.EXCHANGE_INDEX: record.exchange_index,
        semconv.EXCHANGE_OUTCOME: record.outcome.value,
        semconv.EXCHANGE_DIALECT: record.dialect.value,
        semconv.EXCHANGE_STREAM: record.stream,
        semconv.HTTP_ROUTE: record.route,
        semconv.URL_PATH: record.route,
        semconv.URL_SCHEME: record.scheme,
    }
    if record.status is not None:
        attributes[semconv.HTTP_RESPONSE_STATUS_CODE] = record.status
    if record.replayed:
        attributes[semconv.EXCHANGE_REPLAYED] = True
    if record.retry_count is not None:
        attributes[semconv.EXCHANGE_RETRY_COUNT] = record.retry_count
    if record.failure is not None:
        attributes[semconv.ERROR_TYPE] = record.failure.error_type.value
    facts = record.facts
    if facts is not None:
        attributes[semconv.STREAM_CHUNKS] = facts.chunks
        attributes[semconv.STREAM_BYTES] = facts.bytes
        attributes[semconv.STREAM_KEEPALIVES] = facts.keepalives
        attributes[semconv.STREAM_MAX_GAP_S] = facts.max_gap_s
        if facts.time_to_first_chunk_s is not None:
            attributes[semconv.STREAM_TIME_TO_FIRST_CHUNK_S] = (
                facts.time_to_first_chunk_s
            )
    return attributes


def request_attributes(record: ExchangeEnded) -> dict[str, AttributeValue]:
    """Return the GenAI attributes of the model call that an exchange asked for."""
    attributes = dict(record.request)
    attributes[semconv.GEN_AI_OPERATION_NAME] = dialect.operation_of(record.dialect)
    attributes[semconv.GEN_AI_PROVIDER_NAME] = dialect.provider_of(record.dialect)
    attributes[semconv.GEN_AI_CONVERSATION_ID] = record.rollout.rollout_id
    if record.model is not None:
        attributes[semconv.GEN_AI_REQUEST_MODEL] = record.model
    if record.stream:
        attributes[semconv.GEN_AI_REQUEST_STREAM] = True
    return attributes


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
