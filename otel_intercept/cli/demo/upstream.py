"""The scripted upstream: a real HTTP server that answers, or fails on cue.

It has no model. Its error texts hold a planted secret, as those of real providers do:
that is what must not get into any telemetry.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from aiohttp import web

from otel_intercept.cli.demo import answers
from otel_intercept.cli.demo.cues import Cues
from otel_intercept.cli.demo.faults import FAULT_HEADER, FAULT_MODEL, Fault
from otel_intercept.dialect import dialect_of
from otel_intercept.semconv import Dialect
from otel_intercept.server.runner import quiet_runner

LOOPBACK: Final = "127.0.0.1"

_EVENTS_BEFORE_TROUBLE: Final = 5
_MAX_BODY: Final = 1_048_576
_SHUTDOWN_S: Final = 1.0


class _Refusal(NamedTuple):
    status: int
    kind: str
    code: str | None = None


_REFUSALS: Final[Mapping[Fault, _Refusal]] = MappingProxyType(
    {
        Fault.SERVER_ERROR: _Refusal(500, "server_error"),
        Fault.OVERLOADED: _Refusal(503, "service_unavailable_error"),
        Fault.RATE_LIMITED: _Refusal(429, "rate_limit_error", "rate_limit_exceeded"),
        Fault.BAD_KEY: _Refusal(401, "authentication_error", "invalid_api_key"),
        Fault.BAD_REQUEST: _Refusal(400, "invalid_request_error"),
        Fault.CONTEXT_LENGTH: _Refusal(
            400, "invalid_request_error", "context_length_exceeded"
        ),
        Fault.CLEAN_STOP: _Refusal(
            400, "invalid_request_error", "context_length_exceeded"
        ),
        Fault.CONTENT_FILTER: _Refusal(400, "invalid_request_error", "content_filter"),
    }
)
_ANTHROPIC: Final[Mapping[Fault, _Refusal]] = MappingProxyType(
    {
        Fault.SERVER_ERROR: _Refusal(500, "api_error"),
        Fault.OVERLOADED: _Refusal(529, "overloaded_error"),
    }
)


class ScriptedUpstream:
    """What the handlers share.

    Args:
        secret: Stands in every error text that is sent.
        pace_s: Seconds between two chunks, and about a third of those before an answer.
        hang_s: Seconds that a hanging call takes to be hung up on, at most.

    Attributes:
        playing: What to play for a request that does not tell.
        cues: Of an agent that is going to leave: says that its call has arrived, and
            answers it when it has left. At first it has.
        calls: How many requests have come.
        secrets_sent: How many error texts were sent.
    """

    def __init__(
        self,
        *,
        secret: str,
        pace_s: float,
        hang_s: float = 60.0,
    ) -> None:
        self._pace_s = pace_s
        self._hang_s = hang_s
        self._stopping = asyncio.Event()
        self._text = (
            f"scripted failure, key {secret}, "
            f"see https://demo:{secret}@upstream.invalid/v1?token={secret}"
        )
        self.playing = Fault.NONE
        self.cues = Cues()
        self.cues.left.set()
        self.calls = 0
        self.secrets_sent = 0

    def app(self) -> web.Application:
        """Return the app that serves all four dialects, below any base path."""
        app = web.Application(client_max_size=_MAX_BODY)
        app.router.add_post("/{path:.*}", self._answer)
        app.on_shutdown.append(self._stop)
        return app

    async def _stop(self, _: web.Application) -> None:
        self._stopping.set()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.calls += 1
        body = await request.json()
        fault = self._fault_of(request, body)
        dialect = dialect_of(request.path)
        await asyncio.sleep(3 * self._pace_s)
        if fault is Fault.HANG:
            await self._pause(self._hang_s)
        if fault is Fault.AGENT_LEAVES:
            self.cues.arrived.set()
            await self.cues.left.wait()
        if fault in {Fault.HANG, Fault.RESET}:
            return _hang_up(request)
        if fault in _REFUSALS:
            return self._refuse(dialect, fault)
        if fault is Fault.HTML:
            return self._answer_html()
        if fault is Fault.EMPTY_BODY:
            return web.Response(content_type="application/json")
        if body.get("stream") is True:
            return await self._stream(request, dialect, fault)
        whole = answers.whole(dialect, tool=_wants_tool(body))
        if fault is Fault.CUT_BODY:
            return await self._cut_body(request, whole)
        return web.json_response(whole)

    def _fault_of(self, request: web.Request, body: Mapping[str, object]) -> Fault:
        asked = request.headers.get(FAULT_HEADER)
        model = body.get("model")
        if asked is None and isinstance(model, str) and model.startswith(FAULT_MODEL):
            asked = model.removeprefix(FAULT_MODEL)
        # A host may keep both to itself; then what is being played now is meant.
        return self.playing if asked is None else Fault(asked)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    def _refuse(self, dialect: Dialect, fault: Fault) -> web.Response:
        refusal = _REFUSALS[fault]
        if dialect is Dialect.MESSAGES:
            refusal = _ANTHROPIC.get(fault, refusal)
        body = answers.error(
            dialect, kind=refusal.kind, code=refusal.code, message=self._leak()
        )
        return web.json_response(body, status=refusal.status)

    def _answer_html(self) -> web.Response:
        page = f"<html><body>502 Bad Gateway: {self._leak()}</body></html>"
        return web.Response(text=page, content_type="application/json")

    def _leak(self) -> str:
        self.secrets_sent += 1
        return self._text

    async def _cut_body(
        self, request: web.Request, whole: Mapping[str, object]
    ) -> web.StreamResponse:
        data = json.dumps(whole).encode()
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Content-Length": "9999"}
        )
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        return _hang_up(request)

    async def _stream(
        self, request: web.Request, dialect: Dialect, fault: Fault
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        # The caller may have left: the training loop does when a rollout is torn down.
        with contextlib.suppress(ConnectionError):
            for event in self._events(dialect, fault):
                await response.write(event)
                await asyncio.sleep(self._pace_s)
            if fault is Fault.CUT_STREAM:
                return _hang_up(request)
            await response.write_eof()
        return response

    def _events(self, dialect: Dialect, fault: Fault) -> list[bytes]:
        good = list(answers.events(dialect))
        match fault:
            case Fault.EMPTY_STREAM:
                return good[-1:]
            case Fault.NO_TERMINAL | Fault.CUT_STREAM:
                return good[:_EVENTS_BEFORE_TROUBLE]
            case Fault.ERROR_FRAME:
                frame = answers.error_event(
                    dialect, kind="scripted_error", message=self._leak()
                )
                return [*good[:_EVENTS_BEFORE_TROUBLE], frame, good[-1]]
            case _:
                return good


@contextlib.asynccontextmanager
async def serving(app: web.Application, *, port: int = 0) -> AsyncIterator[str]:
    """Serve an app on loopback for the length of a block; give its URL.

    Args:
        app: The app.
        port: Where to listen; 0 for any free port.

    Raises:
        OSError: The port cannot be listened on.
    """
    runner = quiet_runner(app, shutdown_timeout_s=_SHUTDOWN_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, LOOPBACK, port).start()
        yield f"http://{LOOPBACK}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def _hang_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.close()
    return web.Response()


def _wants_tool(body: Mapping[str, object]) -> bool:
    # Offered tools are called once: not when a tool's result is there already.
    if not body.get("tools"):
        return False
    history = body.get("messages") or body.get("input")
    return "tool" not in json.dumps(history)
