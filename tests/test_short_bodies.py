"""Bodies that end before the length that their headers announce."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web

from otel_intercept import RolloutRegistry, StreamInterrupted, instrument_app
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.served import exchange_spans, failure_of, outcomes

PATH = "/rollout/r1/v1/chat/completions"
ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
ANNOUNCED = 100
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def announcing(size: int = ANNOUNCED, status: int = 200) -> web.StreamResponse:
    """Return a response that announces so many bytes of JSON."""
    headers = {"Content-Type": "application/json", "Content-Length": f"{size}"}
    return web.StreamResponse(status=status, headers=headers)


async def writes_half(request: web.Request) -> web.StreamResponse:
    """End a body by oneself when half of it is written."""
    response = announcing()
    await response.prepare(request)
    await response.write(b"x" * 50)
    await response.write_eof()
    return response


async def returns_at_half(request: web.Request) -> web.StreamResponse:
    """Leave the end to aiohttp."""
    response = announcing()
    await response.prepare(request)
    await response.write(b"x" * 50)
    return response


async def ends_with_too_little(request: web.Request) -> web.StreamResponse:
    """Write the last part with the end."""
    response = announcing()
    await response.prepare(request)
    await response.write(b"x" * 50)
    await response.write_eof(b"x" * 49)
    return response


async def writes_nothing(request: web.Request) -> web.StreamResponse:
    """Write no body at all."""
    response = announcing()
    await response.prepare(request)
    return response


async def answers_in_one_piece(request: web.Request) -> web.StreamResponse:
    """Announce more than the one piece has."""
    headers = {"Content-Type": "application/json", "Content-Length": f"{ANNOUNCED}"}
    return web.Response(body=b"{}", headers=headers)


async def forwards(request: web.Request) -> web.StreamResponse:
    """Take the headers of a file from elsewhere, and half of its body."""
    response = announcing()
    response.headers["Accept-Ranges"] = "bytes"
    await response.prepare(request)
    await response.write(b"x" * 50)
    return response


SHORT = [
    writes_half,
    returns_at_half,
    ends_with_too_little,
    writes_nothing,
    answers_in_one_piece,
    forwards,
]


async def writes_all(request: web.Request) -> web.StreamResponse:
    """Keep to what was announced."""
    response = announcing()
    await response.prepare(request)
    await response.write(b"x" * 50)
    await response.write_eof(b"x" * 50)
    return response


async def writes_more(request: web.Request) -> web.StreamResponse:
    """Write more than was announced, which aiohttp cuts off."""
    response = announcing()
    await response.prepare(request)
    await response.write(b"x" * 150)
    return response


async def compresses(request: web.Request) -> web.StreamResponse:
    """Announce a length that compression takes away."""
    response = announcing()
    response.enable_compression(web.ContentCoding.gzip)
    await response.prepare(request)
    await response.write(b"x" * 100)
    return response


async def compresses_one_piece(request: web.Request) -> web.StreamResponse:
    """Compress an answer that is there in one piece."""
    response = web.json_response({"long": "x" * 1_000})
    response.enable_compression(web.ContentCoding.gzip)
    return response


async def has_no_content(request: web.Request) -> web.StreamResponse:
    """Announce a length where there can be no body."""
    response = announcing(status=204)
    await response.prepare(request)
    return response


async def has_not_changed(request: web.Request) -> web.StreamResponse:
    """Announce the length of what the agent has already."""
    return web.Response(status=304, headers={"Content-Length": f"{ANNOUNCED}"})


async def sends_a_file(request: web.Request) -> web.StreamResponse:
    """Have the kernel send a file, or the part that is asked for."""
    return web.FileResponse(Path(__file__))


WHOLE = [
    writes_all,
    writes_more,
    compresses,
    compresses_one_piece,
    has_no_content,
    has_not_changed,
    sends_a_file,
]


async def ask(url: str, method: str = "POST") -> bytes:
    """Ask once; return all bytes of the answer, except for the time."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"{method} {PATH} HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n"
    writer.write(f"{head}Range: bytes=0-9\r\nConnection: close\r\n\r\n".encode())
    data = await reader.read()
    writer.close()
    return re.sub(rb"Date: [^\r]+", b"", data)


def app_of(handler: Handler, registry: RolloutRegistry | None) -> web.Application:
    """Return an app with one rollout route, instrumented if there is a registry."""
    app = web.Application()
    app.router.add_route("*", ROUTE, handler)
    if registry is not None:
        instrument_app(app, registry)
    return app


@pytest.mark.parametrize("handler", SHORT)
async def test_a_body_that_is_too_short_is_cut(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    handler: Handler,
) -> None:
    """The agent's client fails on it, so the rollout does; the bytes are the same."""
    plain = await serve(app_of(handler, None))
    observed = await serve(app_of(handler, registry))
    rollout = registry.open("r1")

    expected, got = await ask(plain), await ask(observed)

    assert got == expected
    assert outcomes(recorder) == ["cut"]
    assert failure_of(recorder) == ("handler_error", "eof")
    assert isinstance(rollout.error, StreamInterrupted)
    (span,) = exchange_spans(recorder)
    (event,) = span.events
    assert event.attributes is not None
    name = event.attributes["exception.type"]
    assert name == "otel_intercept.middleware.writer.BodyTooShortError"


@pytest.mark.parametrize("handler", WHOLE)
async def test_a_body_that_is_as_long_as_announced_is_ok(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    handler: Handler,
) -> None:
    """Neither compression, nor files, nor answers without a body are taken for it."""
    observed = await serve(app_of(handler, registry))
    rollout = registry.open("r1")

    await ask(observed)

    assert outcomes(recorder) == ["ok"]
    assert rollout.error is None


@pytest.mark.parametrize(
    "handler", [writes_nothing, answers_in_one_piece, sends_a_file]
)
async def test_an_answer_to_head_has_no_body(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    handler: Handler,
) -> None:
    """The length in it is that of what another method would get."""
    observed = await serve(app_of(handler, registry))
    registry.open("r1")

    await ask(observed, "HEAD")

    assert outcomes(recorder) == ["ok"]


async def test_a_file_that_shrinks_as_it_is_read_is_cut(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    tmp_path: Path,
) -> None:
    """A body that aiohttp reads from a file comes by chunk, and is counted."""
    path = tmp_path / "answer.json"
    path.write_bytes(b"x" * 3_000_000)

    async def sends(request: web.Request) -> web.StreamResponse:
        response = web.Response(body=path.open("rb"), content_type="application/json")
        await response.prepare(request)
        path.write_bytes(b"x" * 1_000)
        return response

    observed = await serve(app_of(sends, registry))
    registry.open("r1")

    await ask(observed)

    assert outcomes(recorder) == ["cut"]


async def test_an_exchange_that_is_cut_so_ends_at_once(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """The agent may wait for the rest as long as it likes; the failure is known."""
    host, port = (await serve(app_of(returns_at_half, registry)))[7:].split(":")
    rollout = registry.open("r1")
    reader, writer = await asyncio.open_connection(host, int(port))

    writer.write(f"POST {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"x" * 50)
    await asyncio.sleep(0.02)

    assert rollout.error is not None
    assert rollout.exchanges == 1
    assert outcomes(recorder) == ["cut"]
    writer.close()
