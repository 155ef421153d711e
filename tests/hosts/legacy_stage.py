"""Scenes on verifiers' legacy server: a raw agent on one side, a loop on the other.

A scene plays the same with the instrumentor and without, so that both can be compared.
"""

import asyncio
import importlib
import json
import re
import socket
import struct
import warnings
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import NamedTuple, TypeAlias

from otel_intercept.instrumentation.verifiers import versions

SECRET = "sk-canary-7d1f0c2b9e"
TRAJECTORY = "4bf92f3577b34da6a3ce929d0e0e4736"
KEEPALIVE_S = 0.05
_VERSION = versions.installed_version() or ""
PACKAGE = "verifiers.legacy" if _VERSION == "0.3.1" else "verifiers"
_RUNNER = "_runner"
_PATIENCE = "_shutdown_timeout"
_VARYING = re.compile(rb"Date: [^\r]*\r\n")
_KEEPALIVES = re.compile(rb"(?:d\r\n: keepalive\n\n\r\n)+")
_TOOK = re.compile(r"after [\d.]+\w+")


def load(name: str) -> ModuleType:
    """Import a module of the legacy stack under the name that it has in this release.

    It warns of its own use of pydantic.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"{PACKAGE}.{name}")


class Played(NamedTuple):
    """What a scene left behind, as far as others can see it.

    Args:
        seen: The bytes that the agent got, in the order of its requests.
        state: The state, with classes and texts in the place of exceptions.
    """

    seen: tuple[bytes, ...]
    state: Mapping[str, str]


@dataclass(slots=True)
class Stage:
    """One server with one rollout.

    Args:
        module: Their module of the server.
        server: Their server, started.
        rollout_id: The rollout's.
        state: Its state.
    """

    module: ModuleType
    server: "Server"
    rollout_id: str = "r1"
    state: dict[str, object] = field(
        default_factory=lambda: {"trajectory_id": TRAJECTORY}
    )
    queue: "asyncio.Queue[str]" = field(default_factory=asyncio.Queue)
    seen: list[bytes] = field(default_factory=list)

    def register(self) -> None:
        """Register the rollout."""
        self.queue = self.server.register_rollout(self.rollout_id, self.state)

    async def intercept(self) -> "Intercept":
        """Wait for a request, and return its intercept."""
        request_id = await asyncio.wait_for(self.queue.get(), 5)
        return self.server.intercepts[request_id]

    def agent(self, *, stream: bool = False, **given: object) -> "Agent":
        """Return an agent that is about to ask."""
        body = {"model": "m", "messages": [{"role": "user", "content": SECRET}]}
        return Agent(self, json.dumps(body | {"stream": stream} | given).encode())

    async def ask(self, *, stream: bool = False, **given: object) -> bytes:
        """Ask, and return all that was answered."""
        return await self.agent(stream=stream, **given).ask()

    def deliver(
        self,
        intercept: "Intercept",
        response: object = None,
        error: BaseException | None = None,
    ) -> Awaitable[None]:
        """Answer an intercept as their rollout loop does."""

        async def answer() -> None:
            if intercept["stream"]:
                await self.module.synthesize_stream(intercept, response, error)
            else:
                self.module.deliver_response(intercept, response, error)

        return answer()

    async def chunks(self, intercept: "Intercept", *texts: object) -> None:
        """Put chunks on a stream; None is its end."""
        queue = intercept["chunk_queue"]
        assert isinstance(queue, asyncio.Queue)
        for text in texts:
            delta = {"choices": [{"index": 0, "delta": {"content": text}}]}
            await queue.put(None if text is None else delta)

    def future(self, intercept: "Intercept") -> "asyncio.Future[object]":
        """Return what the handler of an intercept waits for."""
        future = intercept["response_future"]
        assert isinstance(future, asyncio.Future)
        return future

    async def stop(self) -> None:
        """Stop the server, which would wait a minute for its handlers."""
        runner, patience = getattr(self.server, _RUNNER), 0.3
        if runner is not None:
            setattr(runner, _PATIENCE, patience)
        await self.server.stop()

    def played(self) -> Played:
        """Return what is to be compared."""
        return Played(
            tuple(_steady(data) for data in self.seen),
            {key: _words(value) for key, value in self.state.items()},
        )


@dataclass(slots=True)
class Agent:
    """One request on a raw socket.

    Args:
        stage: Where.
        body: The JSON body.
        path: The API's path.
        secret: The credential, or None for the right one.
        rollout_id: The rollout's in the URL, or None for the right one.
        headers: Further header lines.
    """

    stage: Stage
    body: bytes
    path: str = "/v1/chat/completions"
    secret: str | None = None
    rollout_id: str | None = None
    headers: str = ""
    writer: asyncio.StreamWriter | None = None

    async def connect(self) -> asyncio.StreamReader:
        """Send the request."""
        server = self.stage.server
        reader, self.writer = await asyncio.open_connection("127.0.0.1", server.port)
        rollout_id = self.rollout_id or self.stage.rollout_id
        self.writer.write(
            f"POST /rollout/{rollout_id}{self.path} HTTP/1.1\r\nHost: loopback\r\n"
            f"Authorization: Bearer {self.secret or server.secret}\r\n"
            f"Content-Length: {len(self.body)}\r\nConnection: close\r\n"
            f"{self.headers}\r\n".encode()
            + self.body
        )
        await self.writer.drain()
        return reader

    async def ask(self) -> bytes:
        """Send the request, and return all bytes of the answer."""
        reader = await self.connect()
        data = await asyncio.wait_for(reader.read(), 10)
        self.stage.seen.append(data)
        self.leave()
        return data

    def leave(self) -> None:
        """Reset the connection."""
        assert self.writer is not None
        connection = self.writer.get_extra_info("socket")
        if connection is not None:
            hard = struct.pack("ii", 1, 0)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
        self.writer.transport.abort()


def response(text: str = "hello") -> object:
    """Return a model's answer in verifiers' own class."""
    types = load("types")
    return types.Response(
        id="resp_1",
        created=123,
        model="real-model",
        usage=types.Usage(
            prompt_tokens=10, reasoning_tokens=0, completion_tokens=5, total_tokens=15
        ),
        message=types.ResponseMessage(
            content=text,
            reasoning_content=None,
            tool_calls=None,
            finish_reason="stop",
            is_truncated=False,
            tokens=None,
        ),
    )


Intercept: TypeAlias = dict[str, object]


class Server:
    """What of their server the scenes use; it is never made."""

    port: int
    secret: str
    intercepts: dict[str, Intercept]
    active_rollouts: dict[str, dict[str, object]]
    register_rollout: Callable[..., "asyncio.Queue[str]"]
    unregister_rollout: Callable[[str], None]
    start: Callable[[], Awaitable[None]]
    stop: Callable[[], Awaitable[None]]


def _steady(data: bytes) -> bytes:
    return _KEEPALIVES.sub(b"<keepalives>", _VARYING.sub(b"", data))


def _words(value: object) -> str:
    if not isinstance(value, BaseException):
        return repr(value)
    kind = type(value)
    text = _TOOK.sub("after #", str(value))
    cause = f" from {value.__cause__!r}" if value.__cause__ is not None else ""
    return f"{kind.__module__}.{kind.__qualname__}: {text}{cause}"
