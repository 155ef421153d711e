"""Turn exceptions into safe descriptors. The only reader of exception text.

A descriptor is made of classes, numbers and codes from closed tables, read in
`otel_intercept.taxonomy` without running any code of an exception. Text is read for one
thing, a fingerprint, so that equal failures group. It is keyed: without the key nobody
can tell what a text was, not even by trying all likely ones. Numbers, ids and long
words are left out first, so that nobody who has the key can try those either.
"""

import asyncio
import concurrent.futures
import hmac
import logging
from dataclasses import dataclass, field
from typing import Final

from otel_intercept.semconv import ErrorType, Origin, Phase
from otel_intercept.taxonomy.codes import NOT_RETRYABLE, RETRYABLE_STATUSES, STATUSES
from otel_intercept.taxonomy.kinds import kind_of
from otel_intercept.taxonomy.links import (
    MAX_LINKS,
    arguments_of,
    chain_of,
    field_of,
    is_group,
    members_of,
    traceback_of,
    was_read_from_agent,
)
from otel_intercept.taxonomy.verdict import decide, exact_status, first_code

_MAX_TEXT: Final = 2048
_MAX_WORDS: Final = 40
_MAX_WORD: Final = 12

_ORIGINS: Final = {
    ErrorType.AGENT_DISCONNECTED: Origin.AGENT,
    ErrorType.HANDLER_ERROR: Origin.PROXY,
}
_CANCELLATIONS: Final = (asyncio.CancelledError, concurrent.futures.CancelledError)
_TRIAGE: Final = logging.getLogger("otel_intercept.triage")
_TRIAGE.propagate = False


@dataclass(frozen=True, slots=True)
class Failure:
    """What happened, in words that are safe to export, log, store and send.

    Args:
        error_type: The class of the failure, from the closed vocabulary.
        phase: Where in the exchange it broke.
        origin: Whose side it is on.
        exception_type: Importable qualified class name, or None without an exception.
        cause_types: The same for what lies below it, outermost first, at most 8.
        status_code: HTTP status between 100 and 599 that the failure carries, or None.
        retryable: Whether the same call may succeed later.
        fingerprint: 16 hex digits; equal failures have equal fingerprints under one
            key. For telemetry only: an agent could use it to guess hidden text.
    """

    error_type: ErrorType
    phase: Phase
    origin: Origin
    exception_type: str | None
    cause_types: tuple[str, ...]
    status_code: int | None
    retryable: bool
    fingerprint: str = field(repr=False)


def describe(
    exc: BaseException,
    *,
    phase: Phase,
    key: bytes,
    default: ErrorType = ErrorType.OTHER,
) -> Failure:
    """Describe an exception in safe words.

    The most telling link of its chain decides: down ``__cause__``, else ``__context__``
    unless suppressed, and into groups; of equally telling ones the outermost. Takes
    constant time whatever the exception holds, keeps no reference to it, and may run
    in any thread.

    Args:
        exc: What was raised. A `RolloutError` is described by the failure it holds.
        phase: Where it was caught. It tells whose side a bare connection error is on.
        key: The secret of the fingerprints.
        default: The type when nothing in the chain is known.

    Returns:
        The descriptor. Nothing is raised, except what is raised into the thread from
        outside (``KeyboardInterrupt``).
    """
    try:
        held = field_of(exc, "failure")
        if type(held) is Failure:
            return held
        chain = chain_of(exc)
        names = tuple(kind_of(type(link)).name for link in chain)
        verdict = decide(chain, phase)
        template = next(filter(None, map(_template, chain)), "")
    except Exception:  # noqa: BLE001 - telemetry never breaks traffic
        return without_exception(default, phase=phase, key=key)
    if verdict is None:
        return _make(default, phase, key, names=names, details=("", template))
    return _make(
        verdict.error_type,
        phase,
        key,
        names=names,
        status=verdict.status,
        retryable=verdict.retryable,
        details=(verdict.code, template),
    )


def from_status(status: int, *, phase: Phase, key: bytes) -> Failure:
    """Describe an answer by its HTTP status alone; below 400 it says nothing."""
    return _make(
        STATUSES.get(status, ErrorType.OTHER),
        phase,
        key,
        status=status,
        retryable=RETRYABLE_STATUSES.get(status),
    )


def from_error_frame(
    frame_type: str | None, frame_code: str | None, *, key: bytes
) -> Failure:
    """Describe an error object inside a stream by its ``type`` and ``code`` fields.

    Both are text from upstream: they are looked up, never kept.
    """
    code = first_code((frame_code, frame_type), refining=False)
    if code is None:
        return _make(ErrorType.UPSTREAM_ERROR_FRAME, Phase.CHUNK, key)
    return _make(
        code.error_type,
        Phase.CHUNK,
        key,
        retryable=code.retryable,
        details=(code.name,),
    )


