"""Class names: said only where importing them leads to the very class."""

import asyncio
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.exceptions import described, linked, made


class Outer:
    """A class around a class."""

    class InnerError(Exception):
        """An exception that is reached through another class."""


class Überraschung(Exception):
    """An exception with a name that is no ASCII."""


class Renamed(Exception):
    """An exception that is told to be called otherwise."""


Renamed.__qualname__ = "sk_canary_1"


class Moved(KeyError):
    """An exception that is told to live elsewhere."""


Moved.__module__ = "builtins"


class Homeless(OSError):
    """An exception without a module."""


class SlyStr(str):
    """A str that says one thing and is another."""

    __slots__ = ()


def test_a_name_that_can_be_imported_is_said() -> None:
    """Importable classes are called by module and qualified name, builtins bare."""

    def name(exc: BaseException) -> str | None:
        return described(exc).exception_type

    assert name(ValueError()) == "ValueError"
    assert name(httpx.ReadError("")) == "httpx.ReadError"
    assert name(asyncio.IncompleteReadError(b"", 1)) == (
        "asyncio.exceptions.IncompleteReadError"
    )
    assert name(Outer.InnerError()) == f"{__name__}.Outer.InnerError"


def _local() -> BaseException:
    class LocalError(LookupError):
        pass

    return LocalError()


def _without_module() -> BaseException:
    scope: dict[str, BaseException] = {}
    # Only code without a ``__name__`` around it makes a class without a module.
    exec("exc = type('Canary', (LookupError,), {})()", scope)  # noqa: S102
    return scope["exc"]


@pytest.mark.parametrize(
    ("exc", "name"),
    [
        (_local(), "LookupError"),
        (made("sk_canary_1"), "LookupError"),
        (made("sk_canary_1", __module__="builtins"), "LookupError"),
        (made("sk_canary_1", __module__="sk_canary_1"), "LookupError"),
        (made("KeyError", __module__="builtins"), "LookupError"),
        (made("LookupError", __module__="builtins"), "LookupError"),
        (made("Surprise", __module__="__main__"), "LookupError"),
        (made("a b; drop"), "LookupError"),
        (made("x" * 100_000), "LookupError"),
        (made("", __module__=""), "LookupError"),
        (made("A", __module__=SlyStr("builtins")), "LookupError"),
        (made("A", __module__=7), "LookupError"),
        (made("A", __qualname__=SlyStr("KeyError")), "LookupError"),
        (_without_module(), "LookupError"),
        (Renamed(), "Exception"),
        (Moved(), "KeyError"),
        (Überraschung(), "Exception"),
    ],
    ids=range(17),
)
def test_a_name_that_cannot_be_imported_is_not_said(
    exc: BaseException, name: str
) -> None:
    """A class that its own name does not lead to goes by its nearest base's name."""
    assert described(exc).exception_type == name
    assert described(linked(RuntimeError(), exc)).cause_types == (name,)


@pytest.fixture
def made_module() -> Iterator[types.ModuleType]:
    """Put a module that no import has made among the loaded ones."""
    module = types.ModuleType("sk_canary_module")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def test_a_class_in_a_module_that_was_made_is_not_said(
    made_module: types.ModuleType,
) -> None:
    """A module made at run time can be named from data, so its classes are not said."""
    exc = made("Canary", __module__=made_module.__name__)
    vars(made_module)["Canary"] = type(exc)

    assert described(exc).exception_type == "LookupError"


class Posing:
    """What stands among the loaded modules and is none."""

    def __getattr__(self, name: str) -> object:
        """Fail the test: nobody may ask."""
        raise AssertionError(name)


def test_what_poses_as_a_module_is_not_asked() -> None:
    """An object among the loaded modules that is no module leads to no name."""
    loaded: dict[str, object] = vars(sys)["modules"]
    loaded["sk_canary_posing"] = Posing()

    failure = described(made("Canary", __module__="sk_canary_posing"))
    del loaded["sk_canary_posing"]

    assert failure.exception_type == "LookupError"


def test_a_path_through_something_else_is_not_a_name() -> None:
    """Every part of a qualified name must be a class."""
    exc = made("Canary", __module__=__name__, __qualname__="made.Canary")

    assert described(exc).exception_type == "LookupError"


def test_a_class_of_the_main_module_is_not_said(tmp_path: Path) -> None:
    """``__main__`` is another module in every process, so its names mean nothing."""
    (tmp_path / "program.py").write_text(
        "from tests.exceptions import described\n"
        "class Canary(KeyError): pass\n"
        "print(__spec__.name, described(Canary()).exception_type)\n"
    )
    root = Path(__file__).parent.parent

    done = subprocess.run(
        [sys.executable, "-m", "program"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.stdout == "program KeyError\n"
