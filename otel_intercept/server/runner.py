"""Serve an app without what aiohttp would log of the agent's text."""

import logging
from typing import Final

from aiohttp import web

HTTP_LOGGER: Final = "otel_intercept.server.http"


class _ConstantText(logging.Filter):
    """Replace what aiohttp logs, which holds raw bytes of requests and tracebacks."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = "aiohttp could not handle a request or a connection"
        record.args = ()
        record.exc_info = None
        record.exc_text = None
        record.stack_info = None
        return True


_FILTER: Final = _ConstantText()


def quiet_runner(
    app: web.Application,
    *,
    shutdown_timeout_s: float,
    auto_decompress: bool = True,
) -> web.AppRunner:
    """Make a runner without an access log, whose error log has no text of requests.

    Args:
        app: The application.
        shutdown_timeout_s: Seconds that running handlers have at cleanup.
        auto_decompress: Whether request bodies are decompressed.
    """
    logger = logging.getLogger(HTTP_LOGGER)
    logger.addFilter(_FILTER)
    return web.AppRunner(
        app,
        access_log=None,
        logger=logger,
        shutdown_timeout=shutdown_timeout_s,
        auto_decompress=auto_decompress,
    )
