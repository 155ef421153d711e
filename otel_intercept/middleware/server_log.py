"""Keep raw text out of aiohttp's error log where it serves a rollout's request.

What fails behind our middleware is logged by aiohttp with all that was raised: a signal
of the app that fails behind a file, a body that cannot be read to its end, an access
logger that fails. What becomes of the request is left to aiohttp.
"""

import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Final

from aiohttp import web, web_protocol

from otel_intercept import failure as failures
from otel_intercept.exchange import Exchange
from otel_intercept.middleware.access_log import is_shortened, shorten_access_log
from otel_intercept.middleware.answering import is_seen
from otel_intercept.middleware.serving import EXCHANGE
from otel_intercept.middleware.writer import ON_WRITER
from otel_intercept.taxonomy.links import traceback_of

_REQUEST: Final = "request"
"""What aiohttp calls the request that it serves, in each function that logs."""


class _WithoutText(logging.Filter):
    """Replace the log records of a rollout's request: the class stays, and the trace.

    The raw text goes to the triage logger.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        exc = failures.logged_exception(record)
        request = None if exc is None else _served(traceback_of(exc))
        if exc is None or request is None or not _is_of_rollout(request):
            return True
        exchange = _exchange_of(request)
        rollout = None if exchange is None else exchange.rollout
        failures.triage(exc, None if rollout is None else rollout.rollout_id)
        exception_type = failures.logged_exception_type(record)
        record.msg = (
            "aiohttp failed to serve a rollout's request: exception_type=%s trace_id=%s"
        )
        record.args = (exception_type, None if rollout is None else rollout.trace_id)
        record.exc_info = record.exc_text = record.stack_info = None
        return True


_FILTER: Final = _WithoutText()


def redact_logs(request: web.Request) -> None:
    """Install the filters on the loggers of the server that serves a request.

    They need not be aiohttp's own. Idempotent.
    """
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


def _served(traceback: TracebackType | None) -> web.BaseRequest | None:
    """Return the request that aiohttp served as it caught an exception."""
    if traceback is None:
        return None
    frame = traceback.tb_frame
    if frame.f_globals is not vars(web_protocol):
        return None
    request: object = frame.f_locals.get(_REQUEST)
    return request if isinstance(request, web.BaseRequest) else None


def _is_of_rollout(request: web.BaseRequest) -> bool:
    if getattr(request.writer, ON_WRITER, None) is not None or is_shortened():
        return True
    return isinstance(request, web.Request) and is_seen(request)


def _exchange_of(request: web.BaseRequest) -> Exchange | None:
    exchange: object = getattr(request.writer, ON_WRITER, None) or request.get(EXCHANGE)
    return exchange if isinstance(exchange, Exchange) else None
