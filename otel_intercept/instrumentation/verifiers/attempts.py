"""Link the attempts of a rollout that is repeated as a whole.

verifiers repeats a failed rollout inside one call, and each attempt opens a rollout of
its own, deep below, that knows nothing of the one before. A context variable joins
them; tasks copy it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final

from otel_intercept.rollout import Rollout


@dataclass(slots=True)
class _Attempts:
    latest: str | None = None


_attempts: Final[ContextVar[_Attempts | None]] = ContextVar(
    "otel_intercept.attempts", default=None
)


@contextmanager
def repeated() -> Iterator[None]:
    """Take rollouts that open during this block as attempts of one another.

    Put it around the call that repeats, not around what is repeated. A block inside
    another starts anew: what an attempt opens by itself is no repetition of it.
    """
    token = _attempts.set(_Attempts())
    try:
        yield
    finally:
        _attempts.reset(token)


def previous() -> str | None:
    """Return the ``traceparent`` of the attempt before, or None if this is the first.

    Outside of any `repeated` block it is None.
    """
    attempts = _attempts.get()
    return None if attempts is None else attempts.latest


def began(rollout: Rollout) -> None:
    """Note that an attempt began, for the one that may come after it.

    Only its ``traceparent`` is kept.
    """
    attempts = _attempts.get()
    if attempts is not None:
        attempts.latest = rollout.traceparent
