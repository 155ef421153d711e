"""Records to test with, each with sensible values that a test may override."""

import math
import time
from typing import Final

from otel_intercept.failure import Failure
from otel_intercept.record import (
    Attributes,
    ExchangeEnded,
    FailureSeen,
    Request,
    RequestFacts,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
    StreamFacts,
    UpstreamWait,
)
from otel_intercept.recorder import Recorder
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    Origin,
    Phase,
    RolloutOutcome,
)
from otel_intercept.telemetry import Telemetry

TRACE_ID: Final = 0x0123456789ABCDEF0123456789ABCDEF
ROOT_ID: Final = 0x1111111111111111
EXCHANGE_ID: Final = 0x2222222222222222
WAIT_ID: Final = 0x3333333333333333
START_NS: Final = 1_700_000_000_000_000_000
SECOND_NS: Final = 1_000_000_000
ROUTE: Final = "/rollout/{rollout_id}/v1/chat/completions"


def rollout_ref(
    *,
    rollout_id: str = "r-1",
    trace_id: int = TRACE_ID,
    span_id: int = ROOT_ID,
    parent_span_id: int | None = None,
    sampled: bool = True,
    attributes: Attributes = (),
) -> RolloutRef:
    """Return a rollout as records know it."""
    return RolloutRef(
        rollout_id, trace_id, span_id, parent_span_id, sampled, START_NS, attributes
    )


def failure(
    error_type: ErrorType = ErrorType.UPSTREAM_TIMEOUT,
    phase: Phase = Phase.CHUNK,
    origin: Origin = Origin.UPSTREAM,
    *,
    exception_type: str | None = "builtins.TimeoutError",
    cause_types: tuple[str, ...] = ("builtins.OSError",),
    status_code: int | None = 504,
) -> Failure:
    """Return a safe descriptor of a failure."""
    return Failure(
        error_type,
        phase,
        origin,
        exception_type,
        cause_types,
        status_code,
        retryable=True,
        fingerprint="0123456789abcdef",
    )


def wait(
    *,
    span_id: int = WAIT_ID,
    seconds: int = 2,
    error_type: ErrorType | None = None,
) -> UpstreamWait:
    """Return one wait for the upstream."""
    return UpstreamWait(span_id, START_NS, START_NS + seconds * SECOND_NS, error_type)


def exchange(
    rollout: RolloutRef | None = None,
    *,
    span_id: int = EXCHANGE_ID,
    method: str = "POST",
    dialect: Dialect = Dialect.CHAT_COMPLETIONS,
    stream: bool = True,
    status: int | None = 200,
    outcome: ExchangeOutcome = ExchangeOutcome.OK,
    failed: Failure | None = None,
    retry_count: int | None = None,
    link: tuple[int, int] | None = None,
    facts: StreamFacts | None = None,
    model: str | None = "gpt-5",
    request: Attributes = (),
    response: Attributes = (),
    waits: tuple[UpstreamWait, ...] = (),
) -> ExchangeEnded:
    """Return an exchange that has ended after three seconds."""
    return ExchangeEnded(
        rollout=rollout or rollout_ref(),
        span_id=span_id,
        exchange_index=4,
        start_ns=START_NS,
        end_ns=START_NS + 3 * SECOND_NS,
        request=Request(method, ROUTE, "http", dialect, retry_count, link),
        asked=RequestFacts(model, stream, request),
        stream=stream,
        status=status,
        outcome=outcome,
        response=response,
        waits=waits,
        facts=facts,
        failure=failed,
        failure_ns=None if failed is None else START_NS + SECOND_NS,
    )


def failed_exchange(rollout: RolloutRef | None = None) -> ExchangeEnded:
    """Return an exchange that was cut."""
    return exchange(rollout, outcome=ExchangeOutcome.CUT, failed=failure())


def started(rollout: RolloutRef | None = None) -> RolloutStarted:
    """Return the marker of a rollout."""
    return RolloutStarted(rollout or rollout_ref(), 0x4444444444444444)


def ended(
    rollout: RolloutRef | None = None,
    *,
    outcome: RolloutOutcome = RolloutOutcome.COMPLETED,
    failed: Failure | None = None,
) -> RolloutEnded:
    """Return the end of a rollout after ten seconds."""
    failures = 0 if failed is None else 1
    end_ns = START_NS + 10 * SECOND_NS
    return RolloutEnded(rollout or rollout_ref(), end_ns, outcome, 5, failures, failed)


def failure_seen(
    rollout: RolloutRef | None = None, *, exchange_span_id: int | None = EXCHANGE_ID
) -> FailureSeen:
    """Return a failure beside any exchange."""
    return FailureSeen(
        rollout or rollout_ref(),
        0x5555555555555555,
        START_NS + SECOND_NS,
        failure(phase=Phase.LATE),
        exchange_span_id,
    )


def record_exchanges(target: Recorder | Telemetry, number: int) -> None:
    """Begin and put so many exchanges."""
    for index in range(number):
        target.begin(True)
        target.put(exchange(span_id=index + 1))


def wait_until(condition: object, timeout_s: float = 30.0) -> bool:
    """Wait until a callable returns true, for so long where nothing holds it up."""
    for _ in range(math.ceil(timeout_s / 0.01)):
        if callable(condition) and condition():
            return True
        time.sleep(0.01)
    return False
