"""Pass an upstream's answer on to the agent, piece by piece, and describe it."""

import aiohttp
from aiohttp import hdrs, web

from otel_intercept.exchange import Exchange
from otel_intercept.semconv import Dialect, Phase
from otel_intercept.server.json_values import JsonObject
from otel_intercept.server.relay.upstream_answer import (
    JsonCopy,
    UpstreamRefused,
    words_of,
)
from otel_intercept.server.relay.wire import response_headers


async def pass_on(
    request: web.Request,
    exchange: Exchange,
    upstream: aiohttp.ClientResponse,
    beginning: bytes = b"",
) -> web.StreamResponse:
    """Write the upstream's answer to the agent, as fast as the agent reads.

    A write that fails ends it: the exchange has seen that. The caller writes the end of
    the body.

    Args:
        request: The agent's request.
        exchange: What watches it.
        upstream: The answer.
        beginning: What has been read of its body already.

    Raises:
        aiohttp.ClientError, TimeoutError: The upstream broke off.
    """
    response = web.StreamResponse(
        status=upstream.status, headers=response_headers(upstream.headers)
    )
    length = upstream.headers.get(hdrs.CONTENT_LENGTH, "")
    if length.isdecimal():
        response.content_length = int(length)
    copy = JsonCopy(upstream)
    try:
        await response.prepare(request)
    except ConnectionError:
        return response
    data = beginning or await upstream.content.readany()
    while data:
        copy.add(data)
        try:
            await response.write(data)
        except ConnectionError:
            # The agent's end, not the upstream's: the exchange has seen it.
            return response
        data = await upstream.content.readany()
    has_body = request.method != hdrs.METH_HEAD
    if has_body and copy.is_whole and upstream.status < 400:
        _describe(exchange, upstream.status, copy.body())
    return response


def _describe(exchange: Exchange, status: int, body: JsonObject | None) -> None:
    is_model_call = exchange.request.dialect is not Dialect.OTHER
    if is_model_call and (body is None or body.get("error")):
        # Some hosts answer an error with a 200, and some with no JSON at all.
        refused = UpstreamRefused(status, words_of(body))
        exchange.fail(refused, phase=Phase.UPSTREAM_CALL)
    elif body is not None:
        exchange.describe_response(body)
