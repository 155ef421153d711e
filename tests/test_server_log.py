"""What fails behind the middleware is logged by aiohttp, and no text of it gets out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.log import access_logger, server_logger
from aiohttp.web_log import AccessLogger

from otel_intercept import RolloutRegistry, instrument_app
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import TRIAGE, logged
from tests.served import failure_of, outcomes

SECRET = "sk-canary-71e0b4"
CHAT = "/rollout/r1/v1/chat/completions"
ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
OTHER = "/other"
MOUNTED = f"/sub{CHAT}"
REDACTED = "aiohttp failed to serve a rollout's request: exception_type=%s"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def app_of(
    handler: Handler, registry: RolloutRegistry, *, signal: bool = False
) -> web.Application:
    """Return an instrumented app, in which all that is sent may fail."""
    app = web.Application()
    app.router.add_post(ROUTE, handler)
    app.router.add_post(OTHER, handler)
    if signal:
        app.on_response_prepare.append(breaks)
    instrument_app(app, registry)
    return app


async def breaks(request: web.Request, response: web.StreamResponse) -> None:
    """Fail with a secret, as often as it is called."""
    raise RuntimeError(f"signal {SECRET}")


async def refuses(request: web.Request) -> web.StreamResponse:
    """Answer by an exception."""
    raise web.HTTPBadRequest(text="as it is")


async def sends_a_file(request: web.Request) -> web.StreamResponse:
    """Answer with a file."""
    return web.FileResponse(Path(__file__))


async def ends_badly(request: web.Request) -> web.StreamResponse:
    """Answer with a response whose end fails in a way of its own."""
    return EndsBadly(text="{}", content_type="application/json")


async def answers(request: web.Request) -> web.StreamResponse:
    """Answer."""
    return web.json_response({})


async def answers_nothing(request: web.Request) -> web.StreamResponse:
    """Return what is no response and has a secret in its repr."""
    return SECRET  # type: ignore[return-value]  # the mistake under test


class EndsBadly(web.Response):
    """A response that fails after its headers were prepared."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Fail with a secret."""
        raise RuntimeError(f"end {SECRET}")


class LogsBadly(AbstractAccessLogger):
    """An access logger that fails."""

    def log(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float
    ) -> None:
        """Fail with the agent's text."""
        raise RuntimeError(f"{request.query_string} {SECRET}")


class FormatsBadly(AccessLogger):
    """An access logger whose failure is caught by aiohttp."""

    def _format_line(
        self, request: web.BaseRequest, response: web.StreamResponse, time: float
    ) -> list[tuple[str | tuple[str, str], str]]:
        raise RuntimeError(f"{request.query_string} {SECRET}")


class Adapter:
    """Logs in the way of gunicorn: with loggers that it holds."""

    def __init__(self, error_log: logging.Logger, access_log: logging.Logger) -> None:
        self.error_log = error_log
        self.access_log = access_log

    def exception(self, message: str, *args: object, **kwargs: BaseException) -> None:
        """Log an error, as aiohttp asks for it."""
        self.error_log.exception(message, *args, exc_info=kwargs["exc_info"])


