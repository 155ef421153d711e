"""The export guard for log records: failure events with known attributes only."""

from typing import Final

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.trace import SpanContext, TraceFlags

from otel_intercept import semconv
from otel_intercept.record import AttributeValue
from otel_intercept.translate.guard import Guard, safe_value
from otel_intercept.translate.logs import log_record

_INT64: Final = 2**63


class LogGuard:
    """Rebuilds log records so that only what the catalogue allows is left.

    Args:
        guard: Checks resource and scope, and counts what is dropped.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard

    def log(self, log: ReadableLogRecord) -> ReadableLogRecord | None:
        """Return the safe form of a failure event; None for any other log record.

        Bodies do not leave. An attribute that may not is dropped, the rest leaves.
        """
        record, scope = log.log_record, log.instrumentation_scope
        span, at_ns = _span_of(record), record.timestamp
        if (
            record.event_name != semconv.EVENT_FAILURE
            or record.severity_number is not SeverityNumber.ERROR
            or scope is None
            or not span.is_valid
            or type(at_ns) is not int
            or not 0 < at_ns < _INT64
        ):
            self._guard.dropped += 1
            return None
        if record.body is not None:
            self._guard.dropped += 1
        return ReadableLogRecord(
            log_record(span, at_ns, self._attributes(record)),
            self._guard.resource(log.resource),
            self._guard.scope(scope),
        )

    def _attributes(self, record: LogRecord) -> dict[str, AttributeValue]:
        safe: dict[str, AttributeValue] = {}
        for key, value in (record.attributes or {}).items():
            kept = safe_value(value) if key in semconv.LOG_ATTRIBUTES else None
            if kept is None:
                self._guard.dropped += 1
            else:
                safe[key] = kept
        return safe


def _span_of(record: LogRecord) -> SpanContext:
    sampled = int(record.trace_flags or 0) & TraceFlags.SAMPLED
    return SpanContext(
        int(record.trace_id or 0),
        int(record.span_id or 0),
        is_remote=False,
        trace_flags=TraceFlags(sampled),
    )
