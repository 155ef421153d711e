"""What is sent in one step is seen on all sides as what aiohttp sends."""

import asyncio
import contextlib
import io
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import pytest
from aiohttp import web
from opentelemetry.sdk.trace import ReadableSpan

from otel_intercept import (
    Exchange,
    Phase,
    RolloutRegistry,
    exchange_from,
    instrument_app,
)
from otel_intercept.middleware.serving import Serving, serve_unchanged
from otel_intercept.middleware.whole import MAX_BODY
from otel_intercept.testing import TelemetryRecorder
from tests.one_step import OneSteps
from tests.served import settle, until

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

ROUTE: Final = "/rollout/{rollout_id}/v1/chat/completions"
CHAT: Final = "/rollout/r1/v1/chat/completions"
TRACE_ID: Final = "5f" * 16
SECRET: Final = "sk-canary-7710aa"
LARGE: Final = '{"a": "' + "x" * 20_000_000 + '"}'
EVENTS: Final = 'data: {"choices":[{"delta":{"content":"hi"}}]}\n\ndata: [DONE]\n\n'


NOTE: Final = web.ResponseKey("note", int)


class LeftToAiohttp(web.Response):
    """A response that aiohttp sends, since its class is not aiohttp's own."""


class Worded(str):
    """A reason that looks like another."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        """Give another text than it has."""
        return "Worded"


class Stage:
    """One run of a scene: what its handler, signal and agent know of each other."""

    def __init__(self, kind: type[web.Response], registry: RolloutRegistry) -> None:
        self.kind = kind
        self.registry = registry
        self.exchange: Exchange
        self.future: asyncio.Future[None]
        self.runner: web.AppRunner
        self.sent_before = 0
        self.protocol: RequestHandler | None = None
        self.kept: web.Response | None = None

    def json(self, text: str = '{"ok": true}', *, status: int = 200) -> web.Response:
        """Answer in JSON."""
        return self.kind(text=text, status=status, content_type="application/json")

    def because(self, reason: str, status: int = 200) -> web.Response:
        """Answer in JSON, with a reason."""
        return self.kind(
            text="{}", status=status, reason=reason, content_type="application/json"
        )

    def under(self, **headers: str) -> web.Response:
        """Answer with headers that are spelled as they are given."""
        spelled = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.kind(body=b"{}", headers=spelled)

    def changed(self, change: Callable[[web.Response], object]) -> web.Response:
        """Answer in JSON, after a change to the answer."""
        answer = self.json()
        change(answer)
        return answer

    def text(self, text: str, content_type: str) -> web.Response:
        """Answer in anything."""
        return self.kind(text=text, content_type=content_type)

    def body(self, body: object) -> web.Response:
        """Answer what aiohttp makes a payload of."""
        return self.kind(body=body, content_type="application/json")

    def compressed(self, text: str) -> web.Response:
        """Answer in JSON, compressed; a long text in another thread."""
        answer = self.json(text)
        answer.enable_compression(web.ContentCoding.gzip)
        return answer

    def chunked(self) -> web.Response:
        """Answer in JSON, in chunks."""
        answer = self.json()
        answer.enable_chunked_encoding()
        return answer

    def with_bad_headers(self) -> web.Response:
        """Answer what cannot be written."""
        answer = self.json()
        answer.headers["X-Bad"] = f"a\r\n{SECRET}"
        return answer

    def again(self) -> web.Response:
        """Answer the same object each time, which aiohttp sends only once."""
        self.kept = self.kept or self.json()
        return self.kept


Answer = Callable[[Stage], web.Response]
Act = Callable[[Stage], Awaitable[None]]
Signal = Callable[[Stage, web.StreamResponse], Awaitable[None]]


async def broken_source() -> AsyncIterator[bytes]:
    """Be a body that breaks off."""
    yield b"{"
    raise RuntimeError(SECRET)


async def upstream_answers(stage: Stage) -> None:
    """Let the upstream succeed before the answer."""
    stage.future.set_result(None)


async def upstream_hangs(_stage: Stage) -> None:
    """Answer before the upstream does."""


async def swallow(stage: Stage) -> None:
    """Let the upstream fail, and go on."""
    stage.future.set_exception(TimeoutError(SECRET))
    await asyncio.sleep(0)


async def note_a_failed_write(stage: Stage) -> None:
    """Report what the handler saw."""
    stage.exchange.fail(OSError(SECRET), phase=Phase.CHUNK)


async def close_the_connection(stage: Stage) -> None:
    """Close it, which the connection itself notices in the next turn of the loop."""
    stage.future.set_result(None)
    assert stage.protocol is not None
    assert stage.protocol.transport is not None
    stage.protocol.transport.close()


async def make_writes_wait(stage: Stage) -> None:
    """Have no write done before all of it has gone."""
    stage.future.set_result(None)
    assert stage.protocol is not None
    assert stage.protocol.transport is not None
    stage.protocol.transport.set_write_buffer_limits(0)
    sock = stage.protocol.transport.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)


async def end_nothing(stage: Stage) -> None:
    """See that an exchange goes on while its answer waits for the agent."""
    await asyncio.sleep(0.1)
    assert stage.exchange.outcome is None


async def see_the_agent_off(_stage: Stage) -> None:
    """Give a lost connection the time to be noticed."""
    await settle()


async def raises(_stage: Stage, _response: web.StreamResponse) -> None:
    """Fail in a signal."""
    raise RuntimeError(SECRET)


async def loses_the_connection(_stage: Stage, _response: web.StreamResponse) -> None:
    """Fail in a signal as a connection does."""
    raise ConnectionResetError(SECRET)


async def refuses(_stage: Stage, _response: web.StreamResponse) -> None:
    """Answer otherwise in a signal; aiohttp asks it about that answer too."""
    raise web.HTTPForbidden(text=SECRET)


async def turns_into_a_page(_stage: Stage, response: web.StreamResponse) -> None:
    """Change the type of an answer in a signal."""
    response.content_type = "text/html"


async def hangs(_stage: Stage, _response: web.StreamResponse) -> None:
    """Never come to an end."""
    await asyncio.sleep(3600)


async def lets_upstream_fail(stage: Stage, _response: web.StreamResponse) -> None:
    """Let the upstream fail while the headers are prepared."""
    await asyncio.sleep(0.01)
    await swallow(stage)


async def closes_the_rollout(stage: Stage, _response: web.StreamResponse) -> None:
    """Let the rollout end while the headers are prepared."""
    await asyncio.sleep(0.01)
    stage.registry.close("r1")


async def fails_elsewhere(stage: Stage, _response: web.StreamResponse) -> None:
    """Let another task report a failed write while the headers are prepared."""
    await asyncio.sleep(0.01)
    await note_a_failed_write(stage)


async def fail_upstream(stage: Stage) -> None:
    """Let the upstream fail while the body is written."""
    stage.future.set_exception(TimeoutError(SECRET))


async def close_rollout(stage: Stage) -> None:
    """Let the rollout end while the body is written."""
    stage.registry.close("r1")


async def shut_down(stage: Stage) -> None:
    """Shut the app down while the body is written."""
    await stage.runner.cleanup()


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What happens, and what must come of it.

    ``meanwhile`` happens while the agent does not read the body. ``leaves``: before
    the answer, or in the body; ``cancels``: then aiohttp cancels the handler.
    ``one_step``: the last answer is sent so. ``connection``: what the agent asks for
    with its last request. ``narrow``: it takes little before it reads. ``ends``:
    then the connection is closed.
    """

    answer: Answer = Stage.json
    before: Act = upstream_answers
    signal: Signal | None = None
    meanwhile: Act | None = None
    leaves: str | None = None
    cancels: bool = False
    method: str = "POST"
    stream: bool = False
    requests: int = 1
    outcome: str = "ok"
    one_step: bool = False
    version: str = "1.1"
    connection: str = "close"
    narrow: bool = False
    ends: bool = True


