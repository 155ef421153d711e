"""Answers that aiohttp sends in a way of their own: files, and other protocols."""

import logging
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter

from otel_intercept import RolloutRegistry
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.served import outcomes, until
from tests.test_middleware import CHAT, app_of

ROUTE = "/rollout/{rollout_id}/v1/realtime"
REALTIME = "/rollout/r1/v1/realtime"
SECRET = "sk-canary-08c1d7"


async def test_a_file_is_sent_once_and_its_connection_lives_on(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A file goes out while its answer is prepared, and that happens only once."""
    body = b'{"a": "' + b"x" * 300_000 + b'"}'
    path = tmp_path / "answer.json"
    path.write_bytes(body)

    async def files(request: web.Request) -> web.StreamResponse:
        return web.FileResponse(path)

    url = await serve(app_of(files, registry))
    registry.open("r1")

    ports = set()
    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.post(url + CHAT) as response:
                assert response.connection is not None
                assert response.connection.transport is not None
                ports.add(response.connection.transport.get_extra_info("sockname"))
                assert await response.read() == body

    assert len(ports) == 1
    assert [it for it in caplog.records if it.levelno > logging.INFO] == []
    assert outcomes(recorder) == ["ok"] * 3


class Counting(web.Response):
    """A response that does more than to be sent."""

    prepared_times = ended_times = 0

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        """Prepare it, and count that."""
        self.prepared_times += 1
        return await super().prepare(request)

    async def write_eof(self, data: bytes = b"") -> None:
        """End it, and count that."""
        self.ended_times += 1
        await super().write_eof(data)


async def test_a_response_with_ways_of_its_own_is_sent_once(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """What an app does as its answer is sent is not done twice."""
    answer = Counting(text="{}", content_type="application/json")

    async def answers(request: web.Request) -> web.StreamResponse:
        return answer

    url = await serve(app_of(answers, registry))
    registry.open("r1")

    async with (
        aiohttp.ClientSession() as session,
        session.post(url + CHAT) as response,
    ):
        assert await response.read() == b"{}"

    assert (answer.prepared_times, answer.ended_times) == (1, 1)
    assert outcomes(recorder) == ["ok"]


@pytest.mark.parametrize("closes", ["agent", "handler", "nobody"])
async def test_a_websocket_is_ok_when_its_handler_returns(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve, closes: str
) -> None:
    """An upgraded connection fails no rollout, whichever side closes it."""

    async def talks(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            await socket.send_str(message.data)
            if closes != "agent":
                break
        if closes == "handler":
            await socket.close()
        return socket

    app = app_of(talks, registry)
    app.router.add_get(ROUTE, talks)
    url = await serve(app)
    rollout = registry.open("r1")

    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url + REALTIME) as socket,
    ):
        await socket.send_str("hello")
        assert await socket.receive_str() == "hello"
        if closes == "agent":
            await socket.close()
        else:
            assert (await socket.receive()).type is aiohttp.WSMsgType.CLOSE
    await until(lambda: outcomes(recorder))

    assert outcomes(recorder) == ["ok"]
    assert rollout.error is None


async def test_a_websocket_whose_handler_raises_is_cut(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """An exception in the handler of an upgraded connection is a failure, as ever."""

    async def breaks(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        raise RuntimeError(SECRET)

    app = app_of(breaks, registry)
    app.router.add_get(ROUTE, breaks)
    url = await serve(app)
    rollout = registry.open("r1")

    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url + REALTIME) as socket,
    ):
        await socket.receive()

    assert outcomes(recorder) == ["cut"]
    assert rollout.error is not None
    assert SECRET.encode() not in recorder.exported_bytes()
