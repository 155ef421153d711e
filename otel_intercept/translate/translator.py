"""Translate records: measure them, log failures, make their spans. Never raises."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource

from otel_intercept import semconv
from otel_intercept.counters import CounterKey
from otel_intercept.record import Record
from otel_intercept.timings import Kind, Timing
from otel_intercept.translate.aggregates import Aggregates
from otel_intercept.translate.batch import Spans
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.encoder import SpanEncoder
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.guard_logs import LogGuard
from otel_intercept.translate.log_sender import LogSender
from otel_intercept.translate.logs import LogFactory, failure_of
from otel_intercept.translate.metrics import Instruments
from otel_intercept.translate.pairs import NotAllowed
from otel_intercept.translate.readable import readable_span
from otel_intercept.translate.scope import SCOPE
from otel_intercept.translate.span import LightSpans
from otel_intercept.translate.spans import SpanFactory
from otel_intercept.translate.usual import UsualExchanges

_logger: Final = logging.getLogger("otel_intercept.translate")


class Translator:
    """What becomes of records: metric points at once, spans and logs to be exported.

    Args:
        resource: Who spans and logs are from.
        instruments: Takes the measurements; None when metrics are not exported.
        logs: Takes the log records of failures; None when they are not exported.
        guard: Checks every span and log record that was made.
        readable: Whether spans are wanted as the SDK's as well.
    """

    def __init__(
        self,
        resource: Resource,
        instruments: Aggregates | Instruments | None,
        logs: LogSender | None,
        guard: Guard,
        *,
        readable: bool,
    ) -> None:
        self._encoder = SpanEncoder(resource, SCOPE, guard)
        self._encoded_spans = SpanFactory(self._encoder)
        self._usual_exchanges = UsualExchanges(self._encoder)
        self._light_spans = SpanFactory(LightSpans())
        self._resource = guard.resource(resource)
        self._readable = readable
        self._instruments = instruments
        self._log_factory = LogFactory(resource, SCOPE)
        self._logs = logs
        self._guard = guard
        self._log_guard = LogGuard(guard)
        self._complaints = Complaints(_logger)

    def measure(self, records: Sequence[Record]) -> None:
        """Record the metrics of some records, and hand their failures to the logs."""
        if self._instruments is not None:
            try:
                self._instruments.record(*records)
            except Exception:  # noqa: BLE001 - bad records must not stop the others
                self._complaints.warn("the metrics of a record could not be recorded")
        if self._logs is not None:
            for record in records:
                if failure_of(record) is not None:
                    self._logs.put(self._log_of(record))

    @property
    def takes_timings(self) -> bool:
        """Whether exchanges of unsampled rollouts can do without a record."""
        instruments = self._instruments
        return isinstance(instruments, Aggregates) and instruments.takes_timings

    def measure_timings(self, kind: Kind, timings: Sequence[Timing]) -> None:
        """Record the metrics of exchanges that made no record."""
        if isinstance(self._instruments, Aggregates):
            self._instruments.add_timings(kind, timings)

    def spans_of(self, records: Iterable[Record]) -> list[Spans]:
        """Return the guarded spans of each record that can be shown.

        Args:
            records: Records of sampled rollouts.
        """
        readable, usual_spans_of = self._readable, self._usual_exchanges.spans_of
        made: list[Spans] = []
        for record in records:
            try:
                spans = None if readable else usual_spans_of(record)
                if spans is None:
                    spans = self._spans_of(record)
                    if not spans[0]:
                        continue
                made.append(spans)
            except Exception:  # noqa: BLE001 - one bad record must not stop the others
                self._complaints.warn("a record could not be turned into a span")
        return made

    def request_of(self, encoded: Sequence[bytes]) -> bytes:
        """Return the request that carries encoded spans. Any thread may call it."""
        return self._encoder.request(encoded)

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

    def _spans_of(self, record: Record) -> Spans:
        if self._readable:
            return self._guarded_spans(record)
        try:
            spans = self._encoded_spans.spans_of(record)
        except (NotAllowed, OverflowError, TypeError):
            # Something in it is for the guard to cut or to hold back.
            return self._guarded_spans(record)
        return b"".join(spans), len(spans), ()

    def _guarded_spans(self, record: Record) -> Spans:
        spans = [
            safe
            for span in self._light_spans.spans_of(record)
            if (safe := self._guard.own(span)) is not None
        ]
        encoded = b"".join(map(self._encoder.encode, spans))
        if not self._readable:
            return encoded, len(spans), ()
        resource = self._resource
        readable = [readable_span(span, resource, SCOPE) for span in spans]
        return encoded, len(spans), readable

    def _log_of(self, record: Record) -> ReadableLogRecord | None:
        try:
            log = self._log_factory.log_of(record)
            return None if log is None else self._log_guard.log(log)
        except Exception:  # noqa: BLE001 - one bad record must not stop the others
            self._complaints.warn("a failure could not be turned into a log record")
            return None
