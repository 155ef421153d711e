"""Decide what a chain of exceptions comes to, by its classes, statuses and codes."""

from collections.abc import Iterable
from typing import Final, NamedTuple

from otel_intercept.semconv import ErrorType, Phase
from otel_intercept.taxonomy.codes import CODES, RETRYABLE_STATUSES, STATUSES, Code
from otel_intercept.taxonomy.kinds import kind_of
from otel_intercept.taxonomy.known import Weight
from otel_intercept.taxonomy.links import has_errno, passed_through, raiser_of, value_at

_MAX_CODE: Final = 64
_NOT_UPSTREAM: Final = frozenset(
    {ErrorType.AGENT_DISCONNECTED, ErrorType.HANDLER_ERROR}
)


class Verdict(NamedTuple):
    """What one link of a chain says."""

    error_type: ErrorType
    weight: Weight
    retryable: bool | None
    status: int | None
    code: str


def decide(chain: list[BaseException], phase: Phase) -> Verdict | None:
    """Return the verdict of the most telling link, or None if nothing is known."""
    verdicts: list[Verdict] = []
    for link in chain:
        verdict = _judge(link, phase, wrapped=bool(verdicts))
        if verdict is not None:
            verdicts.append(verdict)
    if not verdicts:
        return None
    best = max(verdicts, key=lambda verdict: verdict.weight)
    if best.status is None and best.error_type not in _NOT_UPSTREAM:
        below = verdicts[verdicts.index(best) + 1 :]
        told = (v.status for v in below if v.weight >= Weight.CERTAIN and v.status)
        return best._replace(status=next(told, None))
    return best


def _judge(exc: BaseException, phase: Phase, *, wrapped: bool) -> Verdict | None:
    """Return what one link says, or None if its class says nothing here."""
    known = kind_of(type(exc)).known
    if known is None or (known.phases and phase not in known.phases):
        return None
    if known.errnos and not has_errno(exc, known.errnos):
        return None
    if phase in known.agent and not wrapped:
        return Verdict(ErrorType.AGENT_DISCONNECTED, Weight.CERTAIN, None, None, "")
    if known.truncated_in and passed_through(exc, known.truncated_in):
        weight = max(known.weight, Weight.CERTAIN)
        return Verdict(ErrorType.UPSTREAM_TRUNCATED, weight, None, None, "")
    status = exact_status(value_at(exc, known.status)) if known.status else None
    if known.fixed:
        return Verdict(known.error_type, known.weight, known.retryable, status, "")
    by_status = STATUSES.get(status) if status is not None else None
    if known.raised_in:
        by_status = known.raised_in.get(raiser_of(exc), by_status)
    found = (value_at(exc, path) for path in known.codes)
    code = first_code(found, refining=by_status is not None)
    retryable: bool | None = known.retryable
    if code is not None and code.retryable is not None:
        retryable = code.retryable
    elif code is None and status is not None:
        retryable = RETRYABLE_STATUSES.get(status, retryable)
    error_type = code.error_type if code else by_status or known.error_type
    return Verdict(
        error_type, known.weight, retryable, status, code.name if code else ""
    )


def first_code(values: Iterable[object], *, refining: bool) -> Code | None:
    """Return the first code that refines a status; else, unless asked not to, any."""
    codes = [
        CODES[value]
        for value in values
        if type(value) is str and len(value) <= _MAX_CODE and value in CODES
    ]
    plain = None if refining or not codes else codes[0]
    return next((code for code in codes if code.refines), plain)


def exact_status(value: object) -> int | None:
    """Return an HTTP status if it is exactly that: int subclasses can lie."""
    return value if type(value) is int and 100 <= value <= 599 else None
