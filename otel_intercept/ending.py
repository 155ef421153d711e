"""End an exchange: decide its outcome, and hand over its record."""

import time

from otel_intercept.causes import Causes
from otel_intercept.outcome import GOOD, OK
from otel_intercept.record import Attributes, ExchangeEnded, Request, StreamFacts
from otel_intercept.semconv import ExchangeOutcome
from otel_intercept.shield import confess
from otel_intercept.upstream import UNTIMED


class Ending(Causes):
    """The end of an exchange, which comes once."""

    __slots__ = ("_response", "index", "request")

    _response: Attributes
    index: int
    request: Request

    def finish(self) -> None:
        """Decide the outcome and hand over the record. Idempotent."""
        if self._outcome is not None:
            return
        try:
            if self._pending:
                self._let_go()
            intake, asked, meter = self._intake, self._asked, self._meter
            facts: StreamFacts | None = None
            if (
                self._trouble is None
                and self._ended
                and self._answer is GOOD
                and self._head is None
                and (meter is None or (facts := meter.facts_if_good()) is not None)
            ):
                # Nearly every exchange: what follows below says the same of it.
                self._outcome = OK
                now = time.perf_counter_ns()
                waits = self._waits
                if (
                    (timings := self._timings) is not None
                    and meter is None
                    and (not waits or waits is UNTIMED)
                    and timings.add(
                        self.request.dialect,
                        asked,
                        (
                            self._epoch_ns + now - self._start_ns,
                            self._waited_ns if waits else None,
                            self._response,
                        ),
                    )
                ):
                    # Nobody will ask more of it.
                    pass
                elif intake is not None:
                    record = ExchangeEnded(
                        self._owner.ref,
                        self.span_id,
                        self.index,
                        self._start_ns,
                        self._epoch_ns + now,
                        self.request,
                        asked,
                        asked.stream or meter is not None,
                        self._status,
                        OK,
                        self._response or (() if meter is None else meter.response),
                        waits if timings is None else self._timed_waits(),
                        facts,
                    )
                    intake.put_exchange(record)
            else:
                self._outcome = outcome = self._conclude(ended=self._ended)
                # Its traceback holds frames that hold this exchange.
                self._find_trouble().write_error = None
                now = time.perf_counter_ns()
                if intake is not None:
                    intake.put_exchange(self._record(outcome, self._epoch_ns + now))
            self._owner.exchange_ended(self, now)
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("Exchange.finish")

    def _record(self, outcome: ExchangeOutcome, end_ns: int) -> ExchangeEnded:
        meter, trouble = self._meter, self._trouble
        return ExchangeEnded(
            rollout=self._owner.ref,
            span_id=self.span_id,
            exchange_index=self.index,
            start_ns=self._start_ns,
            end_ns=end_ns,
            request=self.request,
            asked=self._asked,
            stream=self._streamed,
            status=self._status,
            outcome=outcome,
            response=self._response or (() if meter is None else meter.response),
            waits=self._timed_waits(),
            facts=None if meter is None else meter.facts(),
            failure=None if trouble is None else trouble.failure,
            failure_ns=None if trouble is None else trouble.failure_ns,
            replayed=trouble is not None and trouble.replayed,
        )
