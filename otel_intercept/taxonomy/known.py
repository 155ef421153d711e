"""What can be known of an exception class: the words of the class tables."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, TypeAlias

from otel_intercept.semconv import ErrorType, Phase

WRITING: Final = frozenset({Phase.PREPARE, Phase.KEEPALIVE, Phase.CHUNK, Phase.EOF})
"""Phases in which the proxy writes to the agent."""

READING: Final = frozenset({Phase.RESPONSE_FUTURE, Phase.UPSTREAM_CALL, Phase.LATE})
"""Phases in which data that cannot be parsed came from the upstream."""


class Weight(IntEnum):
    """How much a class says. The heaviest in a chain decides; the outermost of equals.

    A ``HINT`` is a wrapper's guess, ``LIKELY`` a class that covers several kinds,
    ``CERTAIN`` one that means one thing, ``PROVEN`` one that corrects those above it.
    """

    HINT = 1
    LIKELY = 2
    CERTAIN = 3
    PROVEN = 4


Path: TypeAlias = tuple[str, ...]
"""Steps into an exception: names in instance dictionaries and keys of dicts."""


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of an exception class.

    Args:
        error_type: What it stands for, unless its status or code says more.
        weight: How much that is worth against the rest of the chain.
        retryable: Whether retrying can help, or None for the type's own answer.
        status: Where its HTTP status is.
        codes: Where its provider codes are, the most telling first.
        fixed: Whether the status and codes never change the type.
        agent: Phases in which it means that the agent left, if nothing listed wraps it.
        phases: Phases in which it means anything; empty for all.
        errnos: The ``errno`` values that it counts for; empty for all.
        truncated_in: Functions that only an answer which broke off can raise it in.
        raised_in: Functions that raise it themselves, and what it stands for there, in
            the place of its status.
        wraps_argument: Whether its first argument may be the exception below it.
    """

    error_type: ErrorType
    weight: Weight = Weight.CERTAIN
    retryable: bool | None = None
    status: Path = ()
    codes: tuple[Path, ...] = ()
    fixed: bool = False
    agent: frozenset[Phase] = frozenset()
    phases: frozenset[Phase] = frozenset()
    errnos: frozenset[int] = frozenset()
    truncated_in: frozenset[str] = frozenset()
    raised_in: Mapping[str, ErrorType] = field(default_factory=dict)
    wraps_argument: bool = False
