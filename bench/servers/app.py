"""The server that everybody watches: the request flow of an interception proxy.

Bearer token, registry, JSON body, a queue, a future that a task of the rollout
resolves, and a JSON answer, or the event stream that verifiers' server writes.
"""

import asyncio
import contextlib
import hmac
import json
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol, TypeAlias

from aiohttp import web

from bench.scenes import ROLLOUTS, ROUTE, SECRET

Answer: TypeAlias = asyncio.Future[dict[str, object]]
AnyAnswer: TypeAlias = Answer | asyncio.Future[object]
Chunks: TypeAlias = asyncio.Queue[Mapping[str, object] | None]
Observe: TypeAlias = Callable[[web.Request, Mapping[str, object], Answer], None]
"""Two lines that an instrumentation may want in the handler."""

KEEPALIVE_S: Final = 3.0
_BEARER: Final = f"Bearer {SECRET}"
_USAGE: Final = {"prompt_tokens": 500, "completion_tokens": 450, "total_tokens": 950}
_CONTENT: Final = ("the agent reads the file and runs the tests " * 42)[:1_700]
_HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "Connection": "keep-alive",
}


class UpstreamError(Exception):
    """The model call failed."""


@dataclass(slots=True)
class Intercept:
    """A model call that waits for its answer."""

    body: Mapping[str, object]
    response: Answer
    chunks: Chunks | None


@dataclass(slots=True)
class _Server:
    observe: Observe | None
    queues: dict[str, "asyncio.Queue[str]"] = field(default_factory=dict)
    intercepts: dict[str, Intercept] = field(default_factory=dict)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given, _BEARER):
            return web.json_response({"error": "unauthorized"}, status=401)
        queue = self.queues.get(request.match_info["rollout_id"])
        if queue is None:
            return web.json_response({"error": "rollout not found"}, status=404)
        body: dict[str, object] = await request.json()
        stream = body.get("stream") is True
        request_id = f"req_{uuid.uuid4().hex[:8]}"
        intercept = Intercept(
            body,
            asyncio.get_running_loop().create_future(),
            asyncio.Queue() if stream else None,
        )
        if self.observe is not None:
            self.observe(request, body, intercept.response)
        kind = str(body["model"]).partition(":")[0]
        self.intercepts[request_id] = intercept
        await queue.put(request_id)
        if intercept.chunks is not None:
            terminal = kind != "fail-truncated"
            return await stream_answer(
                request, intercept.chunks, intercept.response, terminal=terminal
            )
        try:
            answer = await intercept.response
        except UpstreamError:
            return web.json_response({"error": "upstream"}, status=500)
        if kind == "fail-status":
            return web.json_response(answer, status=429)
        if kind == "fail-handler":
            raise ValueError
        return web.json_response(answer)

    async def consume(self, queue: "asyncio.Queue[str]") -> None:
        while True:
            one = self.intercepts.pop(await queue.get())
            answer_call(str(one.body["model"]), one.chunks, one.response)


def answer_call(model: str, chunks: Chunks | None, response: AnyAnswer) -> None:
    """Answer one model call, as its model name says."""
    kind, _, number = model.partition(":")
    if chunks is not None:
        _put_chunks(chunks, kind, int(number))
    if kind == "fail-upstream":
        response.set_exception(UpstreamError())
    else:
        response.set_result(completion())


def _put_chunks(chunks: Chunks, kind: str, number: int) -> None:
    for _ in range(number):
        chunks.put_nowait(chunk("token "))
    match kind:
        case "fail-frame":
            chunks.put_nowait({"error": {"type": "overloaded_error"}})
        case "fail-cut":
            # What has no JSON form cuts the stream where it is written.
            chunks.put_nowait({"delta": object()})
        case "ok":
            chunks.put_nowait(chunk(None))
        case _:
            pass
    chunks.put_nowait(None)


def completion() -> dict[str, object]:
    """Return a chat completion of about 2 KB."""
    message = {"role": "assistant", "content": _CONTENT}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "ok",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": _USAGE,
    }


def chunk(content: str | None) -> dict[str, object]:
    """Return a chunk with some text, or, for None, the last one."""
    delta = {} if content is None else {"content": content}
    finish = "stop" if content is None else None
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "ok",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }


async def stream_answer(
    request: web.Request,
    chunks: Chunks,
    response_future: Answer,
    *,
    terminal: bool,
) -> web.StreamResponse:
    """Write an event stream as verifiers' server does, one task per chunk."""
    response = web.StreamResponse(headers=_HEADERS)
    await response.prepare(request)
    get_task: asyncio.Task[Mapping[str, object] | None] | None = None
    while True:
        if get_task is None:
            get_task = asyncio.create_task(chunks.get())
        done, _ = await asyncio.wait({get_task}, timeout=KEEPALIVE_S)
        if get_task not in done:
            await response.write(b": keepalive\n\n")
            continue
        piece = get_task.result()
        get_task = None
        if piece is None:
            break
        await response.write(f"data: {json.dumps(piece)}\n\n".encode())
        await asyncio.sleep(0)
    if terminal:
        await response.write(b"data: [DONE]\n\n")
    with contextlib.suppress(UpstreamError):
        await response_future
    await response.write_eof()
    return response


def make_app(observe: Observe | None = None) -> web.Application:
    """Return the app, with `bench.scenes.ROLLOUTS` rollouts open."""
    server = _Server(observe)

    async def consumers(app: web.Application) -> AsyncIterator[None]:
        tasks: list[asyncio.Task[None]] = []
        for number in range(ROLLOUTS):
            queue = server.queues[f"r{number}"] = asyncio.Queue()
            tasks.append(asyncio.create_task(server.consume(queue)))
        yield
        for task in tasks:
            task.cancel()

    app = web.Application(client_max_size=48 * 1024 * 1024)
    app.cleanup_ctx.append(consumers)
    app.router.add_post(ROUTE, server.chat)
    return app


class Site(Protocol):
    """What can be served."""

    async def start(self) -> int:
        """Listen on some port of this machine, and return it."""

    async def stop(self) -> None:
        """Stop listening."""


class AppSite:
    """Serves an aiohttp app."""

    def __init__(self, app: web.Application) -> None:
        self._runner = web.AppRunner(app, access_log=None)

    async def start(self) -> int:
        """Listen on some port of this machine, and return it."""
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Stop listening."""
        await self._runner.cleanup()
