"""Call the upstream with aiohttp and check its answer: what the good apps share."""

import json
from collections.abc import AsyncIterator, Mapping

import aiohttp
from aiohttp import web

SESSION = web.AppKey("session", aiohttp.ClientSession)
TIMEOUT = aiohttp.ClientTimeout(total=1.5)
_DONE = "data: [DONE]"


class UpstreamRefused(Exception):
    """The upstream has put an error into its stream."""


async def session_of(app: web.Application) -> AsyncIterator[None]:
    """Hold a client session while the app is served."""
    async with aiohttp.ClientSession(timeout=TIMEOUT) as session:
        app[SESSION] = session
        yield


async def whole(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, object]
) -> dict[str, object]:
    """Return the upstream's answer; raises what aiohttp raises, and if it is empty."""
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        value: object = await answer.json()
        if not isinstance(value, dict):
            raise aiohttp.ContentTypeError(
                answer.request_info, answer.history, message="no JSON object"
            )
        return value


async def events(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, object]
) -> AsyncIterator[bytes]:
    """Yield the upstream's events, the terminal one last; raises if it never comes."""
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()
        chunks = 0
        async for line in answer.content:
            text = line.decode().strip()
            if text == _DONE and chunks:
                yield b"data: [DONE]\n\n"
                return
            if text.startswith("data: {"):
                if "error" in json.loads(text.removeprefix("data: ")):
                    raise UpstreamRefused
                chunks += 1
                yield f"{text}\n\n".encode()
        raise aiohttp.ClientPayloadError("the stream has no end")


async def begin_stream(request: web.Request) -> web.StreamResponse:
    """Begin an event stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    return response
