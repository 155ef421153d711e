"""Keep the agent's text out of aiohttp's access log on rollout routes.

aiohttp logs the whole request line, query string included, with the ``Referer`` and
``User-Agent`` headers. The record is written in the request's own task, after the
handler, so a context variable set there tells which records are ours.
"""

import logging
from contextvars import ContextVar
from typing import Final

from aiohttp import web_log

from otel_intercept.record import Request

ACCESS_LOGGER: Final = "aiohttp.access"

_known: ContextVar[Request | None] = ContextVar(
    "otel_intercept_access_line", default=None
)


class _RouteOnly(logging.Filter):
    """Replace the request line by method and route, and drop the agent's headers.

    Where an access logger fails, aiohttp logs that with all that was raised.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        request = _known.get()
        if request is None or not _is_access_line(record):
            return True
        line = f"{request.method} {request.route}"
        fields = vars(record)
        status = fields.get("response_status")
        record.msg = "%s %s"
        record.args = (line, status if type(status) is int else "-")
        record.exc_info = record.exc_text = record.stack_info = None
        if "first_request_line" in fields:
            fields["first_request_line"] = line
        for name in ("request_header", "response_header"):
            if name in fields:
                fields[name] = {}
        return True


_FILTER: Final = _RouteOnly()


def shorten_access_log(logger: logging.Logger | None = None) -> None:
    """Install the filter on an access logger, aiohttp's own by default. Idempotent."""
    (logger or logging.getLogger(ACCESS_LOGGER)).addFilter(_FILTER)


def is_shortened() -> bool:
    """Tell whether the access log of the current request says its route only."""
    return _known.get() is not None


shorten_access_line: Final = _known.set
"""Make the access log of the current request say its method and route only."""


def _is_access_line(record: logging.LogRecord) -> bool:
    # A server may be given a logger that others write to as well.
    return record.name == ACCESS_LOGGER or record.pathname == web_log.__file__
