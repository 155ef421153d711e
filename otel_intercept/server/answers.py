"""The JSON answers of the server's own, and reading the JSON that they refuse."""

import json

from aiohttp import web

from otel_intercept.dialect import error_body, error_headers
from otel_intercept.exchange import Exchange
from otel_intercept.failure import Failure
from otel_intercept.server.json_values import JsonObject


def refuse(status: int, sentence: str) -> web.Response:
    """Answer with an error that is the server's own: a constant sentence."""
    return web.json_response({"error": sentence}, status=status)


def failed(
    exchange: Exchange, failure: Failure | None, status: int = 500
) -> web.Response:
    """Answer for an upstream failure in the dialect's shape: redacted."""
    body = error_body(
        exchange.request.dialect, failure, trace_id=exchange.rollout.trace_id
    )
    return web.json_response(body, status=status, headers=error_headers(failure))


async def read_object(request: web.Request) -> JsonObject | web.Response:
    """Read a request's JSON object, or give the answer that refuses its body.

    What reading raises because the agent has left is not caught, except where it comes
    as an ``OSError``: there is nobody to answer then.
    """
    body = await read_body(request)
    if isinstance(body, web.Response):
        return body
    try:
        value: object = json.loads(body)
    except (ValueError, RecursionError):
        return refuse(400, "Invalid JSON")
    if not isinstance(value, dict):
        return refuse(400, "Request body must be a JSON object")
    return value


async def read_body(request: web.Request) -> bytes | web.Response:
    """Read a request's body, or give the answer that refuses it."""
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge:
        return refuse(413, "Request body too large")
    except (OSError, web.RequestPayloadError):
        return refuse(400, "Request body incomplete")
