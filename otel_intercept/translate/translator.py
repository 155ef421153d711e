"""Translate a record: measure it, log its failure, make its spans. Never raises."""

import logging
from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan

from otel_intercept import semconv
from otel_intercept.record import Record
from otel_intercept.recorder import CounterKey
from otel_intercept.translate.aggregates import Aggregates
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.guard_logs import LogGuard
from otel_intercept.translate.log_sender import LogSender
from otel_intercept.translate.logs import LogFactory, failure_of
from otel_intercept.translate.metrics import Instruments
from otel_intercept.translate.scope import SCOPE
from otel_intercept.translate.spans import SpanFactory

_logger: Final = logging.getLogger("otel_intercept.translate")


class Translator:
    """What becomes of a record: metric points at once, spans and logs to be exported.

    Args:
        resource: Who spans and logs are from.
        instruments: Takes the measurements; None when metrics are not exported.
        logs: Takes the log records of failures; None when they are not exported.
        guard: Checks every span and log record that was made.
    """

    def __init__(
        self,
        resource: Resource,
        instruments: Aggregates | Instruments | None,
        logs: LogSender | None,
        guard: Guard,
    ) -> None:
        self._spans = SpanFactory(resource, SCOPE)
        self._instruments = instruments
        self._log_factory = LogFactory(resource, SCOPE)
        self._logs = logs
        self._guard = guard
        self._log_guard = LogGuard(guard)
        self._complaints = Complaints(_logger)

    def measure(self, record: Record) -> None:
        """Record the metrics of one record, and hand its failure to the logs."""
        if self._instruments is not None:
            try:
                self._instruments.record(record)
            except Exception:  # noqa: BLE001 - one bad record must not stop the others
                self._complaints.warn("the metrics of a record could not be recorded")
        if self._logs is not None and failure_of(record) is not None:
            self._logs.put(self._log_of(record))

    def spans_of(self, record: Record) -> list[ReadableSpan]:
        """Return the guarded spans of a sampled record; none if it cannot be shown."""
        try:
            return self._guard.spans(self._spans.spans_of(record))
        except Exception:  # noqa: BLE001 - one bad record must not stop the others
            self._complaints.warn("a record could not be turned into a span")
            return []

    def add_tally(self, tally: Mapping[CounterKey, int]) -> None:
        """Count the records that were dropped before they came here."""
        if self._instruments is not None:
            self._instruments.add_tally(tally)
        if self._logs is not None:
            self._logs.set_missed(
                sum(
                    missed
                    for (name, _), missed in tally.items()
                    if name == semconv.FAILURES.name
                )
            )

    def _log_of(self, record: Record) -> ReadableLogRecord | None:
        try:
            log = self._log_factory.log_of(record)
            return None if log is None else self._log_guard.log(log)
        except Exception:  # noqa: BLE001 - one bad record must not stop the others
            self._complaints.warn("a failure could not be turned into a log record")
            return None
