"""Read the structure of exceptions without running any code of theirs."""

from collections.abc import Callable, Iterator
from itertools import islice
from types import TracebackType
from typing import Final, TypeAlias, TypeGuard

from otel_intercept.taxonomy.classes import READABLE
from otel_intercept.taxonomy.kinds import dotted, is_importable, kind_of
from otel_intercept.taxonomy.known import Path

MAX_LINKS: Final = 8
_MAX_MEMBERS: Final = 8
_MAX_CHAIN: Final = 1 + MAX_LINKS + _MAX_MEMBERS
_MAX_FIELDS: Final = 64
_MAX_FRAMES: Final = 64

_STREAMS: Final = "aiohttp.streams"
_SERVING: Final = "aiohttp.web_protocol.RequestHandler"

_Link: TypeAlias = Callable[[BaseException], BaseException | None]
_Trace: TypeAlias = Callable[[BaseException], TracebackType | None]
_Tuple: TypeAlias = Callable[[BaseException], tuple[object, ...]]
_Group: TypeAlias = Callable[[BaseException], tuple[BaseException, ...]]

# Attribute access on an exception can run code of its class; these descriptors cannot.
_OF: Final = vars(BaseException)
_CAUSE: Final[_Link] = _OF["__cause__"].__get__
_CONTEXT: Final[_Link] = _OF["__context__"].__get__
_SUPPRESSES: Final[Callable[[BaseException], bool]] = _OF[
    "__suppress_context__"
].__get__
_FIELDS: Final[Callable[[BaseException], object]] = _OF["__dict__"].__get__
_ERRNO: Final[Callable[[BaseException], object]] = vars(OSError)["errno"].__get__

arguments_of: Final[_Tuple] = _OF["args"].__get__
"""Return the arguments that an exception was made with."""

traceback_of: Final[_Trace] = _OF["__traceback__"].__get__
"""Return the traceback of an exception."""

members_of: Final[_Group] = vars(BaseExceptionGroup)["exceptions"].__get__
"""Return the members of an exception group."""


def chain_of(exc: BaseException) -> list[BaseException]:
    """Return an exception and what lies below it, level by level, each once.

    At most 8 levels down, 8 members of a group, and 16 links in all.
    """
    chain = [exc]
    depths = {id(exc): 0}
    for link in chain:
        depth = depths[id(link)] + 1
        if depth > MAX_LINKS:
            break
        for below in _below(link):
            if id(below) not in depths and len(chain) < _MAX_CHAIN:
                depths[id(below)] = depth
                chain.append(below)
    return chain


def is_group(exc: BaseException) -> bool:
    """Return whether an exception is a group, whatever its ``__class__`` says."""
    return issubclass(type(exc), BaseExceptionGroup)


def value_at(exc: BaseException, path: Path) -> object:
    """Follow a path of fields, and give None where it leads nowhere."""
    value: object = exc
    for name in path:
        value = field_of(value, name)
    return value


def field_of(value: object, name: str) -> object:
    """Return one field of a dict, an exception or a readable object, or None.

    Comparing keys one by one keeps the ``__eq__`` of str subclasses out.
    """
    fields = value
    if _is_exception(value):
        fields = _FIELDS(value)
    elif dotted(type(value)) in READABLE and is_importable(type(value)):
        fields = object.__getattribute__(value, "__dict__")
    if type(fields) is not dict:
        return None
    for key, found in islice(fields.items(), _MAX_FIELDS):
        if type(key) is str and key == name:
            return found
    return None


def has_errno(exc: BaseException, errnos: frozenset[int]) -> bool:
    """Return whether an exception is an ``OSError`` with one of these numbers."""
    number = _ERRNO(exc) if issubclass(type(exc), OSError) else None
    return type(number) is int and number in errnos


def passed_through(exc: BaseException, functions: frozenset[str]) -> bool:
    """Return whether an exception was raised in or below one of these functions."""
    traceback = traceback_of(exc)
    for _ in range(_MAX_FRAMES):
        if traceback is None:
            return False
        if traceback.tb_frame.f_code.co_name in functions:
            return True
        traceback = traceback.tb_next
    return False


def was_read_from_agent(exc: BaseException) -> bool:
    """Return whether an exception, or its cause, came out of a request to aiohttp.

    What was only raised while such a one was handled is another matter.
    """
    link: BaseException | None = exc
    for _ in range(MAX_LINKS):
        if link is None:
            break
        if _is_of_request(link):
            return True
        link = _CAUSE(link)
    return False


def raiser_of(exc: BaseException) -> str:
    """Return the name of the function that raised an exception, empty if unknown."""
    traceback = traceback_of(exc)
    for _ in range(_MAX_FRAMES):
        if traceback is None or traceback.tb_next is None:
            break
        traceback = traceback.tb_next
    return "" if traceback is None else traceback.tb_frame.f_code.co_name


def _below(exc: BaseException) -> Iterator[BaseException]:
    """Yield what is one link below: members of a group, then the cause or context."""
    if is_group(exc):
        yield from members_of(exc)[:_MAX_MEMBERS]
    cause = _CAUSE(exc)
    if cause is None and not _SUPPRESSES(exc):
        cause = _CONTEXT(exc)
    if cause is None:
        cause = _wrapped(exc)
    if cause is not None:
        yield cause


def _is_of_request(exc: BaseException) -> bool:
    """Return whether it was raised by the reader of a request's body.

    aiohttp's client reads answers with the same class: the protocol has to tell.
    """
    traceback = traceback_of(exc)
    for _ in range(_MAX_FRAMES):
        if traceback is None:
            break
        frame = traceback.tb_frame
        if frame.f_globals.get("__name__") == _STREAMS:
            reader: object = frame.f_locals.get("self")
            held: object = getattr(reader, "_exception", None)
            if held is exc and _is_served(getattr(reader, "_protocol", None)):
                return True
        traceback = traceback.tb_next
    return False


def _is_served(protocol: object) -> bool:
    return any(dotted(base) == _SERVING for base in type(protocol).__mro__)


def _wrapped(exc: BaseException) -> BaseException | None:
    """Return the exception that is an argument of this one.

    httpcore cuts its chains with ``from None`` and keeps the original there.
    """
    known = kind_of(type(exc)).known
    if known is None or not known.wraps_argument:
        return None
    first = next(iter(arguments_of(exc)), None)
    return first if _is_exception(first) else None


def _is_exception(value: object) -> TypeGuard[BaseException]:
    """Return what ``isinstance`` would, without asking the value for its class."""
    return issubclass(type(value), BaseException)
