"""Translate a record: measure it, and make its guarded spans. Never raises."""

import logging
from collections.abc import Mapping
from typing import Final

from opentelemetry.sdk.trace import ReadableSpan

from otel_intercept.record import Record
from otel_intercept.recorder import CounterKey
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.metrics import Instruments
from otel_intercept.translate.spans import SpanFactory

_logger: Final = logging.getLogger("otel_intercept.translate")


class Translator:
    """What becomes of a record: metric points at once, spans to be exported.

    Args:
        factory: Makes the spans.
        instruments: Takes the measurements; None when metrics are not exported.
        guard: Checks every span that was made.
    """

    def __init__(
        self,
        factory: SpanFactory,
        instruments: Instruments | None,
        guard: Guard,
    ) -> None:
        self._factory = factory
        self._instruments = instruments
        self._guard = guard
        self._complaints = Complaints(_logger)

    def measure(self, record: Record) -> None:
        """Record the metrics of one record."""
        if self._instruments is None:
            return
        try:
            self._instruments.record(record)
        except Exception:  # noqa: BLE001 - one bad record must not stop the others
            self._complaints.warn("the metrics of a record could not be recorded")

    def spans_of(self, record: Record) -> list[ReadableSpan]:
        """Return the guarded spans of a sampled record; none if it cannot be shown."""
        try:
            return self._guard.spans(self._factory.spans_of(record))
        except Exception:  # noqa: BLE001 - one bad record must not stop the others
            self._complaints.warn("a record could not be turned into a span")
            return []

    def add_tally(self, tally: Mapping[CounterKey, int]) -> None:
        """Count the records that were dropped before they came here."""
        if self._instruments is not None:
            self._instruments.add_tally(tally)
