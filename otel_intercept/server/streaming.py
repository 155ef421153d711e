"""Write one event stream: chunks as they come, keepalives, the terminal event."""

import asyncio
from collections.abc import Mapping
from contextlib import closing
from types import MappingProxyType
from typing import Final, Literal, TypeAlias

from aiohttp import web

from otel_intercept.dialect import error_frame
from otel_intercept.exchange import Exchange
from otel_intercept.server.completion import read_completion
from otel_intercept.server.intercepts import ChunkQueue
from otel_intercept.server.shapes import StreamEncoder, body_for, encoder_for

StreamFailure: TypeAlias = Literal["done", "error_frame"]
"""What a stream whose upstream failed ends with: its terminal event alone, as if all
were well, or an error frame before it, which makes SDKs raise."""

KEEPALIVE: Final = b": keepalive\n\n"

_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
}
_TICK: Final[Mapping[str, object]] = MappingProxyType({})
"""Stands among the chunks where a keepalive may be due; told by its identity."""

_TURN: Final = 32
"""Chunks written in one go while the queue never runs empty."""


async def answer_stream(
    request: web.Request,
    exchange: Exchange,
    chunks: ChunkQueue,
    future: "asyncio.Future[object]",
    *,
    model: str,
    keepalive_s: float,
    stream_failure: StreamFailure,
) -> web.StreamResponse:
    """Answer a model call with the chunks that its consumer puts.

    A write that fails ends the handler, whatever the upstream does later; the exchange
    has seen it. The caller writes the end of the body.

    Args:
        request: The model call.
        exchange: What watches it.
        chunks: Chat chunks or native events of the dialect, and None at the end.
        future: Ends with the answer that was streamed, or with what went wrong.
        model: What to call the model until a chunk names it.
        keepalive_s: Seconds without a write after which a keepalive is written.
        stream_failure: What the stream ends with when the future has failed.

    Raises:
        asyncio.CancelledError: The handler or the response future was cancelled. The
            body is cut.
        TypeError, ValueError: A chunk has no JSON form. The body is cut.
    """
    response = web.StreamResponse(headers=_HEADERS)
    end_on_failure(future, chunks)
    encoder = encoder_for(exchange.request.dialect, model)
    try:
        await response.prepare(request)
        with closing(_Writer(response, chunks, keepalive_s)) as writer:
            while (chunk := await writer.next_chunk()) is not None:
                await writer.write(encoder.encode(chunk))
            if stream_failure == "done":
                await writer.write(encoder.end())
            else:
                await writer.wait_for(future)
                await writer.write(_end_honestly(exchange, encoder, future))
    except ConnectionError:
        return response
    if not future.done():
        await asyncio.wait((future,))
    if future.cancelled() or isinstance(future.exception(), asyncio.CancelledError):
        raise asyncio.CancelledError
    if future.exception() is None:
        _describe(exchange, future.result())
    return response


def end_on_failure(future: "asyncio.Future[object]", chunks: ChunkQueue) -> None:
    """End the chunks when the future fails: else the agent would wait forever.

    A consumer should put None itself; a second one is never read.
    """

    def end(done: "asyncio.Future[object]") -> None:
        if done.cancelled() or done.exception() is not None:
            chunks.put_nowait(None)

    future.add_done_callback(end)


class _Writer:
    """Writes to the agent, and a keepalive whenever nothing was written for a while.

    One timer per stream puts a tick among the chunks, which costs a chunk nothing: a
    timeout around each wait for a chunk would cost a third of its whole way.

    Args:
        response: The answer, which has begun.
        chunks: Where chunks come from.
        keepalive_s: Seconds without a write.
    """

    __slots__ = (
        "_chunks",
        "_deadline",
        "_interval",
        "_loop",
        "_response",
        "_ticked",
        "_timer",
        "_turn",
    )

    def __init__(
        self, response: web.StreamResponse, chunks: ChunkQueue, keepalive_s: float
    ) -> None:
        self._response = response
        self._chunks = chunks
        self._interval = keepalive_s
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + keepalive_s
        self._ticked = False
        self._timer = self._loop.call_at(self._deadline, self._tick)
        self._turn = 0

    def close(self) -> None:
        self._timer.cancel()

    async def write(self, data: bytes) -> None:
        if data:
            await self._response.write(data)
            self._deadline = self._loop.time() + self._interval

    async def next_chunk(self) -> Mapping[str, object] | None:
        chunks = self._chunks
        while True:
            if chunks.empty():
                self._turn = 0
                chunk = await chunks.get()
            else:
                await self._take_turn()
                chunk = chunks.get_nowait()
            if chunk is not _TICK:
                return chunk
            self._ticked = False
            await self._keep_alive()

    async def wait_for(self, future: "asyncio.Future[object]") -> None:
        while True:
            # Also for a future that is done: its callbacks tell the exchange first.
            left = self._deadline - self._loop.time()
            await asyncio.wait((future,), timeout=max(left, 0))
            if future.done():
                return
            await self._keep_alive()

    async def _keep_alive(self) -> None:
        # What was queued before a tick may have been written since.
        if self._loop.time() >= self._deadline:
            await self.write(KEEPALIVE)

    def _tick(self) -> None:
        now = self._loop.time()
        due = now >= self._deadline
        # While a write is held up by the agent, one tick waits and no more.
        if due and not self._ticked:
            self._ticked = True
            self._chunks.put_nowait(_TICK)
        again = now + self._interval if due else self._deadline
        self._timer = self._loop.call_at(again, self._tick)

    async def _take_turn(self) -> None:
        # A write suspends only when the agent is slow, so a long backlog would
        # otherwise keep all other rollouts waiting.
        self._turn += 1
        if self._turn >= _TURN:
            self._turn = 0
            await asyncio.sleep(0)


def _end_honestly(
    exchange: Exchange, encoder: StreamEncoder, future: "asyncio.Future[object]"
) -> bytes:
    """Give the end of a stream, after an error frame if its future has failed."""
    error = None if future.cancelled() else future.exception()
    if error is None or isinstance(error, asyncio.CancelledError):
        return encoder.end()
    frame = error_frame(
        exchange.request.dialect, exchange.failure, trace_id=exchange.rollout.trace_id
    )
    return frame + encoder.end(failed=True)


def _describe(exchange: Exchange, response: object) -> None:
    """Tell the exchange the usage that the chunks may have left out."""
    try:
        known = read_completion(response) is not None
        if known:
            exchange.describe_response(body_for(exchange.request.dialect, response))
    except Exception:  # noqa: BLE001 - foreign objects; the agent has its answer already
        return
