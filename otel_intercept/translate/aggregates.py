"""Add up the metrics of records without an instrument of the SDK."""

import logging
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from otel_intercept import semconv
from otel_intercept.counters import CounterKey, counter_keys, exchanges_key
from otel_intercept.record import ExchangeEnded, FailureSeen, Record, RolloutEnded
from otel_intercept.semconv import ExchangeOutcome
from otel_intercept.timings import Kind, Timing
from otel_intercept.translate.complaints import Complaints
from otel_intercept.translate.interval import Interval, Measurement
from otel_intercept.translate.measurements import (
    Measured,
    counted,
    measured,
    measured_timings,
    seconds_between,
)
from otel_intercept.translate.model_label import ModelLabel
from otel_intercept.translate.possible import possible_counters

Exemplars: TypeAlias = Literal["sampled", "all", "none"]
"""Which measurements are exemplars: those of sampled rollouts, all, or none."""

_BATCH: Final = 128
"""Records that wait to be added up together: a fraction of a millisecond's work."""

_logger: Final = logging.getLogger("otel_intercept.translate")


class Aggregates:
    """Adds up what records measure, for one reader that takes it from time to time.

    Records wait until there are some, and those alike are added up together. What is
    taken is added to no more, so that it can be merged at leisure: the lock is held for
    a batch of records, or while two references change places. The event loop never
    takes it. The first interval has every series of the counters that can occur, at 0.

    Args:
        model_label: Bounds the model names.
        exemplars: Which measurements are exemplars.
    """

    def __init__(self, model_label: ModelLabel, exemplars: Exemplars) -> None:
        self._model_label = model_label
        self._exemplars = exemplars
        self._pending: list[Record] = []
        self._tallied: dict[CounterKey, int] = {}
        self._interval = Interval()
        for key in possible_counters():
            self._interval.count(key)
        self._complaints = Complaints(_logger)
        self._lock = threading.Lock()

    def record(self, *records: Record) -> None:
        """Count records and measure their durations."""
        with self._lock:
            self._pending += records
            if len(self._pending) >= _BATCH:
                self._add_pending()

    @property
    def takes_timings(self) -> bool:
        """Whether an exchange of an unsampled rollout needs to be no exemplar."""
        return self._exemplars != "all"

    def add_timings(self, kind: Kind, timings: Sequence[Timing]) -> None:
        """Count and measure exchanges of a kind that made no record, at least one."""
        with self._lock:
            if not self._add_timings(kind, timings):
                for one in timings:
                    if not self._add_timings(kind, (one,)):
                        self._complain()

    def add_tally(self, tally: Mapping[CounterKey, int]) -> None:
        """Count what the recorder had to drop since the last call."""
        if tally == self._tallied:
            return
        with self._lock:
            for key, total in tally.items():
                missed = total - self._tallied.get(key, 0)
                if missed:
                    self._interval.count(key).add(missed)
                    self._tallied[key] = total

    def take(self) -> Interval:
        """Return what was added since the last call, and begin anew. Any thread."""
        fresh = Interval()
        with self._lock:
            self._add_pending()
            taken, self._interval = self._interval, fresh
        return taken

    def _add_pending(self) -> None:
        pending, self._pending = self._pending, []
        exchanges: defaultdict[object, list[ExchangeEnded]] = defaultdict(list)
        for record in pending:
            if isinstance(record, ExchangeEnded):
                # All that the series depend on that nearly all records add to.
                kind = (
                    record.outcome, record.stream, record.request.dialect,
                    record.asked.model, record.rollout.sampled,
                )  # fmt: skip
                exchanges[kind].append(record)
            else:
                self._add_other(record)
        for alike in exchanges.values():
            if not self._add_exchanges(alike):
                for one in alike:
                    if not self._add_exchanges([one]):
                        self._complain()

    def _add_exchanges(self, alike: list[ExchangeEnded]) -> bool:
        """Add up exchanges of a kind. False, and nothing is added, if one is bad."""
        try:
            model = self._model_label(alike[0].asked.model)
            values, counts = list(measured(alike, model)), list(counted(alike))
        except Exception:  # noqa: BLE001 - one bad record must not stop the others
            return False
        marked = self._are_exemplars(alike[0])
        exchanges, *_ = counter_keys(alike[0])
        self._interval.count(exchanges).add(
            1, alike[-1] if marked else None, times=len(alike)
        )
        for count in counts:
            self._interval.count(count.key).add(
                count.number, alike[count.place] if marked else None
            )
        self._add_measured(values, alike if marked else None)
        return True

    def _add_timings(self, kind: Kind, timings: Sequence[Timing]) -> bool:
        spoken, asked = kind
        try:
            model = self._model_label(asked.model)
            values = list(measured_timings(kind, timings, model))
        except Exception:  # noqa: BLE001 - one bad measurement must not stop the others
            return False
        exchanges = exchanges_key(ExchangeOutcome.OK, spoken, stream=asked.stream)
        self._interval.count(exchanges).add(1, times=len(timings))
        self._add_measured(values, None)
        return True

    def _add_measured(
        self, values: Sequence[Measured], records: Sequence[ExchangeEnded] | None
    ) -> None:
        for each in values:
            marks = records
            if records is not None and each.places is not None:
                marks = [records[place] for place in each.places]
            self._interval.distribution(each.instrument, each.labels).add(
                each.values, marks
            )

    def _add_other(self, record: Record) -> None:
        try:
            marked = None
            if isinstance(record, RolloutEnded | FailureSeen):
                marked = record if self._are_exemplars(record) else None
            for key in counter_keys(record):
                self._interval.count(key).add(1, marked)
            if isinstance(record, RolloutEnded):
                took_s = seconds_between(record.rollout.start_ns, record.end_ns)
                self._interval.distribution(
                    semconv.ROLLOUT_DURATION, (record.outcome.value,)
                ).add([took_s], None if marked is None else [record])
        except Exception:  # noqa: BLE001 - one bad record must not stop the others
            self._complain()

    def _complain(self) -> None:
        self._complaints.warn("the metrics of a record could not be recorded")

    def _are_exemplars(self, record: Measurement) -> bool:
        if self._exemplars == "sampled":
            return record.rollout.sampled
        return self._exemplars == "all"
