"""A real upstream on loopback that breaks as told, and real clients that call it."""

import asyncio
import functools
import json
import socket
import ssl
import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final, Literal

import aiohttp
import anthropic
import botocore.config
import botocore.session
import httpx
import openai

Call = Callable[[str], Awaitable[object]]

patience_s: Final[ContextVar[float]] = ContextVar("patience_s", default=20.0)
"""How long the clients wait, in seconds: long, unless silence is what is tested."""

UNKNOWN_HOST: Final = "http://" + ".".join(letter * 63 for letter in "abcde")
"""A name too long for DNS, so that the resolver refuses it without asking anybody."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the upstream sends once it has read a request, and what it does then."""

    raw: bytes = b""
    then: Literal["close", "hang", "reset"] = "close"


def reply(
    status: int,
    body: object,
    content_type: str = "application/json",
    headers: str = "",
) -> Answer:
    """Return a well-formed answer; a body that is no bytes is sent as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = (
        f"HTTP/1.1 {status} Reason\r\nContent-Type: {content_type}\r\n{headers}"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    return Answer(head.encode() + data)


def events(*lines: str) -> Answer:
    """Return a well-formed event stream."""
    return reply(200, "".join(lines).encode(), "text/event-stream")


def chunked(data: bytes, then: Literal["close", "reset"] = "close") -> Answer:
    """Return an event stream that breaks off within a chunk."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    size = f"{len(data) + 9:x}".encode()
    return Answer(
        head + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n" + data, then
    )


@asynccontextmanager
async def broken_upstream(
    answer: Answer, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[str]:
    """Serve one answer to every request; yield the base URL."""
    stopped = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _read_request(reader)
        writer.write(answer.raw)
        await writer.drain()
        if answer.then == "hang":
            await stopped.wait()
        elif answer.then == "reset":
            # Without a pause the client may see the reset before what was sent.
            await asyncio.sleep(0.05)
            linger = struct.pack("ii", 1, 0)
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    finally:
        stopped.set()
        server.close()
        await server.wait_closed()
        # Let the connections see it, or they are reported as never closed.
        await asyncio.sleep(0.01)


async def _read_request(reader: asyncio.StreamReader) -> None:
    length = 0
    while (line := await reader.readline()) not in {b"\r\n", b""}:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    await reader.read(length)


@asynccontextmanager
async def silent_port() -> AsyncIterator[int]:
    """Yield a port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def closed_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


async def raised_by(call: Call, base: str, *, waits: bool = True) -> Exception:
    """Return what a call raises; one that does not wait gives up on silence soon."""
    token = patience_s.set(patience_s.get() if waits else 0.2)
    try:
        await call(base)
    except Exception as exc:  # noqa: BLE001 - whatever it raises is what is tested
        return exc
    finally:
        patience_s.reset(token)
    raise AssertionError("the call succeeded")


async def aiohttp_json(base: str) -> object:
    """Post with aiohttp and read JSON."""
    timeout = aiohttp.ClientTimeout(
        connect=patience_s.get(), sock_read=patience_s.get()
    )
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
        session.post(base, json={}) as response,
    ):
        return await response.json()


async def httpx_json(base: str) -> object:
    """Post with httpx and read JSON."""
    async with httpx.AsyncClient(timeout=patience_s.get(), trust_env=False) as client:
        response = await client.post(base, json={})
        response.raise_for_status()
        return response.json()


async def httpx_stream(base: str) -> object:
    """Post with httpx and read the body as it comes."""
    async with (
        httpx.AsyncClient(timeout=patience_s.get(), trust_env=False) as client,
        client.stream("POST", base, json={}) as response,
    ):
        return [part async for part in response.aiter_bytes()]


def _openai(base: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(
        base_url=f"{base}/v1", api_key="k", max_retries=0, timeout=patience_s.get()
    )


def _anthropic(base: str) -> anthropic.AsyncAnthropic:
    return anthropic.AsyncAnthropic(
        base_url=base, api_key="k", max_retries=0, timeout=patience_s.get()
    )


async def openai_chat(base: str) -> object:
    """Complete a chat with the OpenAI SDK."""
    async with _openai(base) as client:
        return await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "q"}]
        )


async def openai_stream(base: str) -> object:
    """Stream a chat with the OpenAI SDK."""
    async with _openai(base) as client:
        stream = await client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "q"}], stream=True
        )
        return [chunk async for chunk in stream]


async def anthropic_message(base: str) -> object:
    """Create a message with the Anthropic SDK."""
    async with _anthropic(base) as client:
        return await client.messages.create(
            model="m", max_tokens=8, messages=[{"role": "user", "content": "q"}]
        )


async def anthropic_stream(base: str) -> object:
    """Stream a message with the Anthropic SDK."""
    async with _anthropic(base) as client:
        stream = await client.messages.create(
            model="m",
            max_tokens=8,
            messages=[{"role": "user", "content": "q"}],
            stream=True,
        )
        return [event async for event in stream]


@functools.cache
def _session() -> botocore.session.Session:
    return botocore.session.Session()


def _bedrock_call(base: str, *, stream: bool) -> object:
    client = _session().create_client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=base,
        aws_access_key_id="k",
        aws_secret_access_key="s",
        config=botocore.config.Config(
            connect_timeout=patience_s.get(),
            read_timeout=patience_s.get(),
            retries={"total_max_attempts": 1},
            proxies={},
        ),
    )
    operation = "invoke_model_with_response_stream" if stream else "invoke_model"
    try:
        body = getattr(client, operation)(modelId="m", body=b"{}")["body"]
        return list(body) if stream else body.read()
    finally:
        client.close()


async def bedrock(base: str) -> object:
    """Invoke a model with botocore."""
    return await asyncio.to_thread(_bedrock_call, base, stream=False)


async def bedrock_stream(base: str) -> object:
    """Invoke a model with botocore and read its event stream."""
    return await asyncio.to_thread(_bedrock_call, base, stream=True)


def bedrock_error(status: int, code: str) -> Answer:
    """Return an AWS error."""
    return reply(status, {"message": "no"}, headers=f"x-amzn-ErrorType: {code}\r\n")


def bedrock_error_event(code: str) -> Answer:
    """Return an AWS event stream that consists of an exception."""
    headers = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack("!H", len(value)) + value
        for name, value in (
            (b":message-type", b"exception"),
            (b":exception-type", code.encode()),
            (b":content-type", b"application/json"),
        )
    )
    payload = b'{"message":"no"}'
    total = 16 + len(headers) + len(payload)
    prelude = struct.pack("!II", total, len(headers))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + payload
    message += struct.pack("!I", zlib.crc32(message))
    return reply(200, message, "application/vnd.amazon.eventstream")


@asynccontextmanager
async def refusing_tls() -> AsyncIterator[str]:
    """Serve plain HTTP where TLS is expected; yield the base URL."""

    async def refuse(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.sleep(0.01)
