"""The helper's recorder: its own records, and what the server says of all others."""

import threading
from collections.abc import Mapping
from typing import Final

from otel_intercept.counters import CounterKey
from otel_intercept.process.orders import Totals
from otel_intercept.recorder import Balance, Recorder

_NOTHING: Final = Totals(0, 0, 0, (), ())


class MirrorRecorder(Recorder):
    """A recorder whose balance is that of the server.

    To its own records it adds what never reached this helper. What is open is what the
    server has told to be open. Whoever changes several of its counts holds ``lock``.

    Args:
        queue_size: As of the server's recorder.
        spans: Whether records become spans.
    """

    __slots__ = ("_totals", "lock", "malformed", "open_spans")

    def __init__(self, queue_size: int, *, spans: bool) -> None:
        super().__init__(queue_size, spans=spans)
        self.lock = threading.RLock()
        self._totals = _NOTHING
        self.open_spans = 0
        self.malformed = 0

    def tell(self, totals: Totals) -> None:
        """Take what the server knows of records that never came here."""
        self._totals = totals

    def own_balance(self) -> Balance:
        """Return what became of the records that came here."""
        with self.lock:
            own = super().balance()
            return own._replace(
                started=own.ended + self.malformed + self.open_spans,
                ended=own.ended + self.malformed,
                open=self.open_spans,
                dropped=own.dropped + self.malformed,
            )

    def balance(self) -> Balance:
        """Return what became of every record of the server."""
        with self.lock:
            own, others = self.own_balance(), self._totals
            elsewhere = others.exported + others.failed + others.dropped
            return Balance(
                own.started + elsewhere,
                own.ended + elsewhere,
                own.open,
                own.exported + others.exported,
                own.failed + others.failed,
                own.dropped + others.dropped,
                own.queued,
            )

    def tally(self) -> Mapping[CounterKey, int]:
        """Return how often each counter missed a record, here or in the server."""
        tally = dict(super().tally())
        for name, labels, number in self._totals.tally:
            tally[name, labels] = tally.get((name, labels), 0) + number
        return tally
