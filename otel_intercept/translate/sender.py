"""Batch the spans of records, export them, and settle what became of the records."""

import threading
import time
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter

from otel_intercept.recorder import Recorder
from otel_intercept.translate.batch import Batch, estimated_size
from otel_intercept.translate.bounded import seconds_until, within
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.guarded import LocalSpanExporter, export_spans


class SpanSender:
    """The way of spans out of the process.

    ``add`` and ``send`` belong to the pipeline's thread; ``abandon`` and what comes
    after it to the thread that shuts the pipeline down.

    Args:
        recorder: Where the fate of the records is counted.
        exporter: Where the spans go; None when there are none.
        complaints: Where an exporter that raises is reported.
        lock: Held while it is decided who settles a batch: this or the shutdown.
    """

    def __init__(
        self,
        recorder: Recorder,
        exporter: SpanExporter | None,
        complaints: Complaints,
        lock: threading.Lock,
    ) -> None:
        self._recorder = recorder
        self._exporter = exporter
        self._complaints = complaints
        self._lock = lock
        self._batch = Batch()
        self._since = 0.0
        self._in_flight = 0
        self.abandoned = False

    @property
    def waited_s(self) -> float:
        """Seconds that the oldest record of the batch has waited."""
        return time.monotonic() - self._since

    def add(self, spans: Sequence[ReadableSpan], limit: int) -> None:
        """Add one record's spans; export the batch when it is full.

        Args:
            spans: The spans; a record without any is settled as dropped.
            limit: How many records make a full batch.
        """
        if not spans:
            self._recorder.settle(dropped=1)
            return
        full = None
        size = estimated_size(spans)
        if not self._batch.has_room_for(spans, size):
            full, self._batch = self._batch, Batch()
        if not self._batch.records:
            self._since = time.monotonic()
        self._batch.add(spans, size)
        if full is not None:
            self._export(full)
        if self._batch.records >= limit:
            self.send()

    def send(self) -> None:
        """Export what is in the batch. Raises only what is no ``Exception``."""
        batch, self._batch = self._batch, Batch()
        self._export(batch)

    def flush(self, timeout_s: float) -> bool:
        """Flush the exporter. True when it did not refuse and returned in time."""
        if self._exporter is None:
            return True
        flush, millis = self._exporter.force_flush, int(timeout_s * 1e3)
        return within(timeout_s, lambda: flush(millis))

    def abandon(self) -> None:
        """Settle what is being exported as failed. The caller holds the lock."""
        self.abandoned = True
        self._recorder.settle(failed=self._in_flight)
        self._in_flight = 0

    def keep_locally(self, more: Sequence[ReadableSpan]) -> None:
        """Keep what could not be sent on this machine, if an exporter can do that."""
        spans = [*self._batch.spans, *more]
        if spans and isinstance(self._exporter, LocalSpanExporter):
            self._exporter.export_locally(spans)

    def shutdown(self, deadline: float) -> None:
        """Shut the exporter down in half of the time that is left."""
        if self._exporter is not None:
            within(seconds_until(deadline) / 2, self._exporter.shutdown)

    def _export(self, batch: Batch) -> None:
        if not batch.records or self._exporter is None:
            return
        with self._lock:
            if self.abandoned:
                return
            self._in_flight = batch.records
        exported = False
        try:
            exported = export_spans(self._exporter, batch.spans, self._complaints)
        finally:
            with self._lock:
                # Shutdown has already counted the batch if it gave up waiting for it.
                if not self.abandoned:
                    self._in_flight = 0
                    settled = batch.records
                    self._recorder.settle(
                        exported=settled if exported else 0,
                        failed=0 if exported else settled,
                    )