def many() -> str:
    """Make a text that aiohttp compresses in another thread."""
    return "{" + " " * 4_000_000 + "}"


SCENES: Final = {
    "json": Scene(one_step=True),
    "json, kept alive": Scene(requests=3, one_step=True),
    "json to a stream": Scene(stream=True, one_step=True),
    "bytes": Scene(answer=lambda stage: stage.body(b"{}"), one_step=True),
    "404": Scene(
        answer=lambda stage: stage.json(status=404), outcome="rejected", one_step=True
    ),
    "429": Scene(
        answer=lambda stage: stage.json(status=429),
        outcome="upstream_failed",
        one_step=True,
    ),
    "503": Scene(
        answer=lambda stage: stage.json(status=503),
        outcome="upstream_failed",
        one_step=True,
    ),
    "head": Scene(method="HEAD"),
    "head of a page": Scene(
        answer=lambda stage: stage.text("<p>", "text/html"),
        method="HEAD",
        stream=True,
        outcome="no_terminal",
    ),
    "204": Scene(answer=lambda stage: stage.kind(status=204)),
    "304": Scene(answer=lambda stage: stage.json(status=304)),
    "204 to a stream": Scene(
        answer=lambda stage: stage.kind(status=204),
        stream=True,
        outcome="no_terminal",
    ),
    "a reason of formats": Scene(
        answer=lambda stage: stage.because("100 % of %d, %b and %s"), one_step=True
    ),
    "a reason of many lines": Scene(
        answer=lambda stage: stage.because(f"{SECRET}\r\nX: y"),
        outcome="handler_failed",
    ),
    "a reason that becomes many lines": Scene(
        answer=lambda stage: stage.changed(
            lambda answer: setattr(answer, "_reason", f"{SECRET}\r\nX: y")
        ),
        outcome="handler_failed",
    ),
    "a reason like another": Scene(answer=lambda stage: stage.because(Worded("OK"))),
    "no reason": Scene(answer=lambda stage: stage.because(""), one_step=True),
    "500, and nothing failed": Scene(
        answer=lambda stage: stage.json(status=500),
        outcome="upstream_failed",
        one_step=True,
    ),
    "HTTP/1.0": Scene(version="1.0", one_step=True),
    "HTTP/1.0, kept alive": Scene(
        version="1.0", connection="keep-alive", one_step=True, ends=False
    ),
    "kept alive": Scene(connection="keep-alive", requests=2, one_step=True, ends=False),
    "put": Scene(method="PUT", one_step=True),
    "as many bytes as go in one step": Scene(
        answer=lambda stage: stage.body(b"x" * MAX_BODY), one_step=True
    ),
    "one byte more": Scene(answer=lambda stage: stage.body(b"x" * (MAX_BODY + 1))),
    "no bytes": Scene(answer=lambda stage: stage.body(b"")),
    "no body": Scene(answer=lambda stage: stage.body(None)),
    "a bytearray": Scene(answer=lambda stage: stage.body(bytearray(b"{}"))),
    "a header as it is spelled": Scene(
        answer=lambda stage: stage.under(Content_Type="application/json"),
        one_step=True,
    ),
    "a header in small letters": Scene(
        answer=lambda stage: stage.under(content_type="application/json"), one_step=True
    ),
    "a header more": Scene(
        answer=lambda stage: stage.under(Content_Type="application/json", X_A="b")
    ),
    "a header that names no type": Scene(answer=lambda stage: stage.under(X_A="b")),
    "a cookie": Scene(
        answer=lambda stage: stage.changed(lambda answer: answer.set_cookie("a", "b"))
    ),
    "a connection to be closed": Scene(
        answer=lambda stage: stage.changed(web.Response.force_close),
        connection="keep-alive",
    ),
    "another body": Scene(
        answer=lambda stage: stage.changed(
            lambda answer: setattr(answer, "body", b"[1, 2, 3]")
        ),
        one_step=True,
    ),
    "another text": Scene(
        answer=lambda stage: stage.changed(
            lambda answer: setattr(answer, "text", "[1, 2, 3]")
        )
    ),
    "another status": Scene(
        answer=lambda stage: stage.changed(lambda answer: answer.set_status(402)),
        outcome="rejected",
        one_step=True,
    ),
    "a note on it": Scene(
        answer=lambda stage: stage.changed(lambda answer: answer.__setitem__(NOTE, 1)),
        one_step=True,
    ),
    "an attribute of its own": Scene(
        answer=lambda stage: stage.changed(lambda answer: setattr(answer, "note", 1))
    ),
    "writes that wait": Scene(before=make_writes_wait, one_step=True),
    "an agent that reads late": Scene(
        answer=lambda stage: stage.body(b"x" * MAX_BODY),
        before=make_writes_wait,
        meanwhile=end_nothing,
        narrow=True,
        one_step=True,
    ),
    "the agent leaves while writes wait": Scene(
        answer=lambda stage: stage.body(b"x" * MAX_BODY),
        before=make_writes_wait,
        leaves="in the body",
        narrow=True,
        outcome="cut",
        one_step=True,
    ),
    "the agent leaves while writes wait, which cancels": Scene(
        answer=lambda stage: stage.body(b"x" * MAX_BODY),
        before=make_writes_wait,
        leaves="in the body",
        cancels=True,
        narrow=True,
        outcome="agent_gone",
        one_step=True,
    ),
    "a page": Scene(answer=lambda stage: stage.text("<p>", "text/html")),
    "a page to a stream": Scene(
        answer=lambda stage: stage.text("<p>", "text/html"),
        stream=True,
        outcome="no_terminal",
    ),
    "events in one piece": Scene(
        answer=lambda stage: stage.text(EVENTS, "text/event-stream")
    ),
    "compressed": Scene(answer=lambda stage: stage.compressed('{"ok": true}')),
    "compressed in a thread": Scene(answer=lambda stage: stage.compressed(many())),
    "chunked": Scene(answer=Stage.chunked),
    "a payload": Scene(answer=lambda stage: stage.body(io.BytesIO(b"{}"))),
    "a payload that breaks off": Scene(
        answer=lambda stage: stage.body(broken_source()), outcome="cut"
    ),
    "bad headers": Scene(answer=Stage.with_bad_headers, outcome="handler_failed"),
    "an answer sent before": Scene(answer=Stage.again, requests=2, ends=False),
    "over a failure": Scene(before=swallow, outcome="silent_empty"),
    "over a failed write": Scene(before=note_a_failed_write, outcome="cut"),
    "a signal raises": Scene(signal=raises, outcome="handler_failed"),
    "a signal loses the connection": Scene(
        signal=loses_the_connection, outcome="handler_failed"
    ),
    "a signal refuses": Scene(signal=refuses, outcome="handler_failed"),
    "a signal makes it a page": Scene(signal=turns_into_a_page, stream=True),
    "upstream fails before the headers": Scene(
        before=upstream_hangs, signal=lets_upstream_fail, outcome="silent_empty"
    ),
    "the rollout closes before the headers": Scene(signal=closes_the_rollout),
    "a write fails elsewhere before the headers": Scene(
        before=upstream_hangs, signal=fails_elsewhere, outcome="cut"
    ),
    "the connection closes": Scene(before=close_the_connection, outcome="agent_gone"),
    "the agent has left": Scene(
        before=see_the_agent_off, leaves="before", outcome="agent_gone"
    ),
    "the agent leaves before the headers, which cancels": Scene(
        signal=hangs, leaves="before", cancels=True, outcome="agent_gone"
    ),
    "the agent leaves in the body": Scene(
        answer=lambda stage: stage.json(LARGE), leaves="in the body", outcome="cut"
    ),
    "the agent leaves in the body, which cancels": Scene(
        answer=lambda stage: stage.json(LARGE),
        leaves="in the body",
        cancels=True,
        outcome="agent_gone",
    ),
    "upstream fails in the body": Scene(
        answer=lambda stage: stage.json(LARGE),
        before=upstream_hangs,
        meanwhile=fail_upstream,
        outcome="silent_empty",
    ),
    "upstream fails in the body, and the agent leaves": Scene(
        answer=lambda stage: stage.json(LARGE),
        before=upstream_hangs,
        meanwhile=fail_upstream,
        leaves="in the body",
        outcome="cut",
    ),
    "the rollout closes in the body": Scene(
        answer=lambda stage: stage.json(LARGE), meanwhile=close_rollout
    ),
    "shutdown in the body": Scene(
        answer=lambda stage: stage.json(LARGE), meanwhile=shut_down, outcome="cancelled"
    ),
}


