"""Record the metrics of each record on SDK instruments made from the catalogue."""

import logging
from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, Meter
from opentelemetry.sdk.metrics import (
    AlignedHistogramBucketExemplarReservoir,
    ExemplarReservoir,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, set_span_in_context

from otel_intercept import dialect, semconv
from otel_intercept.counters import CounterKey, counter_keys, keepalives_of
from otel_intercept.record import ExchangeEnded, Record, RolloutEnded
from otel_intercept.semconv import Instrument
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.model_label import ModelLabel
from otel_intercept.translate.possible import possible_counters
from otel_intercept.translate.spans import span_context_of

_NS_PER_S: Final = 1_000_000_000
# Not an empty context: the SDK takes an empty one for none, and uses the caller's.
_NO_SPAN: Final = set_span_in_context(INVALID_SPAN, Context())
_TOKEN_TYPES: Final = {
    semconv.GEN_AI_USAGE_INPUT_TOKENS: "input",
    semconv.GEN_AI_USAGE_OUTPUT_TOKENS: "output",
}

Labels: TypeAlias = dict[str, str | bool]

_logger: Final = logging.getLogger("otel_intercept.translate")


class Instruments:
    """Every instrument of the catalogue, on a meter of the SDK; fed by one thread.

    Slower than `Aggregates`, and for where these will not do.

    Counters start at 0 for every combination of labels that can occur, so that
    ``rate()`` sees the first failure. Measurements carry the context of the span that
    they were taken on, so that exemplars lead to it.

    Args:
        meter: Makes the instruments.
        model_label: Bounds the model names.
        counter_exemplars: Whether counters may have exemplars. Without our `views`,
            those of the SDK draw from the global ``random``, which training code seeds.
    """

    def __init__(
        self, meter: Meter, model_label: ModelLabel, *, counter_exemplars: bool = True
    ) -> None:
        self._model_label = model_label
        self._counter_exemplars = counter_exemplars
        self._counters = {
            instrument.name: (
                instrument.labels,
                meter.create_counter(
                    instrument.name, instrument.unit, instrument.description
                ),
            )
            for instrument in (
                semconv.ROLLOUTS,
                semconv.EXCHANGES,
                semconv.EXCHANGES_REPLAYED,
                semconv.KEEPALIVES,
                semconv.FAILURES,
            )
        }
        self._rollout_duration = _histogram(meter, semconv.ROLLOUT_DURATION)
        self._exchange_duration = _histogram(meter, semconv.EXCHANGE_DURATION)
        self._upstream_duration = _histogram(meter, semconv.UPSTREAM_DURATION)
        self._first_chunk = _histogram(meter, semconv.TIME_TO_FIRST_CHUNK)
        self._max_gap = _histogram(meter, semconv.MAX_GAP)
        self._token_usage = _histogram(meter, semconv.TOKEN_USAGE)
        self._tallied: dict[CounterKey, int] = {}
        self._complaints = Complaints(_logger)
        for key in possible_counters():
            self._count(key, 0, _NO_SPAN)

    def record(self, *records: Record) -> None:
        """Count records and measure their durations."""
        for record in records:
            try:
                self._record(record)
            except Exception:  # noqa: BLE001 - one bad record must not stop the others
                self._complaints.warn("the metrics of a record could not be recorded")

    def add_tally(self, tally: Mapping[CounterKey, int]) -> None:
        """Count what the recorder had to drop since the last call."""
        for key, total in tally.items():
            missed = total - self._tallied.get(key, 0)
            if missed:
                self._count(key, missed, _NO_SPAN)
                self._tallied[key] = total

    def _record(self, record: Record) -> None:
        context = _context_of(record)
        counted = context if self._counter_exemplars else _NO_SPAN
        for key in counter_keys(record):
            self._count(key, 1, counted)
        if (keepalives := keepalives_of(record)) is not None:
            self._count(*keepalives, counted)
        match record:
            case RolloutEnded():
                self._rollout_duration.record(
                    _seconds(record.rollout.start_ns, record.end_ns),
                    {semconv.ROLLOUT_OUTCOME: record.outcome.value},
                    context,
                )
            case ExchangeEnded():
                self._measure_exchange(record, context)
            case _:
                pass

    def _count(self, key: CounterKey, number: int, context: Context) -> None:
        name, values = key
        labels, counter = self._counters[name]
        counter.add(number, dict(zip(labels, values, strict=True)), context)

    def _measure_exchange(self, record: ExchangeEnded, context: Context) -> None:
        model = self._model_label(record.asked.model)
        spoken = record.request.dialect
        shape: Labels = {
            semconv.EXCHANGE_DIALECT: spoken.value,
            semconv.GEN_AI_REQUEST_MODEL: model,
        }
        ended: Labels = {
            **shape,
            semconv.EXCHANGE_OUTCOME: record.outcome.value,
            semconv.EXCHANGE_STREAM: record.stream,
        }
        self._exchange_duration.record(
            _seconds(record.start_ns, record.end_ns), ended, context
        )
        for wait in record.waits:
            labels = dict(shape)
            if wait.error_type is not None:
                labels[semconv.ERROR_TYPE] = wait.error_type.value
            self._upstream_duration.record(
                _seconds(wait.start_ns, wait.end_ns), labels, context
            )
        facts = record.facts
        if facts is not None and facts.time_to_first_chunk_s is not None:
            self._first_chunk.record(facts.time_to_first_chunk_s, shape, context)
            self._max_gap.record(facts.max_gap_s, shape, context)
        for key, value in record.response:
            token_type = _TOKEN_TYPES.get(key)
            if token_type is not None and type(value) is int:
                usage: Labels = {
                    semconv.GEN_AI_OPERATION_NAME: dialect.operation_of(spoken),
                    semconv.GEN_AI_PROVIDER_NAME: dialect.provider_of(spoken),
                    semconv.GEN_AI_TOKEN_TYPE: token_type,
                    semconv.GEN_AI_REQUEST_MODEL: model,
                }
                self._token_usage.record(value, usage, context)


def views() -> list[View]:
    """Return the views that give histograms their buckets and counters their exemplars.

    The SDK's own choice for counters draws from the global ``random``, and so would
    change the numbers that seeded training code gets.
    """
    return [_view(instrument) for instrument in semconv.INSTRUMENTS]


def _last_measurement(_aggregation: type[object]) -> Callable[..., ExemplarReservoir]:
    return _one_exemplar


def _one_exemplar(**_: object) -> ExemplarReservoir:
    return AlignedHistogramBucketExemplarReservoir(())


def _view(instrument: Instrument) -> View:
    if instrument.kind == "histogram":
        return View(
            instrument_name=instrument.name,
            aggregation=ExplicitBucketHistogramAggregation(instrument.buckets),
        )
    return View(
        instrument_name=instrument.name, exemplar_reservoir_factory=_last_measurement
    )


def _histogram(meter: Meter, instrument: Instrument) -> Histogram:
    # The boundaries for a provider that is not ours, and has not our views.
    return meter.create_histogram(
        instrument.name,
        instrument.unit,
        instrument.description,
        explicit_bucket_boundaries_advisory=instrument.buckets,
    )


def _context_of(record: Record) -> Context:
    span = span_context_of(record)
    if span is None:
        return _NO_SPAN
    return set_span_in_context(NonRecordingSpan(span), _NO_SPAN)


def _seconds(start_ns: int, end_ns: int) -> float:
    return max(end_ns - start_ns, 0) / _NS_PER_S
