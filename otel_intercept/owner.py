"""What an exchange needs of the rollout that it belongs to."""

from typing import Protocol

from otel_intercept.errors import RolloutError
from otel_intercept.failure import Failure
from otel_intercept.record import ExchangeEnded, Record, RolloutRef


class Owner(Protocol):
    """The rollout as its exchanges see it; `otel_intercept.Rollout` is the one kind."""

    @property
    def rollout_id(self) -> str:
        """Its id."""
        ...

    @property
    def trace_id(self) -> str:
        """Its trace id, 32 hex digits."""
        ...

    @property
    def traceparent(self) -> str:
        """The header value under which others join its trace."""
        ...

    @property
    def error(self) -> RolloutError | None:
        """The first failure as a typed error."""
        ...

    @property
    def ref(self) -> RolloutRef:
        """What its records say about it."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether it has stopped cleanly."""
        ...

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def fingerprint_key(self) -> bytes:
        """The key of its fingerprints."""
        ...

    def emit(self, record: Record, *, begun: bool) -> None:
        """Hand a record to telemetry."""
        ...

    def record_failure(
        self, failure: Failure, error: type[RolloutError], *, stopped: bool
    ) -> None:
        """Count a failure, and fail the rollout if it is the first."""
        ...

    def exchange_ended(self, exchange: object, at: int) -> None:
        """Let go of an exchange that has ended at this time (``perf_counter_ns``)."""
        ...


class Intake(Protocol):
    """Where the record of an exchange goes."""

    def put_exchange(self, exchange: ExchangeEnded) -> None:
        """Take an ended exchange: O(1), never blocks, never raises."""
        ...
