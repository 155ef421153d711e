"""Verifiers' own worker processes: each instruments itself, and loses nothing."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from otel_intercept.sdk import SpanLine, read_spans
from tests.conftest import Serve
from tests.hosts.legacy_loop import Upstream
from tests.hosts.legacy_stage import SECRET
from tests.served import until

ROOT = Path(__file__).parents[2]


async def start(how: str, url: str, spans: Path) -> asyncio.subprocess.Process:
    """Start the program that starts the workers."""
    search = f"{ROOT}{os.pathsep}{Path(__file__).parent}"
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-W", "ignore", "-m", "tests.hosts.legacy_worker_main", how, url),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": search,
            "KEY": "k",
            "OTEL_INTERCEPT_FILE": str(spans),
            "OTEL_TRACES_EXPORTER": "none",
            "OTEL_METRICS_EXPORTER": "none",
        },
    )


def root_of(path: Path) -> SpanLine:
    """Return the one root span that the workers wrote."""
    assert SECRET not in path.read_text()
    (root,) = (span for span in read_spans(path) if span.name == "rollout")
    return root


@pytest.mark.parametrize(
    ("answer", "stop", "outcome"),
    [("fine", "agent_completed", "completed"), ("500", "has_error", "failed")],
)
async def test_a_rollout_in_a_worker_is_seen(
    serve: Serve, tmp_path: Path, answer: str, stop: str, outcome: str
) -> None:
    """The worker's rollout is a trace, though only the parent was instrumented."""
    url = await serve(Upstream((answer,)).app())

    process = await start("runs", url, tmp_path / "spans")
    printed, _ = await asyncio.wait_for(process.communicate(), 90)

    assert process.returncode == 0
    assert printed.decode().strip() == stop
    root = root_of(tmp_path / "spans")
    assert root.attributes["intercept.rollout.outcome"] == outcome


async def test_a_worker_that_is_stopped_exports_what_it_was_at(
    serve: Serve, tmp_path: Path
) -> None:
    """SIGTERM ends a worker in the middle of a model call; its trace is whole."""
    upstream = Upstream(("hangs",))
    process = await start("stopped", await serve(upstream.app()), tmp_path / "spans")
    await until(lambda: upstream.calls, 60)

    await asyncio.wait_for(process.communicate(b"\n"), 60)

    assert process.returncode == 0
    root = root_of(tmp_path / "spans")
    assert root.attributes["intercept.rollout.outcome"] == "cancelled"
    outcomes = [
        span.attributes.get("intercept.exchange.outcome")
        for span in read_spans(tmp_path / "spans")
        if span.name.startswith("POST")
    ]
    assert outcomes == ["cancelled"]
