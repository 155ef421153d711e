"""Say a failure as an OTel log record, for those who alert and search on logs."""

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from otel_intercept import semconv
from otel_intercept.failure import Failure
from otel_intercept.record import (
    AttributeValue,
    ExchangeEnded,
    FailureSeen,
    Record,
    RolloutRef,
)
from otel_intercept.translate.attributes import exception_attributes


def failure_of(record: Record) -> Failure | None:
    """Return the failure that the record is the first to tell of, or None.

    The end of a rollout repeats a failure that was told before.
    """
    match record:
        case ExchangeEnded() | FailureSeen():
            return record.failure
        case _:
            return None


class LogFactory:
    """Builds the log record of a failure.

    Args:
        resource: Who the log record is from.
        scope: Which library made it.
    """

    def __init__(self, resource: Resource, scope: InstrumentationScope) -> None:
        self._resource = resource
        self._scope = scope

    def log_of(self, record: Record) -> ReadableLogRecord | None:
        """Return the log record of the record's failure; None when it has none.

        Logs are not sampled. In a rollout that is not, the ids are those of the span
        that would have been there, and the trace flags say so.
        """
        match record:
            case ExchangeEnded(failure=Failure() as failure):
                at_ns = record.failure_ns or record.end_ns
                return self._log(failure, record.rollout, record.span_id, at_ns)
            case FailureSeen():
                return self._log(
                    record.failure, record.rollout, record.span_id, record.at_ns
                )
            case _:
                return None

    def _log(
        self, failure: Failure, rollout: RolloutRef, span_id: int, at_ns: int
    ) -> ReadableLogRecord:
        attributes: dict[str, AttributeValue] = exception_attributes(failure)
        attributes[semconv.ROLLOUT_ID] = rollout.rollout_id
        flags = TraceFlags(TraceFlags.SAMPLED if rollout.sampled else 0)
        return ReadableLogRecord(
            log_record(
                SpanContext(rollout.trace_id, span_id, False, flags),  # noqa: FBT003
                at_ns,
                attributes,
            ),
            self._resource,
            self._scope,
        )


def log_record(
    span: SpanContext, at_ns: int, attributes: dict[str, AttributeValue]
) -> LogRecord:
    """Return a failure event without a body, on a span."""
    return LogRecord(
        timestamp=at_ns,
        observed_timestamp=at_ns,
        context=set_span_in_context(NonRecordingSpan(span), Context()),
        severity_number=SeverityNumber.ERROR,
        severity_text=semconv.SEVERITY_ERROR,
        attributes=attributes,
        event_name=semconv.EVENT_FAILURE,
    )
