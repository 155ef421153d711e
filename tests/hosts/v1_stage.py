"""Scenes on verifiers' v1 server: a scripted upstream below, the OpenAI SDK above.

A scene plays the same with the server observed and without, so that both can be
compared: what the agent's sockets got, what the upstream got, and the trace.
"""

import asyncio
import contextlib
import importlib
import os
import re
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from importlib import metadata
from types import ModuleType
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeAlias

import httpx
import openai
from aiohttp import web

from otel_intercept.instrumentation.verifiers import contrib, v1
from otel_intercept.instrumentation.verifiers.host import Host, Options
from otel_intercept.instrumentation.verifiers.patches import Patches
from otel_intercept.testing import TelemetryRecorder
from tests.hosts.v1_upstream import Upstream

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletionUserMessageParam

TRACE_ID: Final = "4bf92f3577b34da6a3ce929d0e0e4736"
RETRY: Final = {"x-stainless-retry-count": "1"}
_KEY_VARIABLE: Final = "OTEL_INTERCEPT_TEST_UPSTREAM_KEY"
_PATIENCE: Final = "_shutdown_timeout"
_VARYING: Final = re.compile(rb"Date: [^\r]*\r\n")
_TIMES: Final = frozenset({"time", "timestamp", "timing"})


def load(name: str) -> ModuleType:
    """Import a module of the v1 stack, whose own use of its dependencies warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module(f"verifiers.v1.{name}")


def is_old() -> bool:
    """Tell whether streams are relayed as they come: so it was before 0.4."""
    return metadata.version("verifiers").startswith("0.3.")


class Observer:
    """The hooks on the v1 stack, until they are undone."""

    def __init__(
        self, recorder: TelemetryRecorder, options: Options | None = None
    ) -> None:
        self.host = Host(recorder.telemetry, options or Options())
        self.patches = Patches()
        v1.patch(self.patches, self.host)
        contrib.patch(self.patches)

    def undo(self) -> None:
        """Take the hooks off."""
        self.patches.undo()
        self.host.close_all()


class Tap:
    """Passes bytes between agents and a server, and keeps what the server sent."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.sent: list[bytearray] = []
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/v1"

    async def stop(self) -> None:
        """Stop, once every connection is through."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._tasks.add(asyncio.create_task(self._pass(reader, writer)))

    async def _pass(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        sent = bytearray()
        self.sent.append(sent)
        below_reader, below = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, below, bytearray()))
                group.create_task(_copy(below_reader, writer, sent))
        finally:
            for each in (below, writer):
                each.close()
                with contextlib.suppress(ConnectionError):
                    await each.wait_closed()


async def _copy(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: bytearray
) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65_536):
            kept += data
            writer.write(data)
            await writer.drain()
    writer.close()


class Trace(Protocol):
    """What scenes use of their traces."""

    id: str
    ok: bool
    errors: list["Recorded"]
    calls: list["Call"]
    stop_condition: str | None

    def stop(self, condition: str) -> None: ...

    def record_error(self, error: Exception) -> None: ...

    def record_timeout(self, stage: str) -> None: ...

    def model_dump(self, *, mode: str) -> dict[str, object]: ...


class Recorded(Protocol):
    """An error on a trace."""

    type: str
    message: str
    traceback: str | None


class Call(Protocol):
    """A model call on a trace."""

    node: int | None
    error: Recorded | None


class Client(Protocol):
    """What scenes use of their model clients."""

    client: httpx.AsyncClient


class Session(Protocol):
    """What scenes use of their sessions."""

    client: Client
    ctx: object

    trace: Trace
    limits: object
    error: Exception | None
    request_interceptors: list[object]
    response_interceptors: list[object]
    released: bool
    tasks: set[object]


class Server(Protocol):
    """What scenes use of their servers."""

    port: int
    runner: web.AppRunner

    def register(self, session: Session) -> tuple[str, str]: ...

    def unregister(self, model_secret: str, state_secret: str) -> None: ...

    def acquire(self, session: Session) -> AbstractAsyncContextManager[object]: ...

    async def start(self) -> None: ...

    async def stop(self) -> None: ...


@dataclass(slots=True)
class Stage:
    """One registered session and everything around it, for a scene to use.

    Attributes:
        got: What each request came to, in the agent's words.
    """

    upstream: Upstream
    server: Server
    session: Session
    secrets: tuple[str, str]
    tap: Tap
    agent: openai.AsyncOpenAI
    got: list[str] = field(default_factory=list)

    async def ask(
        self,
        *,
        stream: bool = False,
        headers: Mapping[str, str] | None = None,
        text: str = "hello",
    ) -> str:
        """Let the agent ask once; return its answer, or the class of its error."""
        message: ChatCompletionUserMessageParam = {"role": "user", "content": text}
        create = self.agent.chat.completions.create
        answer = ""
        try:
            if stream:
                async for chunk in await create(
                    model="m", messages=[message], stream=True, extra_headers=headers
                ):
                    answer += chunk.choices[0].delta.content or ""
            else:
                completion = await create(
                    model="m", messages=[message], extra_headers=headers
                )
                answer = completion.choices[0].message.content or ""
        except (openai.OpenAIError, httpx.HTTPError) as exc:
            answer += f"!{type(exc).__name__}"
        self.got.append(answer)
        return answer

    async def post(self, path: str, body: bytes, secret: str) -> None:
        """Send a request that no SDK would."""
        headers = {"x-api-key": secret, "Authorization": f"Bearer {secret}"}
        url = self.tap.url.removesuffix("/v1") + path
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.post(url, content=body, headers=headers)
        self.got.append(f"{response.status_code}")

    async def get(self, path: str, secret: str) -> None:
        """Ask one of the routes that tools use."""
        url = self.tap.url.removesuffix("/v1") + path
        async with httpx.AsyncClient(trust_env=False) as client:
            await client.get(url, headers={"Authorization": f"Bearer {secret}"})

    def unregister(self) -> None:
        """Conclude the rollout. Idempotent, as theirs is."""
        self.server.unregister(*self.secrets)


Scene: TypeAlias = Callable[[Stage], Awaitable[None]]


class Played(NamedTuple):
    """What a scene left behind, as far as others can see it."""

    sent: tuple[bytes, ...]
    got: tuple[str, ...]
    calls: tuple[Mapping[str, str], ...]
    trace: object
    error: str


def new_session(upstream_url: str, trace_id: str = TRACE_ID) -> Session:
    """Make a session of theirs."""
    os.environ[_KEY_VARIABLE] = "sk-upstream"
    traces, configs = load("trace"), load("configs.client")
    config = configs.EvalClientConfig(
        base_url=f"{upstream_url}/v1", api_key_var=_KEY_VARIABLE
    )
    data = load("task").TaskData(idx=0, prompt="hello")
    agent = traces.AgentInfo(config=load("configs.agent").AgentConfig())
    trace = traces.Trace(
        id=trace_id, agent=agent, task=traces.TraceTask(type="T", data=data)
    )
    context = load("clients").ModelContext(model="up-1", client=config)
    session: Session = load("session").RolloutSession(ctx=context, trace=trace)
    return session


def new_server() -> Server:
    """Make a server of theirs."""
    server: Server = load("interception.server").InterceptionServer()
    return server


@asynccontextmanager
async def started(server: Server) -> AsyncIterator[Server]:
    """Start a server, and stop it without waiting a minute for its handlers."""
    await server.start()
    try:
        yield server
    finally:
        setattr(server.runner, _PATIENCE, 0.3)
        await server.stop()


@asynccontextmanager
async def served(app: web.Application) -> AsyncIterator[str]:
    """Serve the upstream; give its URL."""
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def stage(
    *script: str, retries: int = 0, trace_id: str = TRACE_ID
) -> AsyncIterator[Stage]:
    """Set the stage for one rollout, and conclude it at the end."""
    upstream = Upstream(*script)
    async with served(upstream.app()) as url, started(new_server()) as server:
        session = new_session(url, trace_id)
        secrets = server.register(session)
        tap = Tap(server.port)
        await tap.start()
        agent = openai.AsyncOpenAI(
            base_url=tap.url, api_key=secrets[0], max_retries=retries, timeout=10
        )
        set_up = Stage(upstream, server, session, secrets, tap, agent)
        try:
            yield set_up
        finally:
            set_up.unregister()
            await agent.close()
            await tap.stop()


async def play(scene: Scene, *script: str, retries: int = 0) -> Played:
    """Play a scene, and return what it left behind."""
    async with asyncio.timeout(20), stage(*script, retries=retries) as set_up:
        await scene(set_up)
        set_up.unregister()
    error = set_up.session.error
    return Played(
        tuple(_VARYING.sub(b"", bytes(sent)) for sent in set_up.tap.sent),
        tuple(set_up.got),
        tuple(set_up.upstream.calls),
        _steady(set_up.session.trace.model_dump(mode="json")),
        f"{type(error).__name__}: {error}",
    )


def _steady(value: object) -> object:
    """Leave the times out of a dump."""
    if isinstance(value, dict):
        return {
            key: None if key in _TIMES else _steady(each) for key, each in value.items()
        }
    return [_steady(each) for each in value] if isinstance(value, list) else value
