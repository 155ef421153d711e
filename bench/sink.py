"""A backend that takes whatever any of the peers sends, and counts it.

Understands OTLP over HTTP, Sentry's envelopes, Datadog's agent and Elastic's intake, as
far as their clients must be content with it. Runs in a process of its own:
``python -m bench.sink``.
"""

import argparse
import asyncio
import json
import signal
from collections import Counter
from typing import Final

import requests
from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_MAX_BODY: Final = 256 * 1024 * 1024
_DATADOG_INFO: Final = {"version": "7.60.0", "endpoints": ["/v0.4/traces"]}


class _Sink:
    def __init__(self, delay_s: float, *, keep: bool) -> None:
        self._delay_s = delay_s
        self._keep = keep
        self._counts: Counter[str] = Counter()
        self._traces: list[bytes] = []

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        kind = request.path.strip("/").split("/")[-1] or "root"
        self._counts[kind] += 1
        self._counts[f"{kind} bytes"] += len(body)
        if self._keep and request.path == "/v1/traces":
            self._traces.append(body)
        if self._delay_s:
            await asyncio.sleep(self._delay_s)
        match request.path:
            case "/v1/traces" | "/v1/metrics" | "/v1/logs":
                return web.Response(content_type="application/x-protobuf")
            case "/info":
                return web.json_response(_DATADOG_INFO)
            case "/intake/v2/events":
                return web.Response(status=202)
            case _:
                return web.json_response({})

    async def tell(self, request: web.Request) -> web.Response:
        return web.json_response(self._counts | self._spans())

    def _spans(self) -> Counter[str]:
        # Decoded when asked: while there is load, the sink must not take the CPU.
        spans: Counter[str] = Counter()
        for body in self._traces:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        spans[f"spans {_kind(span)}"] += 1
        return spans


def _kind(span: Span) -> str:
    if span.kind == Span.SPAN_KIND_INTERNAL:
        return span.name
    return "SERVER" if span.kind == Span.SPAN_KIND_SERVER else "CLIENT"


def counts_of(url: str) -> dict[str, int]:
    """Ask a sink what it has taken: requests and bytes by kind, and spans if kept."""
    with requests.Session() as session:
        session.trust_env = False
        counts: dict[str, int] = session.get(f"{url}/_counts", timeout=120).json()
    return counts


async def _run(delay_s: float, *, keep: bool) -> None:
    sink = _Sink(delay_s, keep=keep)
    app = web.Application(client_max_size=_MAX_BODY)
    app.router.add_get("/_counts", sink.tell)
    app.router.add_route("*", "/{path:.*}", sink.take)
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Say the port in a line of JSON, then serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="bench.sink", description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0, help="seconds per answer")
    parser.add_argument("--keep", action="store_true", help="also count spans by kind")
    args = parser.parse_args()
    asyncio.run(_run(args.delay, keep=args.keep))


if __name__ == "__main__":
    main()
