"""A hostile upstream on raw sockets: canaries wherever an answer can carry text."""

import asyncio
import json
import socket
import struct
from collections.abc import Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Literal

from tests.canary import Mint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STATUSES: Final = (
    400, 401, 403, 404, 408, 409, 413, 418, 422, 429, 500, 502, 503, 504, 529,
)  # fmt: skip

_TLS: Final = b"\x16"
_STREAM: Final = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    b"Transfer-Encoding: chunked\r\n"
)
_OPEN: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
_BEGUN: Final = _OPEN + b"Content-Length: 9000\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Script:
    """What is sent in answer to any request, and what is done then."""

    raw: bytes
    then: Literal["close", "hang", "reset"] = "close"


@dataclass(slots=True)
class Upstream:
    """A running upstream. A segment of a request's path picks the script.

    Attributes:
        port: Where it listens.
        sent: Every answer, as given to the socket.
        received: Every request, head and body.
    """

    port: int = 0
    sent: list[bytes] = field(default_factory=list)
    received: list[bytes] = field(default_factory=list)


@asynccontextmanager
async def hostile_upstream(mint: Mint) -> "AsyncIterator[Upstream]":
    """Serve the scripts of a run until the block ends."""
    scripts = scripts_of(mint)
    upstream = Upstream()
    stopped = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A client that speaks TLS, or leaves, is not worth a word.
        try:
            await _answer(reader, writer, scripts, upstream, stopped)
        except (OSError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1 << 20)
    upstream.port = server.sockets[0].getsockname()[1]
    try:
        yield upstream
    finally:
        stopped.set()
        server.close()
        await server.wait_closed()
        # Let the connections see it, or they are reported as never closed.
        await asyncio.sleep(0.01)


async def _answer(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    scripts: Mapping[str, Script],
    upstream: Upstream,
    stopped: asyncio.Event,
) -> None:
    first = await reader.readexactly(1)
    if first == _TLS:
        # The way in which plain HTTP servers fail a client that speaks TLS.
        writer.write(scripts["bad_status_line"].raw)
        return
    head = first + await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line[15:])
    upstream.received.append(head + await reader.readexactly(length))
    segments = head.split(b" ", 2)[1].decode().split("/")
    script = scripts[next(segment for segment in segments if segment in scripts)]
    writer.write(script.raw)
    await writer.drain()
    upstream.sent.append(script.raw)
    if script.then == "hang":
        await stopped.wait()
    elif script.then == "reset":
        # Without a pause the client may see the reset before what was sent.
        await asyncio.sleep(0.05)
        linger = struct.pack("ii", 1, 0)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()


def scripts_of(mint: Mint) -> dict[str, Script]:
    """Return what the upstream can do, by name."""
    scripts = {f"status_{n}": _reply(mint, n, _error(mint)) for n in STATUSES}
    for name, status, code in (
        ("context_length", 400, "context_length_exceeded"),
        ("content_filter", 400, "content_filter"),
    ):
        scripts[name] = _reply(mint, status, _error(mint, code=code))
    html = f"<html><title>{mint('up.html_body')}</title></html>".encode()
    text = f"upstream said: {mint('up.text_body')}".encode()
    scripts |= {
        "html_500": _reply(mint, 500, html, "text/html"),
        "text_503": _reply(mint, 503, text, "text/plain"),
        "empty_500": _reply(mint, 500, b""),
        "html_200": _reply(mint, 200, html, "text/html"),
        "redirect": _reply(
            mint,
            302,
            b"",
            headers=f"Location: http://127.0.0.1:1/{mint('up.location')}\r\n",
        ),
    }
    return scripts | _malformed(mint) | _streams(mint)


def _malformed(mint: Mint) -> dict[str, Script]:
    """Return answers that break HTTP, or JSON, at every stage."""
    broken = f'{{"choices": [{{"text": "{mint("up.broken_json")}"'.encode()
    body = b"Content-Length: 40\r\n\r\n"
    chunked = _OPEN + b"Transfer-Encoding: chunked\r\n"
    return {
        "bad_status_line": Script(_line(mint, "HTTP/1.1 {} nope\r\n\r\n", "status")),
        "no_http": Script(_line(mint, "{} is no HTTP\r\n\r\n", "no_http")),
        "bad_header": Script(_OPEN + _line(mint, "{} line\r\n\r\n", "bad_header")),
        "long_header": Script(
            _OPEN + b"X-Long: " + mint("up.long_header").encode() * 1500 + b"\r\n\r\n"
        ),
        "bad_length": Script(
            _OPEN + _line(mint, "Content-Length: {}\r\n\r\n", "bad_length")
        ),
        "bad_chunk": Script(chunked + _line(mint, "\r\n{}\r\nx\r\n", "bad_chunk")),
        "bad_trailer": Script(
            chunked + _line(mint, "\r\n1\r\n{{\r\n0\r\nX-T: {}\r\n\r\n", "trailer")
        ),
        "bad_encoding": Script(
            _OPEN + b"Content-Encoding: gzip\r\n" + _line(mint, body.decode() + "{}"
            "0123456789abcdef", "bad_gzip")
        ),
        "bad_charset": Script(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json; charset="
            + _line(mint, "{}\r\nContent-Length: 4\r\n\r\n{{\xff{{ ", "charset")
        ),
        "short_body": Script(
            _BEGUN + _line(mint, "{{\"{}", "short_body")
        ),
        "broken_json": _reply(mint, 200, broken),
        "empty_200": _reply(mint, 200, b""),
        "says_nothing": Script(b""),
        "hangs": Script(b"", "hang"),
        "hangs_in_body": Script(
            _BEGUN + _line(mint, "{{\"{}", "hung_body"), "hang"
        ),
        "resets": Script(b"", "reset"),
    }  # fmt: skip


