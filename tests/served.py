"""A served interception server, its agents and its consumers, for tests."""

import asyncio
import io
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import aiohttp
from multidict import CIMultiDict, CIMultiDictProxy
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind
from yarl import URL

from otel_intercept import RolloutRegistry
from otel_intercept.server import Intercept, InterceptionServer, StreamFailure
from otel_intercept.testing import TelemetryRecorder

SECRET = "sk-canary-5d0c77"
MESSAGES = [{"role": "user", "content": "hello"}]
CHAT = "chat/completions"
ROUTES = (CHAT, "completions", "responses", "messages")

_TURN_S: Final = 0.005

Consumer = Callable[[InterceptionServer, Intercept], Awaitable[None]]


@dataclass(slots=True)
class Reply:
    """What an agent got."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> object:
        """Parse the body."""
        value: object = json.loads(self.body)
        return value


def chat_body(text: str = "hi", **fields: object) -> dict[str, object]:
    """Make a chat completion."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    body = {"id": "c1", "object": "chat.completion", "created": 7, "model": "m"}
    return {**body, "choices": [choice], "usage": usage, **fields}


def chunk(
    text: str | None = None, finish_reason: str | None = None, **fields: object
) -> dict[str, object]:
    """Make a chat chunk."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    head = {"id": "c1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
    return {**head, "choices": [choice], **fields}


@asynccontextmanager
async def running(
    registry: RolloutRegistry,
    *,
    secret: str | None = None,
    keepalive_s: float = 3.0,
    client_max_size: int = 1 << 20,
    stream_failure: StreamFailure = "done",
    shutdown_timeout_s: float = 1.0,
) -> AsyncIterator[InterceptionServer]:
    """Serve for the length of a block."""
    server = InterceptionServer(
        registry,
        secret=secret,
        keepalive_s=keepalive_s,
        client_max_size=client_max_size,
        stream_failure=stream_failure,
        shutdown_timeout_s=shutdown_timeout_s,
    )
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


def base_url(server: InterceptionServer, rollout_id: str = "r1") -> str:
    """Give a rollout's base URL, without ``/v1``."""
    return f"http://127.0.0.1:{server.port}/rollout/{rollout_id}"


async def call(
    server: InterceptionServer,
    path: str = f"v1/{CHAT}",
    body: object = None,
    *,
    rollout_id: str = "r1",
    method: str = "POST",
    headers: Mapping[str, str] | None = None,
    data: bytes | None = None,
) -> Reply:
    """Send one request with the server's secret, and read all of the answer."""
    if headers is None:
        headers = {"Authorization": f"Bearer {server.secret}"}
    if data is None and body is not None:
        data = json.dumps(body).encode()
    url = f"{base_url(server, rollout_id)}/{path}"
    content = None if data is None else io.BytesIO(data)
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, headers=headers, data=content) as response,
    ):
        return Reply(response.status, await response.read(), response.headers)


@asynccontextmanager
async def consuming(
    server: InterceptionServer, queue: "asyncio.Queue[str]", consumer: Consumer
) -> AsyncIterator[None]:
    """Answer the requests of a rollout for the length of a block."""

    async def consume() -> None:
        while True:
            request_id = await queue.get()
            await consumer(server, server.intercepts[request_id])

    task = asyncio.create_task(consume())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def answering(response: object = None, error: BaseException | None = None) -> Consumer:
    """Make a consumer that gives every request the same answer, streamed or not."""

    async def consumer(server: InterceptionServer, intercept: Intercept) -> None:
        if intercept["stream"]:
            await server.synthesize_stream(intercept, response, error)
        else:
            server.deliver_response(intercept, response, error)

    return consumer


def refused(status: int) -> aiohttp.ClientResponseError:
    """Make the error of an upstream that refuses."""
    url = URL(f"http://up/?key={SECRET}")
    info = aiohttp.RequestInfo(url, "POST", CIMultiDictProxy(CIMultiDict()), url)
    return aiohttp.ClientResponseError(info, (), status=status, message=SECRET)


async def raw_agent(
    server: InterceptionServer, body: object, path: str = f"v1/{CHAT}"
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request over a socket of one's own, and leave the rest to the caller."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    data = json.dumps(body).encode()
    writer.write(
        f"POST /rollout/r1/{path} HTTP/1.1\r\nHost: x\r\nx-api-key: {server.secret}\r\n"
        f"Content-Length: {len(data)}\r\n\r\n".encode()
        + data
    )
    return reader, writer


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Wait until something holds, for so long on a machine that is not held up.

    Counts turns of the loop: while it stands still, so does what it serves.
    """
    for _ in range(math.ceil(timeout_s / _TURN_S)):
        if condition():
            return
        await asyncio.sleep(_TURN_S)
    if not condition():
        raise TimeoutError


async def settle(turns: int = 20) -> None:
    """Give the loop the turns in which it notices what has happened.

    At least 5 ms each, and as long as they take: not one long pause, behind which what
    the loop has yet to do may be due at the same moment.
    """
    for _ in range(turns):
        await asyncio.sleep(_TURN_S)


def attribute(span: ReadableSpan, key: str) -> object:
    """Read an attribute of a span."""
    return (span.attributes or {}).get(key)


def exchange_spans(recorder: TelemetryRecorder) -> list[ReadableSpan]:
    """Give the spans of all exchanges."""
    return [span for span in recorder.spans() if span.kind is SpanKind.SERVER]


def outcomes(recorder: TelemetryRecorder) -> list[object]:
    """Give the outcomes of all exchanges."""
    return [
        attribute(span, "intercept.exchange.outcome")
        for span in exchange_spans(recorder)
    ]


def failure_of(recorder: TelemetryRecorder) -> tuple[object, object]:
    """Give error type and phase of the one exchange."""
    (span,) = exchange_spans(recorder)
    (event,) = span.events
    phase = (event.attributes or {}).get("intercept.failure.phase")
    return attribute(span, "error.type"), phase


def events_of(body: bytes) -> list[tuple[str, object]]:
    """Parse an event stream into names and JSON data."""
    events = []
    for block in body.decode().split("\n\n"):
        name, data = "", None
        for line in block.splitlines():
            if line.startswith("event: "):
                name = line[7:]
            elif line.startswith("data: "):
                data = line[6:]
        if data is not None:
            value: object = data if data == "[DONE]" else json.loads(data)
            events.append((name, value))
    return events
