"""Record the metrics of each record on SDK instruments made from the catalogue."""

from collections.abc import Callable, Iterable, Mapping
from itertools import product
from typing import Final, TypeAlias

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation
from opentelemetry.sdk.metrics import (
    AlignedHistogramBucketExemplarReservoir,
    ExemplarReservoir,
)
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.trace import INVALID_SPAN, NonRecordingSpan, set_span_in_context

from otel_intercept import dialect, semconv
from otel_intercept.record import ExchangeEnded, Record, RolloutEnded
from otel_intercept.recorder import (
    Balance,
    CounterKey,
    counter_keys,
    keepalives_of,
)
from otel_intercept.semconv import Fate, Instrument, Signal
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
Fates: TypeAlias = Mapping[Fate, int]


class ModelLabel:
    """Turns model names into a bounded set of label values.

    A model name is text from the agent, so its number has to be bounded here.

    Args:
        allowed: The names that may be labels; None allows any until the cap.
        cap: Distinct names before the rest becomes ``_OTHER``.
    """

    def __init__(self, allowed: frozenset[str] | None, cap: int) -> None:
        self._allowed = allowed
        self._cap = cap
        self._seen: set[str] = set()

    def __call__(self, model: str | None) -> str:
        """Return the label of a model; ``_OTHER`` when unknown or beyond the cap."""
        if model is None:
            return semconv.OTHER
        if model in self._seen:
            return model
        if self._allowed is not None and model not in self._allowed:
            return semconv.OTHER
        if len(self._seen) >= self._cap:
            return semconv.OTHER
        self._seen.add(model)
        return model


class Instruments:
    """Every instrument of the catalogue, fed by one thread.

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
        for key in possible_counters():
            self._count(key, 0, _NO_SPAN)

    def record(self, record: Record) -> None:
        """Count a record and measure its durations."""
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

    def add_tally(self, tally: Mapping[CounterKey, int]) -> None:
        """Count what the recorder had to drop since the last call."""
        for key, total in tally.items():
            missed = total - self._tallied.get(key, 0)
            if missed:
                self._count(key, missed, _NO_SPAN)
                self._tallied[key] = total

    def _count(self, key: CounterKey, number: int, context: Context) -> None:
        name, values = key
        labels, counter = self._counters[name]
        counter.add(number, dict(zip(labels, values, strict=True)), context)

    def _measure_exchange(self, record: ExchangeEnded, context: Context) -> None:
        model = self._model_label(record.model)
        shape: Labels = {
            semconv.EXCHANGE_DIALECT: record.dialect.value,
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
                    semconv.GEN_AI_OPERATION_NAME: dialect.operation_of(record.dialect),
                    semconv.GEN_AI_PROVIDER_NAME: dialect.provider_of(record.dialect),
                    semconv.GEN_AI_TOKEN_TYPE: token_type,
                    semconv.GEN_AI_REQUEST_MODEL: model,
                }
                self._token_usage.record(value, usage, context)


class BalanceInstruments:
    """The balance sheet as observable instruments, one snapshot per collection.

    The SDK calls the callbacks of one collection one after the other, in the order of
    their creation, under its lock: the first one takes the snapshot for all.

    Args:
        meter: Makes the instruments.
        balance: Returns the balance of the traces signal, in records.
        metric_fates: Returns the fates of the metrics signal, in data points.
        log_fates: Returns the fates of the logs signal, in log records.
        open_rollouts: Returns how many rollouts are open.
        oldest_rollout_s: Returns the age of the oldest of them, in seconds.
    """

    def __init__(
        self,
        meter: Meter,
        *,
        balance: Callable[[], Balance],
        metric_fates: Callable[[], Fates],
        log_fates: Callable[[], Fates],
        open_rollouts: Callable[[], int],
        oldest_rollout_s: Callable[[], float],
    ) -> None:
        self._read_balance = balance
        self._read_metric_fates = metric_fates
        self._read_log_fates = log_fates
        self._read_open_rollouts = open_rollouts
        self._read_oldest_rollout_s = oldest_rollout_s
        self._balance = balance()
        for create, instrument, callback in (
            (meter.create_observable_counter, semconv.RECORDS, self._records),
            (meter.create_observable_counter, semconv.RECORDS_STARTED, self._started),
            (meter.create_observable_gauge, semconv.RECORDS_QUEUED, self._queued),
            (meter.create_observable_gauge, semconv.RECORDS_OPEN, self._open),
            (meter.create_observable_gauge, semconv.ROLLOUTS_OLDEST, self._oldest),
            (
                meter.create_observable_up_down_counter,
                semconv.ROLLOUTS_ACTIVE,
                self._active,
            ),
        ):
            create(instrument.name, [callback], instrument.unit, instrument.description)

    def _records(self, _options: CallbackOptions) -> Iterable[Observation]:
        self._balance = self._read_balance()
        fates = {
            Signal.TRACES: {
                Fate.EXPORTED: self._balance.exported,
                Fate.FAILED: self._balance.failed,
                Fate.DROPPED: self._balance.dropped,
            },
            Signal.METRICS: self._read_metric_fates(),
            Signal.LOGS: self._read_log_fates(),
        }
        for signal, fate in product(Signal, Fate):
            labels = {
                semconv.RECORD_SIGNAL: signal.value,
                semconv.RECORD_FATE: fate.value,
            }
            yield Observation(fates[signal].get(fate, 0), labels, _NO_SPAN)

    def _started(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._balance.started, context=_NO_SPAN)]

    def _queued(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._balance.queued, context=_NO_SPAN)]

    def _open(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._balance.open, context=_NO_SPAN)]

    def _active(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._read_open_rollouts(), context=_NO_SPAN)]

    def _oldest(self, _options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(self._read_oldest_rollout_s(), context=_NO_SPAN)]


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