@dataclass(frozen=True)
class Seen:
    """What came of a scene, on all sides."""

    wire: bytes | None
    spans: list[tuple[object, ...]]
    error: tuple[object, ...] | None
    failures: int
    one_step: bool = field(compare=False)


def attributes(span: ReadableSpan) -> tuple[object, ...]:
    """Return what a span tells, without what differs from run to run."""
    own = {**(span.attributes or {})}
    for event in span.events:
        own |= {
            f"{event.name}: {key}": it for key, it in (event.attributes or {}).items()
        }
    return (
        span.name,
        span.status.status_code,
        sorted(
            (key, it)
            for key, it in own.items()
            if not key.endswith(("fingerprint", "_s"))
        ),
    )


async def ask(scene: Scene, stage: Stage, port: int) -> bytes | None:
    """Be the agent; return what came, or None where that depends on the moment."""
    sock = socket.socket()
    sock.setblocking(False)
    if scene.narrow:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock)
    transport = writer.transport
    assert isinstance(transport, asyncio.Transport)
    if scene.narrow:
        transport.pause_reading()
    head = f"{scene.method} {CHAT} HTTP/{scene.version}\r\nHost: x\r\n"
    last = head + f"Connection: {scene.connection}\r\n\r\n"
    writer.write(((head + "\r\n") * (scene.requests - 1) + last).encode())
    if scene.meanwhile is not None or scene.leaves == "in the body":
        await until(
            lambda: stage.protocol is not None and stage.protocol.writing_paused
        )
    if scene.meanwhile is not None:
        await scene.meanwhile(stage)
    if scene.leaves is not None:
        await until(lambda: stage.protocol is not None)
        writer.transport.abort()
        return None
    if scene.narrow:
        transport.resume_reading()
    data = b""

    async def collect() -> None:
        nonlocal data
        with contextlib.suppress(ConnectionError):
            while more := await reader.read(1 << 20):
                data += more

    collecting = asyncio.create_task(collect())
    if not scene.ends:
        await until(lambda: data)
        await settle(100)
        collecting.cancel()
    await asyncio.wait((collecting,), timeout=60)
    assert collecting.done()
    writer.transport.abort()
    return None if scene.meanwhile is shut_down else re.sub(rb"Date: [^\r]+", b"", data)


