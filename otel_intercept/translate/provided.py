"""Hand finished telemetry over to the application's own OTel providers."""

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Final

from opentelemetry._logs import LogRecord
from opentelemetry.context import Context
from opentelemetry.sdk._logs import Logger, LoggerProvider, ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import ReadableSpan, Tracer, TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, Sampler
from opentelemetry.trace import (
    INVALID_SPAN,
    INVALID_SPAN_CONTEXT,
    NonRecordingSpan,
    SpanContext,
    set_span_in_context,
)

from otel_intercept.errors import ConfigurationError
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.scope import SCOPE

MAX_BURST: Final = 512
"""Items that are handed over before the provider is flushed: a batch of the SDK's."""

_logger: Final = logging.getLogger("otel_intercept.translate")


class ProviderSpanExporter(SpanExporter):
    """Replays finished spans into a tracer provider that belongs to the application.

    Each becomes a span of that provider, with the ids, parent and times that it has
    already; so the provider's processors see its start and its end, and the provider's
    resource and span limits apply. The provider is flushed, after every 512 spans at
    the latest, and never shut down.

    Used by one thread at a time.

    Args:
        provider: The application's SDK tracer provider.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._complaints = Complaints(_logger)
        self._pace = _Pace(provider.force_flush, self._complaints)

    @property
    def sampler(self) -> Sampler:
        """What decides which rollouts have spans: the application's own sampler."""
        return self._provider.sampler if self._shared_tracer() else ALWAYS_OFF

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Hand the spans over; SUCCESS when the provider took every one. Never raises.

        What a processor queues, drops or loses after that is not known here. Where one
        raises the batch is a FAILURE, though the others may have had the span; the
        spans after it are handed over all the same.
        """
        shared = self._shared_tracer()
        if shared is None:
            return SpanExportResult.FAILURE
        # A copy, since the provider gives the same tracer to all who ask for our scope.
        # Made anew each time, since the provider may have changed the original.
        tracer, ids = copy.copy(shared), _GivenIds()
        tracer.id_generator = ids
        # The decision is made already, when the rollout opens.
        tracer.sampler = ALWAYS_ON
        taken = [self._hand_over(span, tracer, ids) for span in spans]
        return SpanExportResult.SUCCESS if all(taken) else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the provider's processors. Blocks, and raises what they raise."""
        return self._provider.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Flush the provider's processors; whoever made the provider shuts it down."""
        self._provider.force_flush()

    def _shared_tracer(self) -> Tracer | None:
        # A disabled SDK gives a tracer that does nothing.
        tracer = self._provider.get_tracer(SCOPE.name, SCOPE.version)
        return tracer if isinstance(tracer, Tracer) else None

    def _hand_over(
        self, finished: ReadableSpan, tracer: Tracer, ids: "_GivenIds"
    ) -> bool:
        ids.context = finished.context or INVALID_SPAN_CONTEXT
        self._pace.step()
        try:
            span = tracer.start_span(
                finished.name,
                _parent_context(finished.parent),
                finished.kind,
                finished.attributes,
                finished.links,
                finished.start_time,
                record_exception=False,
                set_status_on_exception=False,
            )
            if not span.is_recording():
                return False
            for event in finished.events:
                span.add_event(event.name, event.attributes, event.timestamp)
            span.set_status(finished.status)
            span.end(finished.end_time)
        except Exception:  # noqa: BLE001 - a processor's mistake, whose text may leak
            self._complaints.warn("a span processor of the application raised")
            return False
        return True


class ProviderLogExporter(LogRecordExporter):
    """Emits log records on a logger provider that belongs to the application.

    The provider is flushed, never shut down.

    Args:
        provider: The application's SDK logger provider.
    """

    def __init__(self, provider: LoggerProvider) -> None:
        self._provider = provider
        self._complaints = Complaints(_logger)
        self._pace = _Pace(provider.force_flush, self._complaints)

    def export(self, batch: Sequence[ReadableLogRecord]) -> LogRecordExportResult:
        """Emit the log records; SUCCESS when all were taken. Never raises."""
        logger = self._provider.get_logger(SCOPE.name, SCOPE.version)
        # A disabled SDK gives a logger that does nothing.
        if not isinstance(logger, Logger):
            return LogRecordExportResult.FAILURE
        taken = [self._emit(logger, log.log_record) for log in batch]
        if all(taken):
            return LogRecordExportResult.SUCCESS
        return LogRecordExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Flush the provider's processors. Blocks, and raises what they raise."""
        return self._provider.force_flush(timeout_millis)

    def shutdown(self) -> None:
        """Flush the provider's processors; whoever made the provider shuts it down."""
        self._provider.force_flush()

    def _emit(self, logger: Logger, record: LogRecord) -> bool:
        self._pace.step()
        try:
            logger.emit(record)
        except Exception:  # noqa: BLE001 - a processor's mistake, whose text may leak
            self._complaints.warn("a log processor of the application raised")
            return False
        return True


class _Pace:
    """Flushes a provider after so many items, so that a burst fills no queue of it.

    The SDK's batch processors hold 2048 items, and drop more of them without a count.
    While one is flushed, ours waits in its own queue, which is larger and counted.
    """

    def __init__(self, flush: Callable[[], object], complaints: Complaints) -> None:
        self._flush = flush
        self._complaints = complaints
        self._number = 0

    def step(self) -> None:
        """Count an item that is about to be handed over. Blocks while it flushes."""
        if self._number == MAX_BURST:
            self._number = 0
            try:
                self._flush()
            except Exception:  # noqa: BLE001 - a processor's mistake, whose text may leak
                self._complaints.warn("a processor of the application failed to flush")
        self._number += 1


class _GivenIds(IdGenerator):
    """Gives out the ids that the span in hand has already."""

    def __init__(self) -> None:
        self.context: SpanContext = INVALID_SPAN_CONTEXT

    def generate_span_id(self) -> int:
        return self.context.span_id

    def generate_trace_id(self) -> int:
        return self.context.trace_id


def adopt_tracer_provider(provider: object) -> ProviderSpanExporter:
    """Return what hands spans over to the provider.

    Raises:
        ConfigurationError: It is no tracer provider of the SDK.
    """
    if not isinstance(provider, TracerProvider):
        raise ConfigurationError("tracer_provider must be a TracerProvider of the SDK")
    return ProviderSpanExporter(provider)


def adopt_meter_provider(provider: object) -> MeterProvider:
    """Return the provider.

    Raises:
        ConfigurationError: It is no meter provider of the SDK.
    """
    if not isinstance(provider, MeterProvider):
        raise ConfigurationError("meter_provider must be a MeterProvider of the SDK")
    return provider


def adopt_logger_provider(provider: object) -> ProviderLogExporter:
    """Return what emits log records on the provider.

    Raises:
        ConfigurationError: It is no logger provider of the SDK.
    """
    if not isinstance(provider, LoggerProvider):
        raise ConfigurationError("logger_provider must be a LoggerProvider of the SDK")
    return ProviderLogExporter(provider)


def _parent_context(parent: SpanContext | None) -> Context:
    # An explicit context without a span, since none at all would mean the caller's.
    span = INVALID_SPAN if parent is None else NonRecordingSpan(parent)
    return set_span_in_context(span, Context())
