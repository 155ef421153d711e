"""The background thread: takes records, translates, exports and settles them."""

import logging
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from opentelemetry.sdk._logs.export import LogRecordExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import MetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import SpanExporter

from otel_intercept.recorder import Recorder, SpanRecord
from otel_intercept.semconv import Fate
from otel_intercept.settings import MAX_EXPORT_BATCH_SIZE, Settings
from otel_intercept.translate.bounded import seconds_until
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.log_sender import LogSender
from otel_intercept.translate.meters import Meters
from otel_intercept.translate.naps import Naps
from otel_intercept.translate.outlets import needs_readable
from otel_intercept.translate.provided import ProviderSpanExporter
from otel_intercept.translate.sampling import is_sampled
from otel_intercept.translate.sender import SpanSender
from otel_intercept.translate.translator import Translator

if TYPE_CHECKING:
    from otel_intercept.translate.batch import Spans

_MAX_POLL_S: Final = 0.25
_POLLS: Final = 4
"""Looks for records while one may wait; the event loop cannot wake a thread cheaply."""
_SLICE: Final = 64
_READABLE_SLICE: Final = 8
"""Records between two looks at the clock; the SDK's spans take several times as long.
"""
_TIMINGS: Final = 128
"""Likewise timings, which are measured and make no span."""

_METRICS_S: Final = 1.0
_METRICS_SHARE: Final = 0.4
"""Of the shutdown budget, kept for the last metrics; the lesser of the two."""

_logger: Final = logging.getLogger("otel_intercept.translate")