async def play(
    scene: Scene, kind: type[web.Response], *, last: bool | None = None
) -> Seen:
    """Play a scene with responses of one class.

    On an instrumented app; or as on a server of others where ``last`` is given.
    """
    recorder = TelemetryRecorder()
    registry = RolloutRegistry(recorder.telemetry)
    rollout = registry.open("r1", trace_id=TRACE_ID)
    stage = Stage(kind, registry)
    steps = OneSteps()

    async def handle(request: web.Request) -> web.Response:
        stage.protocol = request.protocol
        stage.sent_before = steps.sent
        stage.exchange = exchange_from(request)
        stage.exchange.describe_request({"stream": scene.stream})
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        stage.future = stage.exchange.watch(future)
        await scene.before(stage)
        return scene.answer(stage)

    async def signal(request: web.Request, response: web.StreamResponse) -> None:
        assert exchange_from(request) is stage.exchange
        assert scene.signal is not None
        await scene.signal(stage, response)

    async def serve(request: web.Request) -> web.StreamResponse:
        return await serve_unchanged(
            serving, request, handle, rollout, last=last is True
        )

    app, serving = web.Application(), Serving()
    app.router.add_route("*", ROUTE, handle if last is None else serve)
    if scene.signal is not None:
        app.on_response_prepare.append(signal)
    if last is None:
        instrument_app(app, registry)
    stage.runner = web.AppRunner(
        app, shutdown_timeout=0.1, handler_cancellation=scene.cancels
    )
    await stage.runner.setup()
    await web.TCPSite(stage.runner, "127.0.0.1", 0).start()
    with steps:
        wire = await ask(scene, stage, stage.runner.addresses[0][1])
        await until(lambda: stage.exchange.outcome is not None)
    await stage.runner.cleanup()
    recorder.flush()
    spans = [
        attributes(one) for one in recorder.spans() if one.name != "rollout.started"
    ]
    assert SECRET.encode() not in recorder.exported_bytes()
    recorder.telemetry.shutdown()
    error = rollout.error
    return Seen(
        wire,
        sorted(spans, key=str),
        None
        if error is None
        else (type(error), error.failure.phase, error.failure.error_type),
        rollout.failures,
        steps.sent > stage.sent_before,
    )


@pytest.mark.parametrize("name", SCENES)
async def test_what_is_sent_in_one_step_is_seen_as_what_aiohttp_sends(
    name: str,
) -> None:
    """Bytes, spans, outcome, error and failures are those of aiohttp's own way."""
    scene = SCENES[name]

    own = await play(scene, web.Response)
    left = await play(scene, LeftToAiohttp)

    assert own == left
    assert own.one_step is scene.one_step
    assert not left.one_step
    assert f"('intercept.exchange.outcome', '{scene.outcome}')" in str(own.spans)


@pytest.mark.parametrize("name", SCENES)
async def test_a_server_of_others_answers_in_one_step_as_without(name: str) -> None:
    """Bytes, spans, outcome, error and failures are those of aiohttp's own way."""
    scene = SCENES[name]

    own = await play(scene, web.Response, last=True)
    left = await play(scene, web.Response, last=False)

    assert own == left
    assert own.one_step is scene.one_step
    assert not left.one_step
