"""Filters for the application's own logs: correlate them, and redact what leaves.

`RolloutContextFilter` says which rollout a log record belongs to. `redact_exports`
keeps the raw text of other libraries out of handlers that export, and out of those
only. Neither is installed by itself.
"""

import logging
import sys
from collections.abc import Iterable
from typing import Final, TypeVar

from opentelemetry import trace

from otel_intercept.current import current_exchange
from otel_intercept.errors import ConfigurationError
from otel_intercept.failure import logged_exception_type
from otel_intercept.semconv import EXCEPTION_TYPE

RAW_LOGGERS: Final = (
    "aiohttp.access",
    "aiohttp.client",
    "aiohttp.internal",
    "aiohttp.server",
    "anthropic",
    "asyncio",
    "botocore",
    "grpc",
    "httpcore",
    "httpx",
    "openai",
    "opentelemetry",
    "otel_intercept.triage",
    "requests",
    "urllib3",
    "verifiers",
)
"""Loggers, with all below them, that write URLs, bodies and exceptions as they come."""

REDACTED_MESSAGE: Final = "redacted: what this logger writes may hold secrets"

_FIELDS: Final = ("trace_id", "span_id", "rollout_id")
_OUTSIDE: Final = ("", "", "")
_LEVELS: Final = frozenset(
    {
        logging.DEBUG,
        logging.INFO,
        logging.WARNING,
        logging.ERROR,
        logging.CRITICAL,
    }
)
_MAX_NAME: Final = 64

Handler = TypeVar("Handler", bound=logging.Handler)


class RolloutContextFilter(logging.Filter):
    """Puts ``trace_id``, ``span_id`` and ``rollout_id`` on every log record.

    For a logger or a handler, in code or in ``logging.config.dictConfig``::

        "filters": {"rollout": {"()": "otel_intercept.logs.RolloutContextFilter"}}

    The ids are 32 and 16 hex digits of the active span. Outside of an exchange all
    three are empty, unless the log record has them already, as behind a queue. They
    work in the handler and in the tasks that it starts, for unsampled rollouts as well.
    Lets every log record through, and never raises.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Put the three fields on the log record."""
        try:
            fields = _current_fields()
        except Exception:  # noqa: BLE001 - a log line is not lost to correlation
            fields = _OUTSIDE
        known = vars(record)
        for name, value in zip(_FIELDS, fields, strict=True):
            if fields is not _OUTSIDE or name not in known:
                known[name] = value
        return True


class RedactingFilter(logging.Filter):
    """Lets the log records of raw loggers leave only as safe copies.

    For handlers that export; use `redact_exports` to install it. A copy has the module
    that the logger is named after, the level, the time, a constant message, the place
    in the source as a path from the package down, and, as ``exception.type``, the class
    of the exception, or its nearest base that can be imported. It has no message,
    arguments, traceback, stack, ``extra`` fields or names of threads and tasks. The
    original goes to the other handlers as it is; the log records of all other loggers
    are let through.

    As a plain filter, without its handler, it drops the log records of raw loggers:
    before Python 3.12 a filter cannot put another one in their place. What cannot be
    redacted is dropped. Never raises, except for what its handler does.

    Args:
        prefixes: The raw loggers; those below them are meant as well.
        handler: The handler that it filters for, which gets the safe copies.

    Raises:
        ConfigurationError: The prefixes are no list of logger names.
    """

    def __init__(
        self,
        prefixes: Iterable[str] = RAW_LOGGERS,
        *,
        handler: logging.Handler | None = None,
    ) -> None:
        super().__init__()
        # A single text would be taken for a list of letters.
        names = () if isinstance(prefixes, str) else tuple(prefixes)
        if not names or not all(names):
            raise ConfigurationError("prefixes must be a list of logger names")
        self._prefixes = names
        self._below = tuple(f"{name}." for name in names)
        self._packages = frozenset(name.partition(".")[0] for name in names)
        self._handler = handler

    def redacted(self, record: logging.LogRecord) -> logging.LogRecord | None:
        """Return the safe copy of a raw log record; None for one that may leave."""
        if type(record) is _RedactedRecord:
            return None
        name = record.name
        if type(name) is not str:
            raise TypeError("a logger's name must be a str")
        if name not in self._prefixes and not name.startswith(self._below):
            return None
        module = self._module_of(name)
        return _RedactedRecord(module, *self._place_of(record)).with_facts_of(record)

    def filter(self, record: logging.LogRecord) -> bool:
        """Let the log record through, or hand its safe copy to the handler."""
        try:
            copy = self.redacted(record)
        except Exception:  # noqa: BLE001 - what cannot be redacted must not leave
            return False
        if copy is not None and self._handler is not None:
            self._handler.handle(copy)
        return copy is None

    def _module_of(self, name: str) -> str:
        # A logger may be named after anything; a module may not.
        while name not in self._prefixes and name not in sys.modules:
            name = name.rpartition(".")[0]
        return name

    def _place_of(self, record: logging.LogRecord) -> tuple[str, int, str | None]:
        """Return where in a raw package it was logged; nothing of other places."""
        file, function = _exact(record.pathname), _exact(record.funcName)
        parts = file.replace("\\", "/").split("/")
        for index, part in enumerate(parts):
            path = "/".join(parts[index:])
            if part in self._packages and _is_source_of_module(file, path):
                is_name = function.isidentifier() and len(function) <= _MAX_NAME
                return path, int(record.lineno), function if is_name else None
        return "", 0, None


