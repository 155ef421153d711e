"""The one telemetry object of a process: takes records, owns what is behind them."""

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol, Self

from otel_intercept.errors import ConfigurationError
from otel_intercept.forks import Forked, after_fork
from otel_intercept.record import ExchangeEnded, Record
from otel_intercept.recorder import Balance, Recorder
from otel_intercept.settings import Settings
from otel_intercept.timings import Timings

if TYPE_CHECKING:
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import LogRecordExporter
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from otel_intercept.exchange import Exchange
    from otel_intercept.process.recorder import ProcessRecorder

__all__ = ["Balance", "Settings", "Telemetry"]

_logger: Final = logging.getLogger("otel_intercept.telemetry")

_LONGEST_S: Final = 1e6


class Intake(Protocol):
    """Where the event loop hands records over: O(1), never blocks, never raises."""

    @property
    def timings(self) -> Timings | None:
        """Takes what unsampled exchanges have measured; None if nobody does."""
        ...

    def begin(self, sampled: bool, exchange: "Exchange | None" = None) -> None:  # noqa: FBT001 - the hot path is positional
        """Count a record that has begun."""
        ...

    def put(self, record: Record) -> None:
        """Take an ended record, or drop and count it."""
        ...

    def put_exchange(self, exchange: ExchangeEnded) -> None:
        """Do the same for an exchange, which most records are."""
        ...

    def balance(self) -> Balance:
        """Return what became of every record so far."""
        ...


