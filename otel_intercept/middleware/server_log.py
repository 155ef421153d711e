"""Keep raw text out of aiohttp's error log where it serves a rollout's request.

What fails behind our middleware is logged by aiohttp with all that was raised: a signal
of the app that fails behind a file, a body that cannot be read to its end, an access
logger that fails. So is what it cannot parse, before it: what an agent has sent beyond
its `Content-Length`, say. What becomes of the request is left to aiohttp.
"""

import logging
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Final
from weakref import WeakSet

from aiohttp import web, web_protocol
from aiohttp.log import server_logger

from otel_intercept import failure as failures
from otel_intercept.exchange import Exchange
from otel_intercept.middleware.access_log import is_shortened, shorten_access_log
from otel_intercept.middleware.answering import is_seen
from otel_intercept.middleware.serving import EXCHANGE
from otel_intercept.middleware.writer import ON_WRITER
from otel_intercept.shield import shielded
from otel_intercept.taxonomy.links import traceback_of

# What aiohttp calls what it serves and itself, in each function that has caught.
_REQUEST: Final = "request"
_PROTOCOL: Final = "self"
_ANSWERS_WITH: Final = "_request_handler"

_apps: Final[WeakSet[web.Application]] = WeakSet()


class _WithoutText(logging.Filter):
    """Replace the log records of a rollout's request: the class stays, and the trace.

    So it does those of what cannot be parsed, which may be the rest of a prompt, where
    rollouts are served. The raw text goes to the triage logger.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        # What a filter raises goes to who logs.
        _redact(record)
        return True


_FILTER: Final = _WithoutText()


@shielded
def _redact(record: logging.LogRecord) -> None:
    exc = failures.logged_exception(record)
    if exc is None:
        return
    names = _names_in_aiohttp(traceback_of(exc))
    request = names.get(_REQUEST)
    if isinstance(request, web.BaseRequest):
        if not _is_of_rollout(request):
            return
        exchange = _exchange_of(request)
    elif _PROTOCOL in names and _serves_rollouts(names[_PROTOCOL]):
        exchange = None
    else:
        return
    rollout = None if exchange is None else exchange.rollout
    failures.triage(exc, None if rollout is None else rollout.rollout_id)
    exception_type = failures.logged_exception_type(record)
    record.msg = (
        "aiohttp failed to serve a rollout's request: exception_type=%s trace_id=%s"
    )
    record.args = (exception_type, None if rollout is None else rollout.trace_id)
    record.exc_info = record.exc_text = record.stack_info = None


def redact_log_of(app: web.Application) -> None:
    """Install the filter on aiohttp's own error logger, for an app. Idempotent."""
    _apps.add(app)
    server_logger.addFilter(_FILTER)


@shielded
def redact_logs(request: web.Request) -> None:
    """Install the filters on the loggers of the server that serves a request.

    They need not be aiohttp's own, nor the app that it serves the instrumented one.
    Idempotent.
    """
    _apps.add(request.match_info.apps[0])
    protocol = request.protocol
    for logger in _loggers(protocol.logger):
        logger.addFilter(_FILTER)
    for logger in _loggers(protocol.access_log):
        shorten_access_log(logger)


def _loggers(given: object) -> Iterator[logging.Logger]:
    """Yield a logger, or those that an object logs with: adapters, and gunicorn's."""
    if isinstance(given, logging.Logger):
        yield given
    else:
        own: dict[str, object] = getattr(given, "__dict__", {})
        yield from (it for it in own.values() if isinstance(it, logging.Logger))


def _names_in_aiohttp(traceback: TracebackType | None) -> Mapping[str, object]:
    """Return the names in the function of aiohttp's server that caught an exception."""
    if traceback is None or traceback.tb_frame.f_globals is not vars(web_protocol):
        return {}
    return traceback.tb_frame.f_locals


def _serves_rollouts(protocol: object) -> bool:
    """Tell whether a connection is one of an app with rollouts."""
    answers_with: object = getattr(protocol, _ANSWERS_WITH, None)
    app: object = getattr(answers_with, "__self__", None)
    return isinstance(app, web.Application) and app in _apps


def _is_of_rollout(request: web.BaseRequest) -> bool:
    if getattr(request.writer, ON_WRITER, None) is not None or is_shortened():
        return True
    return isinstance(request, web.Request) and is_seen(request)


def _exchange_of(request: web.BaseRequest) -> Exchange | None:
    exchange: object = getattr(request.writer, ON_WRITER, None) or request.get(EXCHANGE)
    return exchange if isinstance(exchange, Exchange) else None