class Pipeline:
    """Owns everything behind the recorder: translation, exporters, their lifetime.

    Args:
        recorder: Where the records come from and where their fate is counted.
        settings: Batch size, delay, labels, and whether a thread is used.
        span_exporter: Where spans go, or None.
        metrics: How metrics leave: a reader for a provider of our own, the provider of
            the application, or None.
        log_exporter: Where the log records of failures go, or None.
        resource: Who the telemetry is from.
    """

    def __init__(
        self,
        recorder: Recorder,
        settings: Settings,
        *,
        span_exporter: SpanExporter | None,
        metrics: MetricReader | MeterProvider | None,
        log_exporter: LogRecordExporter | None,
        resource: Resource | None,
    ) -> None:
        resource = resource or Resource.get_empty()
        self._recorder = recorder
        self._settings = settings
        self._sampler = settings.sampler
        if self._sampler is None and isinstance(span_exporter, ProviderSpanExporter):
            self._sampler = span_exporter.sampler
        self._has_spans = span_exporter is not None
        self._guard = Guard()
        self._logs = None if log_exporter is None else LogSender(log_exporter, settings)
        self._meters = (
            None
            if metrics is None
            else Meters(metrics, resource, settings, recorder, self._log_fates)
        )
        readable = needs_readable(span_exporter)
        self._poll_s = min(settings.schedule_delay_s / _POLLS, _MAX_POLL_S)
        self._slice = _READABLE_SLICE if readable else _SLICE
        # Fewer wait for others a little: to begin costs as much as four of them.
        self._enough = min(self._slice, settings.export_batch_size)
        self._translator = Translator(
            resource,
            None if self._meters is None else self._meters.instruments,
            self._logs,
            self._guard,
            readable=readable,
        )
        if self._translator.takes_timings:
            recorder.hold_timings()
        # Spans of each record that are in no batch yet: what an exporter raises must
        # not lose them.
        self._made: deque[Spans] = deque()
        # No record that waits had come by then; by the monotonic clock.
        self._none_waited_s = time.monotonic()
        self._complaints = Complaints(_logger)
        # Between this pipeline's thread and the one that shuts it down; never taken
        # on the event loop's path.
        self._lock = threading.Lock()
        self._sender = SpanSender(
            recorder,
            span_exporter,
            self._translator.request_of,
            self._complaints,
            self._lock,
            threads=settings.recorder != "inline",
        )
        self._flushes: SimpleQueue[threading.Event] = SimpleQueue()
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread, unless the settings say ``inline``."""
        if self._settings.recorder == "thread":
            self._thread = threading.Thread(
                target=self._run, name="otel-intercept", daemon=True
            )
            self._thread.start()

    def sample(self, trace_id: int) -> bool:
        """Decide whether a rollout has spans. A sampler that raises says yes."""
        return self._has_spans and is_sampled(self._sampler, trace_id)

    def allow_attribute_keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Let operator attributes through the guard; return those that were taken."""
        return self._guard.declare(keys)

    def flush(self, timeout_s: float) -> bool:
        """Export what has ended. True when all of it was confirmed in time."""
        if self._stopping:
            return False
        deadline = time.monotonic() + timeout_s
        lost = self._lost()
        done = threading.Event()
        self._flushes.put(done)
        if self._thread is None:
            self._work(self._asked_flushes())
        in_time = done.wait(timeout_s)
        in_time = in_time and self._sender.flush(seconds_until(deadline))
        logs = self._logs is None or self._logs.flush(seconds_until(deadline))
        metrics = self._meters is None or self._meters.flush(seconds_until(deadline))
        return in_time and logs and metrics and self._lost() == lost

    def shutdown(self, timeout_s: float) -> None:
        """Export what can be within the budget, settle the rest, stop everything."""
        deadline = time.monotonic() + timeout_s
        self._stopping = True
        if self._thread is None:
            self._work(self._asked_flushes())
        else:
            # A flush that nobody waits for: it wakes the thread.
            self._flushes.put(threading.Event())
            self._thread.join(timeout_s - min(_METRICS_S, timeout_s * _METRICS_SHARE))
        with self._lock:
            self._sender.abandon()
            left = self._recorder.take(len(self._recorder))
            self._recorder.close()
            self._translator.add_tally(self._recorder.tally())
        # Only a remote exporter that hangs leaves anything; it must cost neither the
        # counts nor the copy on this machine.
        self._translator.measure(left)
        self._measure_timings(Naps(), last=True)
        self._make_spans(left)
        self._sender.keep_locally(self._made)
        self._sender.shutdown(deadline)
        if self._logs is not None:
            self._logs.shutdown(seconds_until(deadline) / 2)
        if self._meters is not None:
            self._meters.shutdown(seconds_until(deadline))

    @property
    def held_back(self) -> int:
        """How many items of spans the export guard did not let out."""
        return self._guard.dropped

    @property
    def idle(self) -> bool:
        """Whether nothing is being exported, nor will be by itself."""
        running = self._thread is not None and self._thread.is_alive()
        running = running or not self._sender.idle
        parts = (self._logs, self._meters)
        return not running and all(part is None or part.idle for part in parts)

    def _run(self) -> None:
        last, looks, wait_s = False, 0, self._poll_s
        while not last:
            looks += 1
            asked = self._asked_flushes(wait_s)
            wait_s = self._poll_s
            last = self._stopping
            if not (asked or last or looks % _POLLS == 0 or self._is_due()):
                continue
            try:
                self._work(asked)
            except BaseException:  # noqa: BLE001 - e.g. the panic of a Rust exporter
                self._complaints.warn("the translator recovered from an error")
            last = last or self._sender.abandoned
            if len(self._recorder) >= self._settings.export_batch_size:
                wait_s = 0.0

    def _is_due(self) -> bool:
        if self._made or len(self._recorder) >= self._enough:
            return True
        return self._sender.is_due(self._settings.schedule_delay_s)

    def _work(self, asked: list[threading.Event]) -> None:
        everything = bool(asked) or self._stopping
        try:
            began_s, waiting = time.monotonic(), len(self._recorder)
            number = waiting if everything else min(waiting, MAX_EXPORT_BATCH_SIZE)
            self._translate(number)
            if number == waiting:
                self._none_waited_s = began_s
            if everything:
                self._sender.finish()
            elif self._sender.is_due(self._settings.schedule_delay_s):
                self._sender.send()
        finally:
            for done in asked:
                done.set()

    def _translate(self, number: int) -> None:
        limit = max(
            self._settings.export_batch_size, min(number, MAX_EXPORT_BATCH_SIZE)
        )
        naps = Naps()
        while not self._sender.abandoned:
            # First what an exporter that raised has left.
            self._sender.add(self._made, limit, self._none_waited_s)
            records = self._recorder.take(min(number, self._slice)) if number else []
            if not records:
                break
            number -= len(records)
            self._translator.measure(records)
            self._make_spans(records)
            naps.step()
        self._measure_timings(naps)
        with self._lock:
            if not self._sender.abandoned:
                self._translator.add_tally(self._recorder.tally())

    def _measure_timings(self, naps: Naps, *, last: bool = False) -> None:
        timings = self._recorder.timings
        if timings is None:
            return
        left = len(timings)
        while left > 0:
            with self._lock:
                if self._sender.abandoned and not last:
                    return
                taken = timings.take(_TIMINGS)
            if taken is None:
                return
            self._translator.measure_timings(*taken)
            left -= len(taken[1])
            naps.step()

    def _make_spans(self, records: list[SpanRecord]) -> None:
        if not self._has_spans:
            return
        sampled = [record for record in records if record.rollout.sampled]
        made = self._translator.spans_of(sampled)
        if len(made) < len(sampled):
            self._sender.drop(len(sampled) - len(made))
        self._made += made

    def _asked_flushes(self, wait_s: float = 0.0) -> list[threading.Event]:
        asked: list[threading.Event] = []
        try:
            asked.append(self._flushes.get(wait_s > 0, wait_s or None))
            while True:
                asked.append(self._flushes.get_nowait())
        except Empty:
            return asked

    def _log_fates(self) -> Mapping[Fate, int]:
        return {} if self._logs is None else self._logs.fates

    def _lost(self) -> int:
        balance, logs = self._recorder.balance(), self._log_fates()
        lost_logs = logs.get(Fate.FAILED, 0) + logs.get(Fate.DROPPED, 0)
        return balance.failed + balance.dropped + lost_logs
