"""Answer for a handler that failed: a redacted 500, or a cut connection."""

import logging

from aiohttp import web

from otel_intercept import failure as failures
from otel_intercept.dialect import dialect_of, error_body, error_headers
from otel_intercept.exchange import Exchange
from otel_intercept.failure import Failure
from otel_intercept.semconv import Dialect, ErrorType, Origin, Phase

_logger = logging.getLogger("otel_intercept.middleware")


class _Unsent(web.Response):
    """What aiohttp is given to send where nothing can be sent: no signal sees it."""

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


def has_left(request: web.Request) -> bool:
    """Tell whether the connection of a request is gone."""
    return request.transport is None or request.transport.is_closing()


def report_raised(request: web.Request, exchange: Exchange, exc: Exception) -> None:
    """Report what escaped from a handler.

    An agent that leaves while its request is being read is told by what reading raises:
    no failure of the handler, nor of the upstream that it never came to whole.
    """
    if has_left(request) and failures.is_agents(exc):
        exchange.handler_cancelled()
    else:
        exchange.handler_raised(exc)


def fail_exchange(
    request: web.Request, exchange: Exchange, exc: Exception
) -> web.StreamResponse:
    """Report an exception that escaped from a handler, and answer for it.

    Returns:
        The dialect's error body with type and trace id, or, if the answer had begun, a
        response that sends nothing.
    """
    failures.triage(exc, exchange.rollout.rollout_id)
    report_raised(request, exchange, exc)
    failure = exchange.failure
    trace_id = exchange.rollout.trace_id
    if failure is None:
        agent_left = has_left(request)
    else:
        agent_left = failure.origin is Origin.AGENT
    _logger.log(
        logging.DEBUG if agent_left else logging.WARNING,
        "a rollout handler failed: error_type=%s trace_id=%s",
        failure.error_type if failure else ErrorType.HANDLER_ERROR,
        trace_id,
    )
    if exchange.answer_begun:
        exchange.finish()
        return _cut(request)
    exchange.handler_returned()
    return _error_response(exchange.request.dialect, failure, trace_id)


async def send_failure(
    request: web.Request, response: web.StreamResponse
) -> web.StreamResponse:
    """Send what answers for a failed handler, as aiohttp does next, but log no text.

    Returns:
        The response; one that sends nothing where an app's own signal refuses each.
    """
    try:
        await response.prepare(request)
        await response.write_eof()
    except Exception as exc:  # noqa: BLE001 - aiohttp would log it
        failures.triage(exc)
        return _cut(request)
    return response


def fail_unobserved(
    request: web.Request, exc: Exception, fingerprint_key: bytes
) -> web.StreamResponse:
    """Do the same on a rollout route whose rollout is not open."""
    failures.triage(exc)
    failure = failures.describe(
        exc,
        phase=Phase.HANDLER,
        key=fingerprint_key,
        default=ErrorType.HANDLER_ERROR,
    )
    _logger.warning(
        "a handler failed outside any open rollout: error_type=%s", failure.error_type
    )
    if request.writer.output_size > 0:
        return _cut(request)
    return _error_response(dialect_of(request.path), failure, None)


def refuse_unknown() -> web.Response:
    """Answer for a handler that needs the exchange of a rollout that is not open."""
    _logger.warning("a rollout handler was asked for a rollout that is not open")
    return web.json_response({"error": "Rollout not found"}, status=404)


def _cut(request: web.Request) -> web.Response:
    # Closing without the last chunk is how HTTP/1.1 says "truncated".
    if request.transport is not None:
        request.transport.close()
    return _Unsent(status=500)


def _error_response(
    dialect: Dialect, failure: Failure | None, trace_id: str | None
) -> web.Response:
    return web.json_response(
        error_body(dialect, failure, trace_id=trace_id),
        status=500,
        headers=error_headers(failure),
    )
