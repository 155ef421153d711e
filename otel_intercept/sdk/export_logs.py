"""Keep the logs of exporters free of URLs, headers and foreign text.

The OTLP exporters log what the collector says; the SDK logs malformed headers as they
are; urllib3 logs the endpoint's path and query at DEBUG. A filter on each of these
loggers puts a constant message with safe facts in place of theirs, and lets each
distinct problem through once a minute.
"""

import logging
from collections.abc import Iterator
from enum import Enum
from http import HTTPStatus
from typing import Final

from requests import RequestException

from otel_intercept.sdk.http_session import kind_of
from otel_intercept.translate.complaints import RepeatLimit
from otel_intercept.translate.guarded import is_exporting

_OWN_PREFIXES: Final = ("opentelemetry.exporter.", "opentelemetry.sdk.")
_OWN_NAMES: Final = (
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http._log_exporter",
    "opentelemetry.exporter.otlp.proto.http.metric_exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk.metrics._internal.export",
    "opentelemetry.util.re",
)
_SHARED_PREFIXES: Final = ("grpc.", "requests.", "urllib3.")
_SHARED_NAMES: Final = (
    "grpc",
    "grpc._channel",
    "grpc._common",
    "requests",
    "urllib3",
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.util.retry",
)
_SIGNALS: Final = {
    "logs": "logs",
    "metrics": "metrics",
    "spans": "traces",
    "traces": "traces",
}
_SAYS: Final = "%s reported a problem with telemetry (%s)"
_PHRASES: Final = frozenset(status.phrase for status in HTTPStatus)


class ExportLogs:
    """The filters on the loggers of exporters, from `install` to `remove`.

    Loggers of libraries that others use as well (urllib3, requests, grpc) are filtered
    only for what they log during an export of ours.
    """

    def __init__(self) -> None:
        self._limit = RepeatLimit()
        self._own = _ExportLogFilter(self._limit, shared=False)
        self._shared = _ExportLogFilter(self._limit, shared=True)

    def install(self) -> None:
        """Filter every such logger that exists. Idempotent; again finds new ones."""
        for name in _names(_OWN_NAMES, _OWN_PREFIXES):
            logging.getLogger(name).addFilter(self._own)
        for name in _names(_SHARED_NAMES, _SHARED_PREFIXES):
            logging.getLogger(name).addFilter(self._shared)

    def remove(self) -> None:
        """Take the filters off again. Idempotent."""
        for name in _names(_OWN_NAMES, _OWN_PREFIXES):
            logging.getLogger(name).removeFilter(self._own)
        for name in _names(_SHARED_NAMES, _SHARED_PREFIXES):
            logging.getLogger(name).removeFilter(self._shared)


class _ExportLogFilter(logging.Filter):
    def __init__(self, limit: RepeatLimit, *, shared: bool) -> None:
        super().__init__()
        self._limit = limit
        self._shared = shared

    def filter(self, record: logging.LogRecord) -> bool:
        if record.msg is _SAYS or (self._shared and not is_exporting()):
            # What the filter of other telemetry in this process has put there is safe.
            return True
        if record.levelno < logging.WARNING:
            return False
        facts = ", ".join(_facts(record.args)) or "no details"
        if not self._limit.passes((record.name, record.levelno, facts)):
            return False
        record.msg = _SAYS
        record.args = (record.name, facts)
        record.exc_info = None
        record.exc_text = None
        record.stack_info = None
        return True


def _names(known: tuple[str, ...], prefixes: tuple[str, ...]) -> set[str]:
    existing = tuple(logging.root.manager.loggerDict)
    return {name for name in existing if name.startswith(prefixes)} | set(known)


def _facts(args: object) -> Iterator[str]:
    """Yield what is safe among the arguments of a message: words of closed sets."""
    for value in args if isinstance(args, tuple) else ():
        if type(value) is str and value in _SIGNALS:
            yield _SIGNALS[value]
        elif type(value) is str and value in _PHRASES:
            yield value
        elif type(value) is int and 100 <= value <= 599:
            yield f"HTTP {value}"
        elif isinstance(value, Enum) and type(value).__module__ == "grpc":
            # A status code; not imported for those who export over HTTP.
            yield f"gRPC {value.name}"
        elif isinstance(value, RequestException):
            yield kind_of(value)
