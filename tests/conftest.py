"""Fixtures that most tests share: a real pipeline, a registry, and served apps."""

import importlib.util
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Protocol

import pytest
from aiohttp import web

from otel_intercept import RolloutRegistry
from otel_intercept.testing import TelemetryRecorder


class Serve(Protocol):
    """Serves an app on a free loopback port and returns its base URL."""

    async def __call__(
        self, app: web.Application, *, handler_cancellation: bool = False
    ) -> str: ...


# Not installed beside each release of verifiers.
if importlib.util.find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    # How long an example takes says something of the machine alone.
    settings.register_profile(
        "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("patient")

TRIAGE = "otel_intercept.triage"


def logged(caplog: pytest.LogCaptureFixture) -> str:
    """Return all that was logged, by anybody, except for local triage.

    pytest hands its own handler to loggers that do not propagate, so that the triage
    logger has one here and speaks.
    """
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    return "\n".join(
        formatter.format(record) + str(vars(record))
        for record in caplog.records
        if record.name != TRIAGE
    )


@pytest.fixture
def recorder() -> Iterator[TelemetryRecorder]:
    """Record what would leave the process, through the real pipeline."""
    recorder = TelemetryRecorder()
    yield recorder
    recorder.telemetry.shutdown()


@pytest.fixture
def registry(recorder: TelemetryRecorder) -> RolloutRegistry:
    """Keep rollouts whose telemetry goes to ``recorder``."""
    return RolloutRegistry(recorder.telemetry)


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve apps on free loopback ports; each call returns the base URL."""
    runners: list[web.AppRunner] = []

    async def start(app: web.Application, *, handler_cancellation: bool = False) -> str:
        runner = web.AppRunner(
            app, shutdown_timeout=1, handler_cancellation=handler_cancellation
        )
        runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        return f"http://{host}:{port}"

    yield start
    for runner in runners:
        await runner.cleanup()