def _streams(mint: Mint) -> dict[str, Script]:
    """Return event streams that fail on the way."""
    error = _event("error", json.loads(_error(mint)))
    overloaded = _event("error", json.loads(_error(mint, "overloaded_error")))
    broken = (
        "event: content_block_delta\n"
        f'data: {{"choices": [{mint("up.sse_broken_json")}\n\n'
    ).encode()
    first = b"".join(_first_events(mint))
    noise = (
        f": {mint('up.sse_comment')}\nid: {mint('up.sse_id')}\n"
        f"retry: {mint.number('up.sse_retry')}\n"
    ).encode()
    cut = _STREAM + b"\r\n" + _chunk(first) + b"ff\r\ndata: {"
    return {
        "sse_error": _stream(first, noise + error),
        "sse_error_first": _stream(noise + error),
        "sse_overloaded": _stream(first, overloaded),
        "sse_broken_json": _stream(first, broken),
        "sse_cut": Script(cut),
        "sse_reset": Script(cut, "reset"),
        "sse_hangs": Script(cut, "hang"),
        "sse_no_end": _stream(first),
    }


def _line(mint: Mint, pattern: str, place: str) -> bytes:
    return pattern.format(mint(f"up.{place}")).encode("latin-1")


def _reply(
    mint: Mint,
    status: int,
    body: bytes,
    content_type: str = "application/json",
    headers: str = "",
) -> Script:
    head = (
        f"HTTP/1.1 {status} Reason {mint('up.reason')}\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n"
        f"X-{mint('up.header_name')}: yes\r\n"
        f"X-Internal: {mint('up.header_value')}\r\n"
        f"Set-Cookie: sid={mint('up.set_cookie')}; Path=/\r\n"
        f'WWW-Authenticate: Bearer realm="{mint("up.www_authenticate")}"\r\n'
        f"Retry-After: {mint.number('up.retry_after')}\r\n"
        f"X-Request-Id: {mint('up.request_id')}\r\n"
        f"Request-Id: {mint('up.request_id')}\r\n"
        f"Server: {mint('up.server')}\r\n"
        f"{headers}Connection: close\r\n\r\n"
    )
    return Script(head.encode() + body)


def _error(mint: Mint, kind: str | None = None, code: str | None = None) -> bytes:
    """Return an error body that both SDKs take for their own."""
    error = {
        "type": kind or mint("up.error_type"),
        "code": code or mint("up.error_code"),
        "message": f"Incorrect API key provided: {mint('up.error_message')}.",
        "param": mint("up.error_param"),
        "number": mint.number("up.error_number"),
    }
    body = {"type": "error", "error": error, "request_id": mint("up.request_id")}
    return json.dumps(body).encode()


def _first_events(mint: Mint) -> Iterator[bytes]:
    """Yield the beginning of a chat stream and of a message stream, in one."""
    content = mint("up.content")
    choice = {
        "index": 0,
        "delta": {"role": "assistant", "content": content},
        "finish_reason": mint("up.finish_reason"),
    }
    yield _event(
        None,
        {
            "id": mint("up.completion_id"),
            "object": "chat.completion.chunk",
            "created": 1,
            "model": f"no model name {mint('up.model')}",
            "choices": [choice],
        },
    )
    block = {"type": "text", "text": content}
    yield _event(
        "content_block_start",
        {"type": "content_block_start", "index": 0, "content_block": block},
    )


def _event(name: str | None, data: object) -> bytes:
    named = f"event: {name}\n" if name else ""
    return f"{named}data: {json.dumps(data)}\n\n".encode()


def _stream(*events: bytes) -> Script:
    chunks = b"".join(map(_chunk, events))
    return Script(_STREAM + b"\r\n" + chunks + b"0\r\n\r\n")


def _chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"
