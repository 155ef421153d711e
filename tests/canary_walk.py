"""Read off an object all that those who get hold of it can read."""

import contextlib
import copy
import json
import pickle
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import ModuleType, TracebackType
from typing import Final

_DEPTH: Final = 6
_MAX_OBJECTS: Final = 4000

_TELLING: Final = (str, bytes, int, dict, BaseException)

_RENDERINGS: Final[tuple[Callable[[object], object], ...]] = (
    repr,
    str,
    ascii,
    lambda value: f"{value}",
    lambda value: json.dumps(value, default=str),
    lambda value: json.dumps(value, default=repr),
    lambda value: repr(copy.copy(value)),
    lambda value: repr(copy.deepcopy(value)),
    lambda value: pickle.dumps(value, 0),
    lambda value: pickle.dumps(value, pickle.HIGHEST_PROTOCOL),
    lambda value: vars(value),
)


def renderings(value: object) -> bytes:
    """Return what printing, logging, copying, JSON and pickling make of an object."""
    return b"\n".join(_rendered(value))


def reachable(value: object) -> bytes:
    """Return all text below an object: fields, chains, notes, locals, names."""
    return b"\n".join(_bytes(text) for text in _walk(value))


def _rendered(value: object) -> Iterator[bytes]:
    for render in _RENDERINGS:
        # A hostile object may refuse; what it says then is in the walk.
        with contextlib.suppress(Exception):
            yield _bytes(render(value))
    if issubclass(type(value), BaseException) and isinstance(value, BaseException):
        with contextlib.suppress(Exception):
            yield _bytes("".join(traceback.format_exception(value)))


def _walk(root: object) -> Iterator[object]:
    waiting = deque([(root, 0)])
    seen: dict[int, object] = {}
    while waiting and len(seen) < _MAX_OBJECTS:
        value, depth = waiting.popleft()
        if isinstance(value, (str, bytes, bytearray, int, float)):
            yield value
            # A subclass may show another value than it has.
            with contextlib.suppress(Exception):
                yield str(value)
        elif id(value) not in seen:
            seen[id(value)] = value
            if depth < _DEPTH:
                waiting.extend((inner, depth + 1) for inner in _inside(value))


def _inside(value: object) -> Iterator[object]:
    cls = type(value)
    yield from (cls.__name__, cls.__qualname__, cls.__module__)
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, (Sequence, AbstractSet)):
        yield from value
    elif isinstance(value, TracebackType):
        frame = value.tb_frame
        yield from (frame.f_code.co_name, frame.f_code.co_filename, value.tb_next)
        # Below other locals lies the whole program.
        yield from (
            local for local in frame.f_locals.values() if isinstance(local, _TELLING)
        )
    elif not isinstance(value, (type, ModuleType)):
        yield from _fields(value)


def _fields(value: object) -> Iterator[object]:
    if isinstance(value, BaseException):
        yield from (value.args, value.__cause__, value.__context__)
        yield value.__traceback__
        if isinstance(value, BaseExceptionGroup):
            yield from (value.message, value.exceptions)
    for name in _names(value):
        with contextlib.suppress(Exception):
            yield name
            yield getattr(value, name)


def _names(value: object) -> Iterator[str]:
    with contextlib.suppress(Exception):
        yield from vars(value)
    for cls in type(value).__mro__:
        slots = vars(cls).get("__slots__", ())
        yield from (slots,) if isinstance(slots, str) else slots


def _bytes(value: object) -> bytes:
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    return f"{value}".encode("utf-8", "surrogatepass")
