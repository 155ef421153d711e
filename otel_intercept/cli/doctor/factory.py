"""Import the user's factory and call it; say what is wrong without any text of it."""

import importlib
import inspect
import os
import sysconfig
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, TypeAlias

from aiohttp.web_app import Application

import otel_intercept
from otel_intercept import ConfigurationError, RolloutRegistry, Telemetry
from otel_intercept import failure as failures
from otel_intercept.cli.output import own_words
from otel_intercept.sdk import configure
from otel_intercept.semconv import Phase
from otel_intercept.server import InterceptionServer
from otel_intercept.taxonomy.links import traceback_of

# Not ``web.Application``, which contrib replaces while apps of the old class exist.
Hosted: TypeAlias = Application | InterceptionServer

UPSTREAM_NAMES: Final = frozenset({"upstream_url", "upstream", "base_url"})

_OWN: Final = str(Path(otel_intercept.__file__).parent)
_NOT_THE_USERS: Final = (
    _OWN,
    *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib")),
    *(sysconfig.get_path(name) for name in ("purelib", "platlib")),
)


class Trouble(NamedTuple):
    """Why the user's code cannot be served, in words that are safe to print.

    Args:
        kind: A word of `WORDS`, or ``configuration``.
        name: A class or a parameter.
        where: File and line of the user's own code.
        words: What a mistake of ours says.
    """

    kind: str
    name: str = ""
    where: str = ""
    words: str = ""


class Unusable(Exception):
    """The user's code cannot be served.

    Args:
        trouble: Why not.
    """

    def __init__(self, trouble: Trouble) -> None:
        super().__init__()
        self.trouble: Final = trouble


def trouble_of(unusable: Unusable) -> Trouble:
    """Return why the user's code cannot be served."""
    return unusable.trouble


class Given:
    """What a factory may take; telemetry is set up once it is asked for.

    Args:
        stack: Shuts telemetry down.
        environ: The variables that telemetry is set up from.
        upstream_url: The upstream, without ``/v1``.

    Attributes:
        taken: The registry that a factory has taken, or None.
    """

    def __init__(
        self, stack: AsyncExitStack, environ: Mapping[str, str], upstream_url: str
    ) -> None:
        self._stack = stack
        self._environ = environ
        self._upstream_url = upstream_url
        self._telemetry: Telemetry | None = None
        self.taken: RolloutRegistry | None = None

    def of(self, parameter: inspect.Parameter) -> object:
        """Return the argument of a parameter.

        Raises:
            LookupError: There is none.
        """
        known = _last_word(parameter.annotation)
        if parameter.name == "registry" or known == RolloutRegistry.__name__:
            if self.taken is None:
                self.taken = RolloutRegistry(self._make_telemetry())
            return self.taken
        if parameter.name == "telemetry" or known == Telemetry.__name__:
            return self._make_telemetry()
        if parameter.name in UPSTREAM_NAMES:
            return self._upstream_url
        raise LookupError

    def _make_telemetry(self) -> Telemetry:
        if self._telemetry is None:
            self._telemetry = self._stack.enter_context(configure(self._environ))
        return self._telemetry


def load(path: str) -> object:
    """Import ``module:attribute``.

    Raises:
        Unusable: It cannot be imported.
    """
    module_name, _, attribute = path.partition(":")
    try:
        found: object = importlib.import_module(module_name)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - it is the user's code
        raise Unusable(_trouble("import", exc)) from None
    for name in attribute.split("."):
        try:
            found = inspect.getattr_static(found, name)
        except AttributeError:
            raise Unusable(Trouble("attribute")) from None
    return found


async def make(stack: AsyncExitStack, factory: object, given: Given) -> Hosted:
    """Call a factory, and give the app or server that it makes.

    Args:
        stack: Leaves the context managers that factories are.
        factory: A callable, sync or async, or an application.
        given: What it may take.

    Raises:
        Unusable: It cannot be called, raises, or makes something else.
    """
    made = factory
    if not isinstance(factory, Application | InterceptionServer):
        if not callable(factory):
            raise Unusable(Trouble("callable"))
        made = await _call(factory, given)
    if isinstance(made, AbstractAsyncContextManager):
        made = await _guarded("factory", stack.enter_async_context(made))
    if isinstance(made, Application | InterceptionServer):
        return made
    raise Unusable(Trouble("returned"))


async def start(starting: Awaitable[object]) -> None:
    """Await the start of the user's app.

    Raises:
        Unusable: It raises.
    """
    await _guarded("startup", starting)


async def _call(factory: Callable[..., object], given: Given) -> object:
    arguments, keywords = _arguments(factory, given)
    try:
        made = factory(*arguments, **keywords)
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - it is the user's code
        raise Unusable(_trouble("factory", exc)) from None
    return await _guarded("factory", made) if inspect.isawaitable(made) else made


async def _guarded(kind: str, waiting: Awaitable[object]) -> object:
    try:
        return await waiting
    except (Exception, SystemExit) as exc:  # noqa: BLE001 - it is the user's code
        raise Unusable(_trouble(kind, exc)) from None


def _arguments(
    factory: Callable[..., object], given: Given
) -> tuple[list[object], dict[str, object]]:
    arguments: list[object] = []
    keywords: dict[str, object] = {}
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return arguments, keywords
    for parameter in parameters:
        if parameter.kind in {parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD}:
            continue
        try:
            value = given.of(parameter)
        except LookupError:
            if parameter.default is parameter.empty:
                name = parameter.name
                raise Unusable(Trouble("parameter", name=name)) from None
            continue
        if parameter.kind is parameter.POSITIONAL_ONLY:
            arguments.append(value)
        else:
            keywords[parameter.name] = value
    return arguments, keywords


def _last_word(annotation: object) -> str | None:
    name = annotation if isinstance(annotation, str) else None
    if isinstance(annotation, type):
        name = annotation.__name__
    return None if name is None else name.rpartition(".")[2]


def _trouble(kind: str, exc: BaseException) -> Trouble:
    failures.triage(exc)
    files = list(_frames(traceback_of(exc)))
    innermost = files[-1][0] if files else ""
    if type(exc) is ConfigurationError and innermost.startswith(_OWN):
        return Trouble("configuration", where=_where(files), words=own_words(exc))
    described = failures.describe(exc, phase=Phase.HANDLER, key=b"unused")
    return Trouble(kind, described.exception_type or "", _where(files))


def _frames(trace: TracebackType | None) -> "list[tuple[str, int]]":
    frames: list[tuple[str, int]] = []
    while trace is not None:
        frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return frames


def _where(frames: "list[tuple[str, int]]") -> str:
    """Return the innermost place that is neither a library's nor ours."""
    for file, line in reversed(frames):
        if file.startswith((*_NOT_THE_USERS, "<")):
            continue
        path = os.path.relpath(file)
        shown = Path(file).name if path.startswith("..") else path
        return f"{shown}:{line}"
    return ""