def redact_exports(handler: Handler, prefixes: Iterable[str] = RAW_LOGGERS) -> Handler:
    """Have a handler that exports get only safe copies from raw loggers.

    Call it for every handler whose log records leave the machine: the OpenTelemetry
    ``LoggingHandler``, an HTTP or syslog shipper, and a file that an agent ships.

    Args:
        handler: The handler. A second call changes nothing.
        prefixes: The raw loggers, as for `RedactingFilter`.

    Returns:
        The same handler.

    Raises:
        ConfigurationError: The prefixes are no list of logger names.
    """
    if not any(isinstance(each, RedactingFilter) for each in handler.filters):
        handler.addFilter(RedactingFilter(prefixes, handler=handler))
    return handler


class _RedactedRecord(logging.LogRecord):
    """A log record in which nothing is left that came from the code that logged."""

    def __init__(self, name: str, path: str, line: int, function: str | None) -> None:
        super().__init__(
            name, logging.NOTSET, path, line, REDACTED_MESSAGE, (), None, function
        )

    def with_facts_of(self, record: logging.LogRecord) -> "_RedactedRecord":
        """Take what is safe in any log record: numbers, and names of closed sets."""
        self.levelno = int(record.levelno)
        self.levelname = (
            logging.getLevelName(self.levelno)
            if self.levelno in _LEVELS
            else f"Level {self.levelno:d}"
        )
        self.created = float(record.created)
        self.msecs = float(record.msecs)
        self.relativeCreated = float(record.relativeCreated)
        self.threadName = None
        self.processName = None
        own = vars(self)
        if "taskName" in own:
            own["taskName"] = None
        exception_type = logged_exception_type(record)
        if exception_type is not None:
            own[EXCEPTION_TYPE] = exception_type
        if "rollout_id" in vars(record):
            # So that a format with them works; told anew, since anybody can set them.
            RolloutContextFilter().filter(self)
        return self


def _current_fields() -> tuple[str, str, str]:
    exchange = current_exchange()
    if exchange is None:
        return _OUTSIDE
    span = trace.get_current_span().get_span_context()
    trace_id, span_id = exchange.rollout.trace_id, exchange.span_id
    if span.is_valid:
        trace_id, span_id = f"{span.trace_id:032x}", span.span_id
    return trace_id, f"{span_id:016x}", exchange.rollout.rollout_id


def _exact(text: object) -> str:
    return text if type(text) is str else ""


def _is_source_of_module(pathname: str, path: str) -> bool:
    dotted = path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")
    module = sys.modules.get(dotted)
    return module is not None and vars(module).get("__file__") == pathname
