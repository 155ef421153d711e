"""Answers that aiohttp sends in a way of their own: files, and other protocols."""

import logging
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from otel_intercept import RolloutRegistry
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.served import outcomes
from tests.test_middleware import CHAT, app_of


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