class Engine(Protocol):
    """What exports the records that the intake has taken, in whichever process."""

    def sample(self, trace_id: int) -> bool:
        """Decide whether a rollout has spans."""
        ...

    def allow_attribute_keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Let operator attributes out; return those that were taken."""
        ...

    def flush(self, timeout_s: float) -> bool:
        """Export what has ended. True when all of it was confirmed in time."""
        ...

    def shutdown(self, timeout_s: float) -> None:
        """Export what can be in time, settle the rest, stop everything."""
        ...

    @property
    def held_back(self) -> int:
        """How many items of spans were not let out."""
        ...

    @property
    def idle(self) -> bool:
        """Whether nothing is being exported, nor will be by itself."""
        ...


class Telemetry:
    """Takes ended records on the event loop and has them exported off it.

    One per process, made after any fork by ``otel_intercept.sdk.configure`` or by
    ``otel_intercept.testing.TelemetryRecorder``. In a fork of the process all is
    dropped and counted, and one warning says so. Without an exporter and a reader it is
    disabled: nothing is started, counted or imported.

    ``begin``, ``put`` and ``sample`` belong to the event loop's thread; they take no
    lock, never block and never raise. ``flush`` and ``shutdown`` block: call them in
    an executor when a loop is running.

    Spans and metrics go to exporters of our own, or to providers that the application
    has already: then its resource, sampler, limits, processors and readers apply, with
    the export guard before them. A record counts as exported when the tracer provider
    has taken it; what a processor loses after that is not known here. A flush ends in a
    flush of the providers; they are never shut down, so shut this down before them.
    On one meter provider, the instruments of the balance are those of the first
    telemetry.

    Args:
        span_exporter: Where spans go. Behind the export guard, which is added here.
            Without one, no rollout is sampled and only metrics leave.
        metric_reader: How metrics leave. Use ``GuardedMetricReader`` (in
            ``otel_intercept.translate.guarded``) to put the export guard before a push
            exporter.
        resource: Who the telemetry is from, where no provider says. Empty by default.
        settings: How to sample, queue, batch and label.
        tracer_provider: An SDK tracer provider to use in place of a span exporter. Its
            sampler decides once per rollout, unless the settings have one.
        meter_provider: An SDK meter provider to use in place of a metric reader.
            Counters have no exemplars there, and measuring costs more, since it is
            done by instruments of the SDK rather than by aggregates of ours.
        log_exporter: Where failures go as log records (``intercept.failure``), sampled
            or not, from a thread of their own. Behind the export guard.
        logger_provider: An SDK logger provider to use in place of a log exporter.

    Raises:
        ConfigurationError: A provider is given together with what it replaces, or is
            none of the SDK.
    """

    def __init__(
        self,
        *,
        span_exporter: "SpanExporter | None" = None,
        metric_reader: "MetricReader | None" = None,
        resource: "Resource | None" = None,
        settings: Settings | None = None,
        tracer_provider: "TracerProvider | None" = None,
        meter_provider: "MeterProvider | None" = None,
        log_exporter: "LogRecordExporter | None" = None,
        logger_provider: "LoggerProvider | None" = None,
    ) -> None:
        _only_one(span_exporter=span_exporter, tracer_provider=tracer_provider)
        _only_one(metric_reader=metric_reader, meter_provider=meter_provider)
        _only_one(log_exporter=log_exporter, logger_provider=logger_provider)
        self._settings = settings or Settings()
        has_spans = not (span_exporter is None and tracer_provider is None)
        recorder = Recorder(self._settings.queue_size, spans=has_spans)
        self._intake: Intake = recorder
        self._recorder = recorder
        self._engine: Engine | None = None
        self._callbacks: list[Callable[[], None]] = []
        self._is_shut_down = False
        others = (metric_reader, meter_provider, log_exporter, logger_provider)
        if not has_spans and others == (None,) * len(others):
            return
        if self._settings.recorder == "process":
            raise ConfigurationError(
                "recorder 'process' is for otel_intercept.sdk.configure: exporters, "
                "readers and providers cannot be handed to another process; use "
                "'thread'"
            )
        # Imported late, so that a disabled process never loads the SDK.
        from otel_intercept.translate import pipeline, provided

        if tracer_provider is not None:
            span_exporter = provided.adopt_tracer_provider(tracer_provider)
        if meter_provider is not None:
            meter_provider = provided.adopt_meter_provider(meter_provider)
        if logger_provider is not None:
            log_exporter = provided.adopt_logger_provider(logger_provider)
        engine = pipeline.Pipeline(
            recorder,
            self._settings,
            span_exporter=span_exporter,
            metrics=metric_reader or meter_provider,
            log_exporter=log_exporter,
            resource=resource,
        )
        engine.start()
        self._engine = engine
        after_fork(self._disown)

    @classmethod
    def through(cls, recorder: "ProcessRecorder", settings: Settings) -> Self:
        """Return telemetry that goes through a recorder which runs already."""
        telemetry = cls(settings=settings)
        telemetry._intake = recorder.intake
        telemetry._engine = recorder
        return telemetry

    @property
    def enabled(self) -> bool:
        """Whether anything is recorded."""
        return self._engine is not None

    @property
    def intake(self) -> Intake | None:
        """Where records are handed over, without a step between; None if disabled."""
        return None if self._engine is None else self._intake

    @property
    def settings(self) -> Settings:
        """The settings that this telemetry was made with."""
        return self._settings

    def sample(self, trace_id: int) -> bool:
        """Decide, once per rollout, whether its spans are exported.

        A sampler that raises counts as a yes: telemetry is not lost to its mistake.
        """
        return self._engine is not None and self._engine.sample(trace_id)

    def begin(self, sampled: bool, exchange: "Exchange | None" = None) -> None:  # noqa: FBT001 - the hot path is positional
        """Count a record that has begun: rollout root, marker, exchange or failure.

        Args:
            sampled: Whether the record's rollout is sampled; if not, nothing counts.
            exchange: The exchange, where it is one.
        """
        if self._engine is not None:
            self._intake.begin(sampled, exchange)

    def put(self, record: Record) -> None:
        """Hand over an ended record: O(1), no lock, never blocks, never raises.

        Records of unsampled rollouts and rejected exchanges become metrics only.
        """
        if self._engine is not None:
            self._intake.put(record)

    def declare_attribute_keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Let operator attributes of rollouts through the export guard.

        Args:
            keys: Attribute keys, already checked for their form.

        Returns:
            The keys that may be used: at most 64 distinct ones per process, none of
            them a key of ours. The rest is dropped and counted. Idempotent.
        """
        if self._engine is None:
            return frozenset(keys)
        return self._engine.allow_attribute_keys(keys)

    def add_shutdown_callback(self, callback: Callable[[], None]) -> None:
        """Have ``callback`` called first at shutdown, to end what is still open."""
        self._callbacks.append(callback)

    def remove_shutdown_callback(self, callback: Callable[[], None]) -> None:
        """Forget a shutdown callback, for who ends before the process. Idempotent."""
        if callback in self._callbacks:
            self._callbacks.remove(callback)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Export everything that has ended, metrics included. Blocks.

        Args:
            timeout_s: Seconds to wait at most.

        Returns:
            True when all of it was confirmed in time; False otherwise.
        """
        if self._engine is None:
            return True
        return self._engine.flush(_seconds(timeout_s))

    def shutdown(self, timeout_s: float = 5.0) -> Balance:
        """Close what is open, export what can be, stop, and log the balance at INFO.

        Blocks, but not beyond ``timeout_s`` seconds, also when the collector hangs:
        what was being sent then counts as failed, what waited as dropped. Idempotent.

        Returns:
            The final balance.
        """
        if self._is_shut_down or self._engine is None:
            return self.balance()
        self._is_shut_down = True
        for callback in self._callbacks:
            try:
                callback()
            except Exception:  # noqa: BLE001 - shutdown goes on; the text is not ours
                _logger.warning("a shutdown callback failed")
        self._engine.shutdown(_seconds(timeout_s))
        balance = self.balance()
        _logger.info(
            "telemetry balance: started=%d ended=%d open=%d exported=%d failed=%d "
            "dropped=%d queued=%d",
            *balance,
        )
        if self._engine.held_back:
            _logger.warning(
                "the export guard held back %d items that are not allowed to leave",
                self._engine.held_back,
            )
        return balance

    def _disown(self) -> None:
        """Drop and count everything from now on: this is a fork of the process."""
        if self._engine is not None:
            self._engine = Forked(self._recorder, self._engine)

    @property
    def idle(self) -> bool:
        """Whether no export runs: so after a shutdown that did not have to give up."""
        return self._engine is None or self._engine.idle

    def balance(self) -> Balance:
        """Return what became of every record so far; consistent at any time."""
        return self._intake.balance()


def _seconds(timeout_s: float) -> float:
    # Whoever says infinity means it, but no clock can wait for that.
    return min(max(0.0, timeout_s), _LONGEST_S)


def _only_one(**given: object) -> None:
    if None not in given.values():
        raise ConfigurationError(f"give {' or '.join(given)}, not both")
