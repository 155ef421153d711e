"""Batch the spans of records, export them, and settle what became of the records."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Final

from opentelemetry.sdk.trace.export import SpanExporter

from otel_intercept.recorder import Recorder
from otel_intercept.translate.batch import Batch, Spans
from otel_intercept.translate.bounded import seconds_until, within
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.guarded import export_request, export_spans
from otel_intercept.translate.outlets import EncodedSpanExporter, LocalSpanExporter
from otel_intercept.turns import nap, starves

MAX_POSTS: Final = 4
"""Requests on their way at once, when there is a backlog and the collector is slow."""

_ALONE_S: Final = 0.05
"""How long the next batch waits for a request that most collectors answer by then."""


class SpanSender:
    """The way of spans out of the process.

    An exporter of encoded requests is called in threads, one for each request that is
    on its way; any other in the thread that calls ``send``, one call at a time.

    ``add``, ``send`` and ``finish`` belong to the pipeline's thread; ``abandon`` and
    what comes after it to the thread that shuts the pipeline down.

    Args:
        recorder: Where the fate of the records is counted.
        exporter: Where the spans go; None when there are none.
        encode: Makes a request of encoded spans.
        complaints: Where an exporter that raises is reported.
        lock: Held while it is decided who settles a batch: this or the shutdown.
        threads: Whether threads may be used.
    """

    def __init__(
        self,
        recorder: Recorder,
        exporter: SpanExporter | None,
        encode: Callable[[Sequence[bytes]], bytes],
        complaints: Complaints,
        lock: threading.Lock,
        *,
        threads: bool,
    ) -> None:
        self._recorder = recorder
        self._exporter = exporter
        self._poster = exporter if isinstance(exporter, EncodedSpanExporter) else None
        self._readers = exporter if self._poster is None else self._poster.readers
        self._encode = encode
        self._complaints = complaints
        self._threads = threads and self._poster is not None
        # Guards what is below; never held during an export.
        self._changed = threading.Condition(lock)
        self._batch = Batch()
        self._since_s = 0.0
        self._running = 0
        self._in_flight = 0
        self.abandoned = False

    def is_due(self, delay_s: float) -> bool:
        """Tell whether the oldest record of the batch has waited for so many seconds.

        Not while something is being exported: a batch that is not full can still grow.
        """
        waits = self._batch.records > 0
        return waits and time.monotonic() - self._since_s >= delay_s and self.idle

    @property
    def idle(self) -> bool:
        """Whether nothing is being exported."""
        with self._changed:
            return not self._running

    def add(self, waiting: deque[Spans], limit: int, since_s: float) -> None:
        """Add the spans of records; export the batch whenever it is full.

        Args:
            waiting: The spans of each record. What was added is removed, so that
                nothing that an exporter raises can lose the rest.
            limit: How many records make a full batch.
            since_s: When the first of them may have come, by the monotonic clock.
        """
        while waiting and not self.abandoned:
            if not self._batch.records:
                self._since_s = since_s
            if self._batch.fill(waiting, limit):
                self.send()

    def drop(self, number: int) -> None:
        """Settle records that have no spans after all as dropped."""
        with self._changed:
            self._recorder.settle(dropped=number)

    def send(self) -> None:
        """Export what is in the batch, once fewer than four exports run.

        Returns before the export has ended, where threads are used. Raises only what is
        no ``Exception``.
        """
        batch = self._claim()
        if batch is None:
            return
        kept = False
        try:
            kept = self._readers is None or export_spans(
                self._readers, batch.readable, self._complaints
            )
        except BaseException:
            self._settle(batch, exported=False)
            raise
        if not (self._threads and self._start_post(batch, kept=kept)):
            self._post(batch, kept=kept)

    def finish(self) -> None:
        """Export what is in the batch after all before it, and wait for it."""
        self._wait_for_exports()
        self.send()
        self._wait_for_exports()

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
        self._changed.notify_all()

    def keep_locally(self, more: Iterable[Spans]) -> None:
        """Keep what could not be sent on this machine, if an exporter can do that."""
        spans = [*self._batch.readable, *chain.from_iterable(made[2] for made in more)]
        if spans and isinstance(self._exporter, LocalSpanExporter):
            self._exporter.export_locally(spans)

    def shutdown(self, deadline: float) -> None:
        """Shut the exporter down in half of the time that is left."""
        if self._exporter is not None:
            within(seconds_until(deadline) / 2, self._exporter.shutdown)

    def _claim(self) -> Batch | None:
        limit = MAX_POSTS if self._threads else 1
        with self._changed:
            if self._exporter is None or not self._batch.records:
                return None
            self._changed.wait_for(lambda: self.abandoned or self._running < limit)
            # What is not sent stays, to be kept on this machine.
            if self.abandoned:
                return None
            batch, self._batch = self._batch, Batch()
            self._running += 1
            self._in_flight += batch.records
            return batch

    def _start_post(self, batch: Batch, *, kept: bool) -> bool:
        # Two of our threads that work one right after the other make the event loop
        # wait for both: a new one has the interpreter lock at once, and of two that
        # wait beside a busy loop the second has it next.
        def post() -> None:
            nap()
            try:
                self._post(batch, kept=kept)
            except BaseException:  # noqa: BLE001 - its text must not be printed
                self._complaints.warn("the export of spans recovered from an error")

        try:
            threading.Thread(
                target=post, name="otel-intercept-post", daemon=True
            ).start()
        except RuntimeError:
            # No thread can be had; the calling one will do.
            return False
        if starves():
            with self._changed:
                self._changed.wait_for(lambda: not self._running, _ALONE_S)
        else:
            nap()
        return True

    def _post(self, batch: Batch, *, kept: bool) -> None:
        taken = False
        try:
            taken = self._poster is None or export_request(
                self._poster, self._encode(batch.encoded), self._complaints
            )
        finally:
            self._settle(batch, exported=kept and taken)

    def _settle(self, batch: Batch, *, exported: bool) -> None:
        settled = batch.records
        with self._changed:
            self._running -= 1
            # Shutdown has already counted the batch if it gave up waiting for it.
            if not self.abandoned:
                self._in_flight -= settled
                self._recorder.settle(
                    exported=settled if exported else 0,
                    failed=0 if exported else settled,
                )
            self._changed.notify_all()

    def _wait_for_exports(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.abandoned or not self._running)
