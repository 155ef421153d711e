"""Try what aiohttp does, on a writer whose bytes go to nobody."""

import asyncio
from collections.abc import Coroutine, Iterable, Mapping
from types import FunctionType, NoneType
from typing import Final

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import StreamWriter

from otel_intercept.sse import Written

_CONSTANTS: Final = frozenset((NoneType, bool, int, str, bytes, tuple))
_FREE: Final = frozenset(("__class__",))  # that of `super()`


class TrialTransport(asyncio.Transport):
    """A transport that keeps what is written.

    Attributes:
        written: The pieces of each write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.written: list[tuple[bytes, ...]] = []

    def is_closing(self) -> bool:
        """Say that it stands."""
        return False

    def write(self, data: Written) -> None:
        """Keep one piece."""
        self.written.append((bytes(data),))

    def writelines(self, list_of_data: Iterable[Written]) -> None:
        """Keep the pieces of one write."""
        self.written.append(tuple(map(bytes, list_of_data)))


def trial_writer(transport: TrialTransport) -> StreamWriter:
    """Return a writer onto a transport. Needs a running loop."""
    loop = asyncio.get_running_loop()
    protocol = BaseProtocol(loop)
    protocol.transport = transport
    return StreamWriter(protocol, loop)


def runs_through(step: Coroutine[object, object, object]) -> bool:
    """Run a coroutine that has nothing to wait for."""
    try:
        step.send(None)
    except StopIteration:
        return True
    step.close()
    return False


def changes(
    before: Mapping[str, object], after: Mapping[str, object]
) -> dict[str, object]:
    """Return what is new or another object in a namespace."""
    nothing = object()
    return {
        name: value
        for name, value in after.items()
        if before.get(name, nothing) is not value
    }


def is_of_aiohttp(function: object) -> bool:
    """Tell whether this is a plain function that aiohttp has made, as it was made.

    What others put in place of one is of another module, or only looks like a function.
    What they put into one holds a function, where a function of aiohttp's names it.
    """
    if type(function) is not FunctionType:
        return False
    module = function.__globals__.get("__name__", "")
    code = function.__code__
    return (
        module.startswith("aiohttp.")
        and _FREE.issuperset(code.co_freevars)
        and _CONSTANTS.issuperset(map(type, code.co_consts))
    )


def uses_only(method: object, names: frozenset[str]) -> bool:
    """Tell whether a method is aiohttp's own, and uses no name but these."""
    return (
        is_of_aiohttp(method)
        and type(method) is FunctionType
        and names.issuperset(method.__code__.co_names)
    )