@asynccontextmanager
async def serving(
    app: web.Application,
    *,
    access_log_class: type[AbstractAccessLogger] = AccessLogger,
    logger: object = server_logger,
    access_log: logging.Logger = access_logger,
) -> AsyncIterator[str]:
    """Serve an app as its owner would, with loggers of any kind."""
    runner = web.AppRunner(
        app,
        shutdown_timeout=1,
        access_log_class=access_log_class,
        logger=logger,
        access_log=access_log,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def post(url: str) -> tuple[int, bytes] | None:
    """Post once; return status and body, or None where there is no answer."""
    async with aiohttp.ClientSession() as session:
        try:
            async with session.post(url, json={}) as response:
                return response.status, await response.read()
        except aiohttp.ClientError:
            return None


HANDLERS = [refuses, sends_a_file, answers]


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize("rollout_id", ["r1", "unknown"])
async def test_a_failing_signal_leaks_nothing(
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    handler: Handler,
    rollout_id: str,
) -> None:
    """Behind whatever answer a signal of the app fails, aiohttp logs no text of it."""
    registry.open("r1")

    async with serving(app_of(handler, registry, signal=True)) as url:
        reply = await post(url + CHAT.replace("r1", rollout_id))

    assert reply is None
    assert SECRET not in logged(caplog)


@pytest.mark.parametrize("handler", HANDLERS)
async def test_what_fails_on_other_routes_is_logged_as_ever(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture, handler: Handler
) -> None:
    """The log of routes that are no rollout's is not touched."""
    async with serving(app_of(handler, registry, signal=True)) as url:
        assert await post(url + OTHER) is None

    assert SECRET in logged(caplog)


async def test_a_signal_that_fails_behind_an_http_exception_is_a_failure(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is like one that fails behind a response: a redacted 500, and an error."""
    app = app_of(refuses, registry)

    async def breaks_once(request: web.Request, response: web.StreamResponse) -> None:
        if response.status == 400:
            raise RuntimeError(SECRET)

    app.on_response_prepare.append(breaks_once)
    rollout = registry.open("r1")

    async with serving(app) as url:
        reply = await post(url + CHAT)

    assert reply is not None
    assert reply[0] == 500
    assert b"handler_error" in reply[1]
    assert SECRET.encode() not in reply[1]
    assert SECRET not in logged(caplog)
    assert outcomes(recorder) == ["handler_failed"]
    assert failure_of(recorder) == ("handler_error", "handler")
    assert rollout.error is not None


async def test_an_http_exception_is_prepared_once(registry: RolloutRegistry) -> None:
    """An app's signal sees the answer that a handler raises, and sees it once."""
    seen = []
    app = app_of(refuses, registry)

    async def note(request: web.Request, response: web.StreamResponse) -> None:
        seen.append(response.status)

    app.on_response_prepare.append(note)
    registry.open("r1")

    async with serving(app) as url:
        reply = await post(url + CHAT)

    assert reply == (400, b"as it is")
    assert seen == [400]


async def test_a_response_that_ends_badly_leaks_nothing(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """The class and the trace of what aiohttp logs stay, and nothing else of it."""
    rollout = registry.open("r1")

    async with serving(app_of(ends_badly, registry)) as url:
        await post(url + CHAT)

    (record,) = [it for it in caplog.records if it.name == "aiohttp.server"]
    expected = f"{REDACTED % 'RuntimeError'} trace_id={rollout.trace_id}"
    assert record.getMessage() == expected
    assert record.levelno == logging.ERROR
    assert SECRET not in logged(caplog)


async def test_the_raw_text_goes_to_triage(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """What is kept out of aiohttp's log is there for an operator who asks for it."""
    caplog.set_level(logging.DEBUG, logger=TRIAGE)
    logging.getLogger(TRIAGE).addHandler(caplog.handler)
    registry.open("r1")

    try:
        async with serving(app_of(ends_badly, registry)) as url:
            await post(url + CHAT)
    finally:
        logging.getLogger(TRIAGE).removeHandler(caplog.handler)

    assert any(it.exc_info and it.name == TRIAGE for it in caplog.records)


@pytest.mark.parametrize("access_log_class", [LogsBadly, FormatsBadly])
@pytest.mark.parametrize("handler", [answers, refuses])
async def test_an_access_logger_that_fails_leaks_nothing(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    access_log_class: type[AbstractAccessLogger],
    handler: Handler,
) -> None:
    """Its failure shows by its class only, with the answer sent before."""
    caplog.set_level(logging.INFO, logger="aiohttp.access")
    registry.open("r1")

    async with serving(
        app_of(handler, registry), access_log_class=access_log_class
    ) as url:
        reply = await post(f"{url}{CHAT}?token={SECRET}")
        await asyncio.sleep(0.02)

    assert reply is not None
    assert [it for it in caplog.records if it.name.startswith("aiohttp")]
    assert SECRET not in logged(caplog)
    assert len(outcomes(recorder)) == 1


async def test_a_body_that_nobody_reads_to_its_end_leaks_nothing(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """Where aiohttp reads the rest of a broken body itself, its text stays out too."""
    caplog.set_level(logging.DEBUG)
    registry.open("r1")
    head = (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\n"
        "Content-Length: 40\r\n\r\n"
    )

    async with serving(app_of(answers, registry)) as url:
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head.encode())
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 200")
        writer.write(SECRET.encode().ljust(40))
        await reader.read()
        writer.close()

    assert SECRET not in logged(caplog)


@pytest.mark.parametrize("handler", HANDLERS)
async def test_a_sub_app_below_a_middleware_leaks_nothing(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture, handler: Handler
) -> None:
    """Where the answer has to be left to aiohttp, its text is kept out all the same."""

    @web.middleware
    async def above(
        request: web.Request,
        handler: Handler,
    ) -> web.StreamResponse:
        return await handler(request)

    root = web.Application(middlewares=[above])
    root.add_subapp("/api", app_of(handler, registry, signal=True))
    registry.open("r1")

    async with serving(root) as url:
        assert await post(url + "/api" + CHAT) is None

    assert SECRET not in logged(caplog)


async def test_loggers_of_the_servers_own_are_kept_safe(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that is given loggers, as gunicorn gives them, writes no text either."""
    error_log, access_log = logging.getLogger("own.error"), logging.getLogger("own.acc")
    adapter = Adapter(error_log, access_log)
    caplog.set_level(logging.INFO)

    async def handler(request: web.Request) -> web.StreamResponse:
        error_log.warning("of the app")
        access_log.warning("of the app")
        return await (ends_badly if "bad" in request.query else answers)(request)

    registry.open("r1")

    async with serving(
        app_of(handler, registry), logger=adapter, access_log=access_log
    ) as url:
        await post(f"{url}{CHAT}?token={SECRET}")
        await post(f"{url}{CHAT}?bad={SECRET}")

    messages = [it.getMessage() for it in caplog.records if it.name.startswith("own")]
    assert messages.count("of the app") == 4
    assert f"POST {ROUTE} 200" in messages
    assert any(message.startswith(REDACTED[:20]) for message in messages)
    assert SECRET not in logged(caplog)


@pytest.mark.parametrize("rollout_id", ["r1", "unknown"])
async def test_what_is_no_response_is_not_shown(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture, rollout_id: str
) -> None:
    """Aiohttp logs the repr of what a handler returns instead of a response."""
    registry.open("r1")

    async with serving(app_of(answers_nothing, registry)) as url:
        reply = await post(url + CHAT.replace("r1", rollout_id))

    assert reply is not None
    assert reply[0] == 500
    assert SECRET not in logged(caplog)


GARBAGE = {
    "the rest of a prompt": f"and more of {SECRET}\r\n\r\n",
    "a header": f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nKey: {SECRET}\0\r\n\r\n",
    "a long line": f"POST /{SECRET * 600} HTTP/1.1\r\n\r\n",
    "a chunk": (
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        f"{SECRET}\r\n"
    ),
}


async def send(url: str, garbage: str, before: str | None) -> bytes:
    """Send what cannot be parsed, after a good request or as the first; read all."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    if before is not None:
        writer.write(f"POST {before} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await reader.readuntil(b"{}")
    writer.write(garbage.encode())
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
@pytest.mark.parametrize("before", [None, CHAT, OTHER, MOUNTED])
async def test_what_cannot_be_parsed_leaks_nothing(
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
    garbage: str,
    before: str | None,
) -> None:
    """It has no route, and where rollouts are served it may be one's prompt."""
    caplog.set_level(logging.DEBUG)
    app = app_of(answers, registry)
    if before == MOUNTED:
        root = web.Application()
        root.add_subapp("/sub", app)
        app = root
    registry.open("r1")

    async with serving(app) as url:
        answer = await send(url, garbage, before)

    assert answer.startswith(b"HTTP/1.0 400")
    assert any(it.message.startswith(REDACTED[:20]) for it in caplog.records)
    assert SECRET not in logged(caplog)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_what_cannot_be_parsed_leaks_nothing_to_a_known_logger(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    """A server's own logger is known from the first rollout request on."""
    caplog.set_level(logging.DEBUG)
    registry.open("r1")

    own = logging.getLogger("own.known")
    async with serving(app_of(answers, registry), logger=own) as url:
        await post(url + CHAT)
        answer = await send(url, garbage, None)

    assert answer.startswith(b"HTTP/1.0 400")
    assert any(it.name == "own.known" for it in caplog.records)
    assert SECRET not in logged(caplog)


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_what_cannot_be_parsed_elsewhere_is_logged_as_ever(
    registry: RolloutRegistry, caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    """An app without rollouts in the same process keeps its log."""
    app_of(answers, registry)
    app = web.Application()
    app.router.add_post(OTHER, answers)

    async with serving(app) as url:
        await send(url, garbage, OTHER)

    assert SECRET[:10] in logged(caplog)
