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

from aiohttp import web

_MAX_BODY: Final = 256 * 1024 * 1024
_DATADOG_INFO: Final = {"version": "7.60.0", "endpoints": ["/v0.4/traces"]}


class _Sink:
    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._counts: Counter[str] = Counter()

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        kind = request.path.strip("/").split("/")[-1] or "root"
        self._counts[kind] += 1
        self._counts[f"{kind} bytes"] += len(body)
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
        return web.json_response(dict(self._counts))


async def _run(delay_s: float) -> None:
    sink = _Sink(delay_s)
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
    asyncio.run(_run(parser.parse_args().delay))


if __name__ == "__main__":
    main()
