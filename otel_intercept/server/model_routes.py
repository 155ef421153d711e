"""Answer model calls: hand each to its rollout's consumer, and wait for the answer."""

import asyncio

from aiohttp import web

from otel_intercept.errors import NotIntercepted
from otel_intercept.exchange import Exchange
from otel_intercept.middleware import exchange_from
from otel_intercept.server.answers import failed, read_object, refuse
from otel_intercept.server.credential import Credential
from otel_intercept.server.json_values import text
from otel_intercept.server.shapes import body_for
from otel_intercept.server.streaming import StreamFailure, answer_stream
from otel_intercept.server.table import RolloutTable

_CLIENT_CLOSED = 499


class ModelRoutes:
    """The handler of the four model routes.

    Args:
        table: Where rollouts are registered.
        credential: What every request must carry.
        keepalive_s: Seconds without a write after which a stream gets a keepalive.
        stream_failure: What a stream whose upstream failed ends with.
    """

    def __init__(
        self,
        table: RolloutTable,
        credential: Credential,
        *,
        keepalive_s: float,
        stream_failure: StreamFailure,
    ) -> None:
        self._table = table
        self._credential = credential
        self._keepalive_s = keepalive_s
        self._stream_failure: StreamFailure = stream_failure

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one model call.

        Raises:
            TypeError, ValueError: The consumer's answer has no JSON form. The
                middleware makes a redacted 500 of it, or cuts the stream.
            asyncio.CancelledError: The handler was cancelled, or a stream's future.
        """
        if not self._credential.admits(request):
            return refuse(401, "Unauthorized")
        rollout_id = request.match_info["rollout_id"]
        exchange = _exchange_of(request)
        if rollout_id not in self._table.active or exchange is None:
            return refuse(404, "Rollout not found")
        body = await read_object(request)
        if isinstance(body, web.Response):
            return body
        if rollout_id not in self._table.active:
            return refuse(404, "Rollout not found")
        exchange.describe_request(body)
        dialect = exchange.request.dialect
        intercept = self._table.add(rollout_id, dialect, body, request.headers)
        future = exchange.watch(intercept["response_future"])
        try:
            chunks = intercept["chunk_queue"]
            if chunks is None:
                return await _answer_whole(exchange, future)
            return await answer_stream(
                request,
                exchange,
                chunks,
                future,
                model=text(intercept["model"]),
                keepalive_s=self._keepalive_s,
                stream_failure=self._stream_failure,
            )
        finally:
            self._table.handler_done(intercept)


def _exchange_of(request: web.Request) -> Exchange | None:
    try:
        return exchange_from(request)
    except NotIntercepted:
        return None


async def _answer_whole(
    exchange: Exchange, future: "asyncio.Future[object]"
) -> web.Response:
    # Waiting without taking the result tells a cancelled future from a cancelled
    # handler, and keeps a SystemExit that a consumer delivers out of this task.
    await asyncio.wait((future,))
    error = None if future.cancelled() else future.exception()
    if future.cancelled() or isinstance(error, asyncio.CancelledError):
        return refuse(_CLIENT_CLOSED, "Rollout cancelled")
    if error is not None:
        return failed(exchange, exchange.failure)
    body = body_for(exchange.request.dialect, future.result())
    answer = web.json_response(body)
    exchange.describe_response(body)
    return answer
