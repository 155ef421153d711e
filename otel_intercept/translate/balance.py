"""The balance sheet as metrics: one snapshot for all instruments of a collection."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Final, TypeAlias

from opentelemetry.context import Context
from opentelemetry.metrics import CallbackOptions, Meter, Observation
from opentelemetry.trace import INVALID_SPAN, set_span_in_context

from otel_intercept import semconv
from otel_intercept.recorder import Balance
from otel_intercept.semconv import Fate, Instrument, Signal

Fates: TypeAlias = Mapping[Fate, int]
Reading: TypeAlias = tuple[tuple[str, ...], float]
"""Label values in the order of ``Instrument.labels``, and the value."""

# Not an empty context: the SDK takes an empty one for none, and uses the caller's.
_NO_SPAN: Final = set_span_in_context(INVALID_SPAN, Context())

OBSERVED: Final = (
    semconv.RECORDS,
    semconv.RECORDS_STARTED,
    semconv.RECORDS_QUEUED,
    semconv.RECORDS_OPEN,
    semconv.ROLLOUTS_ACTIVE,
    semconv.ROLLOUTS_OLDEST,
)
"""The instruments that are read when metrics are collected, in that order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BalanceSheet:
    """Where the observed instruments have their values from; any thread may read.

    Args:
        balance: Returns the balance of the traces signal, in records.
        metric_fates: Returns the fates of the metrics signal, in data points.
        log_fates: Returns the fates of the logs signal, in log records.
        open_rollouts: Returns how many rollouts are open.
        oldest_rollout_s: Returns the age of the oldest of them, in seconds.
    """

    balance: Callable[[], Balance]
    metric_fates: Callable[[], Fates]
    log_fates: Callable[[], Fates]
    open_rollouts: Callable[[], int]
    oldest_rollout_s: Callable[[], float]

    def read(self) -> Mapping[Instrument, tuple[Reading, ...]]:
        """Return one snapshot, by instrument."""
        balance = self.balance()
        fates = {
            Signal.TRACES: {
                Fate.EXPORTED: balance.exported,
                Fate.FAILED: balance.failed,
                Fate.DROPPED: balance.dropped,
            },
            Signal.METRICS: self.metric_fates(),
            Signal.LOGS: self.log_fates(),
        }
        return {
            semconv.RECORDS: tuple(
                ((signal.value, fate.value), fates[signal].get(fate, 0))
                for signal, fate in product(Signal, Fate)
            ),
            semconv.RECORDS_STARTED: (((), balance.started),),
            semconv.RECORDS_QUEUED: (((), balance.queued),),
            semconv.RECORDS_OPEN: (((), balance.open),),
            semconv.ROLLOUTS_ACTIVE: (((), self.open_rollouts()),),
            semconv.ROLLOUTS_OLDEST: (((), self.oldest_rollout_s()),),
        }


class BalanceInstruments:
    """The balance sheet as observable instruments of the SDK.

    The SDK calls the callbacks of one collection one after the other, in the order of
    their creation, under its lock: the first one takes the snapshot for all.

    Args:
        meter: Makes the instruments.
        sheet: What they show.
    """

    def __init__(self, meter: Meter, sheet: BalanceSheet) -> None:
        self._sheet = sheet
        self._latest = sheet.read()
        create = {
            "counter": meter.create_observable_counter,
            "gauge": meter.create_observable_gauge,
            "updowncounter": meter.create_observable_up_down_counter,
        }
        for instrument in OBSERVED:
            create[instrument.kind](
                instrument.name,
                [self._callback(instrument)],
                instrument.unit,
                instrument.description,
            )

    def _callback(
        self, instrument: Instrument
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observe(_options: CallbackOptions) -> Iterable[Observation]:
            if instrument is OBSERVED[0]:
                self._latest = self._sheet.read()
            return [
                Observation(
                    value, dict(zip(instrument.labels, labels, strict=True)), _NO_SPAN
                )
                for labels, value in self._latest[instrument]
            ]

        return observe
