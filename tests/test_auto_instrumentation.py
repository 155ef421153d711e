"""Under ``opentelemetry-instrument`` a host that knows nothing of us is traced."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

from aiohttp import web
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.collectors import HttpCollector
from tests.programs import (
    ROOT,
    attribute,
    environ,
    exchanges,
    outcomes,
    root,
    value_of,
)
from tests.relayed import Upstream, answers, listening, refuses

CANARY = "sk-canary-3b91fa"
HOST = "examples/verifiers_legacy_rollouts.py"
INSTRUMENT = str(Path(sys.executable).with_name("opentelemetry-instrument"))


async def run(
    collector: HttpCollector, *command: str
) -> "subprocess.CompletedProcess[str]":
    """Run the host against an upstream that answers the first call alone."""
    calls = 0

    async def fails_second(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        refuse = refuses(500, {"error": {"message": f"no GPU for {CANARY}"}})
        return await (answers if calls == 1 else refuse)(request)

    upstream = Upstream(fails_second)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", upstream.handle)
    async with listening(web.AppRunner(app)) as upstream.url:
        done = await asyncio.to_thread(
            subprocess.run,
            command,
            cwd=ROOT,
            env=environ(collector, UPSTREAM_URL=upstream.url),
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert len(upstream.received) == 2
    return done


async def test_an_unmodified_host_exports_its_rollout() -> None:
    """One trace, named by the host's trajectory; the failure that it swallows shows."""
    with HttpCollector() as collector:
        bare = await run(collector, sys.executable, HOST)
        silent = collector.spans()
        traced = await run(collector, INSTRUMENT, sys.executable, HOST)

    assert "otel_intercept" not in (ROOT / HOST).read_text(encoding="utf-8")
    assert (bare.returncode, traced.returncode) == (0, 0)
    assert silent == []
    trajectory = re.search(r"trajectory: ([0-9a-f]{32})\n", traced.stdout)
    assert trajectory is not None
    whole = root(collector, "r1")
    assert whole.trace_id.hex() == trajectory[1]
    assert attribute(whole, "intercept.rollout.outcome") == "failed"
    assert outcomes(collector, "r1") == ["ok", "silent_empty"]
    spans = exchanges(collector, "r1")
    assert {span.trace_id for span in spans} == {whole.trace_id}
    (event,) = spans[1].events
    assert attribute(spans[1], "error.type") == "upstream_server_error"
    assert value_of(event.attributes, "intercept.failure.phase") == "response_future"
    assert [span.status.code for span in spans] == [
        Status.STATUS_CODE_UNSET,
        Status.STATUS_CODE_ERROR,
    ]
    assert "chunks: 0\n" in traced.stdout
    assert traced.stdout.splitlines()[0] == bare.stdout.splitlines()[0]
    assert CANARY not in traced.stdout
    assert CANARY.encode() not in collector.raw()
