"""Send log records from a thread of their own, so that they never hold spans up."""

import logging
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final

from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult

from otel_intercept.semconv import Fate
from otel_intercept.settings import Settings
from otel_intercept.translate.bounded import seconds_until, within
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.guarded import exporting

MAX_WAITING: Final = 8192
"""Log records that wait at most; with their texts cut, some 10 MB."""

_MAX_BATCH: Final = 512
_JOIN_SHARE: Final = 0.8
"""Of the shutdown budget, for what waits; the rest is the exporter's."""

_logger: Final = logging.getLogger("otel_intercept.translate")


class LogSender:
    """A bounded queue of log records before an exporter, with a count of their fates.

    What does not fit is dropped and counted: the newest, as in the records' own queue.
    The SDK's batch processor drops uncounted, and its flush takes no limit of time.

    Args:
        exporter: Where the log records go.
        settings: Queue size (8192 at most here), batch size (512 at most), delay, and
            whether a thread is used.
    """

    def __init__(self, exporter: LogRecordExporter, settings: Settings) -> None:
        self._exporter = exporter
        self._room = min(settings.queue_size, MAX_WAITING)
        self._batch_size = min(settings.export_batch_size, _MAX_BATCH)
        self._delay_s = settings.schedule_delay_s
        self._complaints = Complaints(_logger)
        self._waiting: deque[ReadableLogRecord] = deque()
        self._fates = dict.fromkeys(Fate, 0)
        self._in_flight = 0
        self._accepted = 0
        self._missed = 0
        self._flushing = 0
        self._stopping = False
        self._closed = False
        # Guards all of the above; never held during an export.
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        if settings.recorder == "thread":
            self._thread = threading.Thread(
                target=self._run, name="otel-intercept-logs", daemon=True
            )
            self._thread.start()

    def put(self, log: ReadableLogRecord | None) -> None:
        """Queue a log record, or drop and count it. Never waits for an export.

        Args:
            log: The log record; None for one that could not be made, to be counted.
        """
        with self._changed:
            if log is None or self._closed or len(self._waiting) >= self._room:
                self._fates[Fate.DROPPED] += 1
                return
            self._waiting.append(log)
            self._accepted += 1
            if len(self._waiting) >= self._batch_size:
                self._changed.notify_all()

    def set_missed(self, total: int) -> None:
        """Say how many failures were dropped before they came here, in all."""
        with self._changed:
            self._missed = total

    @property
    def fates(self) -> Mapping[Fate, int]:
        """How many log records had which fate so far."""
        with self._changed:
            fates = self._fates.copy()
            fates[Fate.DROPPED] += self._missed
            return fates

    @property
    def idle(self) -> bool:
        """Whether nothing is being exported, nor will be by itself."""
        return self._thread is None or not self._thread.is_alive()

    def flush(self, timeout_s: float) -> bool:
        """Export what waits, and flush the exporter. True when confirmed in time."""
        deadline = time.monotonic() + timeout_s
        if self._thread is None:
            self._send_all()
        with self._changed:
            goal = self._accepted
            self._flushing += 1
            self._changed.notify_all()
            sent = self._changed.wait_for(lambda: self._settled() >= goal, timeout_s)
            self._flushing -= 1
        if not sent:
            return False
        flush, left_s = self._exporter.force_flush, seconds_until(deadline)
        return within(left_s, lambda: flush(int(left_s * 1e3)))

    def shutdown(self, timeout_s: float) -> None:
        """Export what can be within the budget, count the rest, stop. Idempotent."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is None:
            self._send_all()
        else:
            self._thread.join(timeout_s * _JOIN_SHARE)
        with self._changed:
            self._closed = True
            self._fates[Fate.FAILED] += self._in_flight
            self._fates[Fate.DROPPED] += len(self._waiting)
            self._in_flight = 0
            self._waiting.clear()
            self._changed.notify_all()
        within(seconds_until(deadline), self._exporter.shutdown)

    def _run(self) -> None:
        last = False
        while not last:
            with self._changed:
                self._changed.wait_for(self._is_due, self._delay_s)
                last = self._stopping
            try:
                self._send_all()
            except BaseException:  # noqa: BLE001 - e.g. the panic of a Rust exporter
                self._complaints.warn("the sender of logs recovered from an error")

    def _is_due(self) -> bool:
        return (
            self._stopping
            or len(self._waiting) >= self._batch_size
            or (self._flushing > 0 and len(self._waiting) > 0)
        )

    def _settled(self) -> int:
        if self._closed:
            return self._accepted
        return self._accepted - len(self._waiting) - self._in_flight

    def _send_all(self) -> None:
        while batch := self._take():
            taken = False
            try:
                taken = export_logs(self._exporter, batch, self._complaints)
            finally:
                with self._changed:
                    fate = Fate.EXPORTED if taken else Fate.FAILED
                    # Shutdown has counted the batch if it gave up waiting for it.
                    self._fates[fate] += self._in_flight
                    self._in_flight = 0
                    self._changed.notify_all()

    def _take(self) -> list[ReadableLogRecord]:
        with self._changed:
            number = min(len(self._waiting), self._batch_size)
            batch = [self._waiting.popleft() for _ in range(number)]
            self._in_flight = number
            return batch


def export_logs(
    exporter: LogRecordExporter,
    logs: Sequence[ReadableLogRecord],
    complaints: Complaints,
) -> bool:
    """Export logs that passed the guard; False when refused, lost or raised."""
    with exporting():
        try:
            return exporter.export(logs) is LogRecordExportResult.SUCCESS
        except Exception:  # noqa: BLE001 - an exporter's mistake, whose text may leak
            complaints.warn("a log exporter raised; its batch counts as failed")
            return False
