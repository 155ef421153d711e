"""Exceptions whose own code lies, breaks, or tells that it was run."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType, ModuleType
from typing import Final, NoReturn

import httpx2
import openai

from tests.canary import Mint

Raises = Callable[[Mint], object]


class Trap:
    """Prints a canary when an exception's own code is run."""

    armed = True

    @classmethod
    @contextmanager
    def disarmed(cls) -> Iterator[None]:
        """Let exceptions be printed in a block, by those who may."""
        was, cls.armed = cls.armed, False
        try:
            yield
        finally:
            cls.armed = was

    @classmethod
    def spring(cls, canary: str) -> str:
        """Tell stderr that the code was run."""
        if cls.armed:
            sys.stderr.write(f"the trap was sprung: {canary}\n")
        return canary


def _made_module(mint: Mint) -> NoReturn:
    """Raise a class that can be imported, but from a module that was made of data."""
    name = mint("exc.made_module")
    module = ModuleType(name)
    error = made_class(name, __module__=name, __qualname__=name)
    setattr(module, name, error)
    sys.modules[name] = module
    raise error("no text")


def _metaclass(mint: Mint) -> NoReturn:
    canary = mint("exc.metaclass")
    fields = {
        "__name__": property(lambda _: Trap.spring(canary)),
        "__hash__": lambda _: len(Trap.spring(canary)),
        "__eq__": lambda _, __: bool(Trap.spring(canary)),
    }
    meta = type("Meta", (type,), fields)
    lying: type[Exception] = meta("Lying", (Exception,), {})
    raise lying(canary)


def _lying_status(mint: Mint) -> NoReturn:
    canary = mint("exc.lying_status")

    class LyingInt(int):
        def __repr__(self) -> str:
            return canary

        __str__ = __repr__

        def __format__(self, spec: str) -> str:
            return canary

    error = openai_error("refused")
    error.status_code = LyingInt(429)
    raise error


def _lying_code(mint: Mint) -> NoReturn:
    canary = mint("exc.lying_code")

    class LyingStr(str):
        __slots__ = ()

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("rate_limit_exceeded")

    error = openai_error("refused")
    error.code = error.type = LyingStr(canary)
    raise error


def _huge_status(mint: Mint) -> NoReturn:
    error = openai_error("refused")
    error.status_code = mint.number("exc.huge_status")
    raise error


def _trapped(mint: Mint) -> NoReturn:
    """Raise what prints its canary as soon as anybody runs its code."""
    canary = mint("exc.trap")

    class Trapped(Exception):
        def __getattribute__(self, name: str) -> object:
            # Python itself looks these up when it prints or raises.
            if name not in {"__traceback__", "__class__", "__dict__"}:
                Trap.spring(canary)
            return super().__getattribute__(name)

        def __str__(self) -> str:
            return Trap.spring(canary)

        __repr__ = __str__

        def __format__(self, spec: str) -> str:
            return Trap.spring(canary)

        def __eq__(self, other: object) -> bool:
            Trap.spring(canary)
            return True

        def __hash__(self) -> int:
            Trap.spring(canary)
            return 1

        def __bool__(self) -> bool:
            Trap.spring(canary)
            return False

    raise Trapped(canary)


def _raising_text(mint: Mint) -> NoReturn:
    canary = mint("exc.raising_text")

    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError(canary)

        __repr__ = __str__

    raise Unprintable(canary)


def _class_lie(mint: Mint) -> NoReturn:
    canary = mint("exc.class_lie")
    pretended = made_class(canary, __module__=canary)
    liar = made_class("Liar", __class__=property(lambda _: pretended))
    raise liar(canary)


LIARS: Final[Mapping[str, Raises]] = MappingProxyType(
    {
        "made_module": _made_module,
        "metaclass": _metaclass,
        "lying_status": _lying_status,
        "lying_code": _lying_code,
        "huge_status": _huge_status,
        "trapped": _trapped,
        "raising_text": _raising_text,
        "class_lie": _class_lie,
    }
)
"""Raise one of them, by name."""


def made_class(name: str, **fields: object) -> type[Exception]:
    """Return a class that is made of data."""
    return type(name, (Exception,), fields)


def openai_error(message: str) -> openai.APIStatusError:
    """Return an error of the OpenAI SDK."""
    request = httpx2.Request("POST", "http://up.invalid/v1")
    response = httpx2.Response(500, request=request)
    return openai.APIStatusError(message, response=response, body=None)
