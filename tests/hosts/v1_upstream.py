"""A scripted upstream on a real socket: good answers, and each way to fail."""

import asyncio
import json
from typing import TYPE_CHECKING, Final

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

SECRET: Final = "sk-canary-7c1e09"
EVENT_STREAM: Final = {"Content-Type": "text/event-stream"}
USAGE: Final = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
PAGE: Final = f"<html><body>busy {SECRET}</body></html>"


def completion() -> dict[str, object]:
    """Return a whole chat completion."""
    message = {"role": "assistant", "content": "hi"}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    head = {"id": "c1", "object": "chat.completion", "created": 7, "model": "up-1"}
    return {**head, "choices": [choice], "usage": USAGE}


def chunk(text: str | None, finish_reason: str | None = None) -> bytes:
    """Return one event of a streamed chat completion."""
    delta = {"role": "assistant", "content": text} if text else {}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 7}
    event = {**head, "model": "up-1", "choices": [choice]}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


CHUNKS: Final = (chunk("h"), chunk("i"), chunk(None, "stop"))
DONE: Final = b"data: [DONE]\n\n"
ERROR_FRAME: Final = (
    b'data: {"error": {"type": "overloaded_error", "message": "'
    + SECRET.encode()
    + b'"}}\n\n'
)
OVERLONG: Final = f"This model's maximum context length is 8 tokens. {SECRET}"


class Upstream:
    """Answers each call as the next word of its script says, and the last word for all.

    Words: ``good``, a status, ``reset``, ``page``, ``cut``, ``frame``, ``endless``,
    ``hang``, ``overlong``; with ``slow-`` before it, once `go` is set.

    Attributes:
        script: The words that are left.
        calls: Headers of each call, without what varies.
        go: Lets slow answers go.
        reached: Set at each call.
    """

    def __init__(self, *script: str) -> None:
        self.script = list(script)
        self.calls: list[Mapping[str, str]] = []
        self.go = asyncio.Event()
        self.reached = asyncio.Event()

    def app(self) -> web.Application:
        """Return the app to be served."""
        app = web.Application()
        for route in ("/v1/chat/completions", "/v1/v1/messages/count_tokens"):
            app.router.add_post(route, self._answer)
        app.router.add_post("/v1/messages/count_tokens", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        word = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        self.calls.append(
            {k: v for k, v in request.headers.items() if k.lower() != "host"}
        )
        self.reached.set()
        if word.startswith("slow-"):
            word = word.removeprefix("slow-")
            await self.go.wait()
        if word == "hang":
            await asyncio.sleep(30)
        if word == "reset" and request.transport is not None:
            request.transport.abort()
            return web.Response()
        if word == "page":
            return web.Response(text=PAGE, content_type="text/html")
        if word == "overlong":
            error = {"message": OVERLONG, "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        if word.isdigit():
            error = {"message": f"GET https://up/?key={SECRET}", "type": "x"}
            return web.json_response({"error": error}, status=int(word))
        if body.get("stream"):
            return await self._stream(request, word)
        if word == "cut":
            return await self._cut_body(request)
        return web.json_response(completion())

    async def _stream(self, request: web.Request, word: str) -> web.StreamResponse:
        response = web.StreamResponse(headers=EVENT_STREAM)
        await response.prepare(request)
        if word == "frame":
            await response.write(ERROR_FRAME + DONE)
            await response.write_eof()
            return response
        for each in CHUNKS[:2]:
            await response.write(each)
            await asyncio.sleep(0.01)
        if word == "cut" and request.transport is not None:
            request.transport.close()
            return response
        if word != "endless":
            await response.write(CHUNKS[2] + DONE)
        await response.write_eof()
        return response

    async def _cut_body(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        response.content_length = 1000
        await response.prepare(request)
        await response.write(b'{"id": "')
        if request.transport is not None:
            request.transport.close()
        return response