def without_exception(
    error_type: ErrorType,
    *,
    phase: Phase,
    origin: Origin | None = None,
    status: int | None = None,
    key: bytes,
) -> Failure:
    """Describe a failure that raised nothing, such as a stream without its end."""
    return _make(error_type, phase, key, origin=origin, status=status)


def origin_of(error_type: ErrorType, phase: Phase) -> Origin:
    """Return whose side a failure is on; the unknown is the handler's only in it."""
    if error_type is ErrorType.OTHER and phase is Phase.HANDLER:
        return Origin.PROXY
    return _ORIGINS.get(error_type, Origin.UPSTREAM)


def is_cancellation(exc: BaseException) -> bool:
    """Return whether it says that work was cancelled, and nothing else.

    True for cancellations of asyncio and concurrent.futures, and for a group of those.
    """
    waiting = [exc]
    while waiting:
        link = waiting.pop()
        if is_group(link):
            waiting.extend(members_of(link))
        elif not issubclass(type(link), _CANCELLATIONS):
            return False
    return True


def is_agents(exc: BaseException) -> bool:
    """Return whether it says that the agent's request could not be read to its end.

    True for what reading the request raised, and for what was raised because of it, as
    by a client that uploads it to an upstream.
    """
    try:
        return was_read_from_agent(exc)
    except Exception:  # noqa: BLE001 - telemetry never breaks traffic
        return False


def triage(exc: BaseException, rollout_id: str | None = None) -> None:
    """Write the raw text and traceback to the ``otel_intercept.triage`` logger.

    Nothing happens until an operator gives that very logger a handler and the level
    DEBUG. It does not propagate. Whatever such a handler raises is swallowed.
    """
    try:
        if _TRIAGE.handlers and _TRIAGE.isEnabledFor(logging.DEBUG):
            raw = (type(exc), exc, traceback_of(exc))
            _TRIAGE.debug("failure in rollout %s", rollout_id, exc_info=raw)
    except Exception:  # noqa: BLE001 - telemetry never breaks traffic
        return


def logged_exception(record: logging.LogRecord) -> BaseException | None:
    """Return the exception that a log record carries; None when it carries none."""
    raw = record.exc_info
    exc = raw[1] if isinstance(raw, tuple) and len(raw) > 1 else None
    return exc if isinstance(exc, BaseException) else None


def logged_exception_type(record: logging.LogRecord) -> str | None:
    """Return the class of the exception that a log record carries, as `describe` does.

    Returns:
        The importable qualified name, or None when the log record carries none.
    """
    exc = logged_exception(record)
    return None if exc is None else kind_of(type(exc)).name


def _make(
    error_type: ErrorType,
    phase: Phase,
    key: bytes,
    *,
    origin: Origin | None = None,
    names: tuple[str, ...] = (),
    status: int | None = None,
    retryable: bool | None = None,
    details: tuple[str, ...] = (),
) -> Failure:
    """Build a failure, with what its type implies and the fingerprint of it all."""
    # ``HTTPStatus`` members are welcome too.
    status = None if status is None else exact_status(int.__int__(status))
    parts = (error_type.value, f"{status}", *details, *names)
    digest = hmac.digest(key, "\0".join(parts).encode("ascii"), "sha256")
    if retryable is None:
        retryable = error_type not in NOT_RETRYABLE
    return Failure(
        error_type=error_type,
        phase=phase,
        origin=origin or origin_of(error_type, phase),
        exception_type=names[0] if names else None,
        cause_types=names[1 : MAX_LINKS + 1],
        status_code=status,
        retryable=retryable,
        fingerprint=digest.hex()[:16],
    )


def _template(exc: BaseException) -> str:
    """Return the plain words of a fixed sentence, ids and numbers left out.

    Only the strings among the arguments are read, and only where the class is known to
    say fixed sentences: ``str()`` would run code, and SDK errors echo whole bodies.
    """
    if not kind_of(type(exc)).quotable:
        return ""
    words: list[str] = []
    for argument in arguments_of(exc)[:MAX_LINKS]:
        if type(argument) is not str:
            continue
        for token in argument[:_MAX_TEXT].split(maxsplit=_MAX_WORDS)[:_MAX_WORDS]:
            word = token.rstrip(".,:;!?")
            plain = word.isascii() and word.isalpha() and len(word) <= _MAX_WORD
            if plain or words[-1:] != ["#"]:
                words.append(word if plain else "#")
    return " ".join(words[:_MAX_WORDS])
