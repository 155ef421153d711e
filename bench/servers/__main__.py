"""Serve one variant until SIGTERM: ``python -m bench.servers VARIANT --sink URL``."""

import argparse
import asyncio
import json
import logging
import signal
import sys
from contextlib import AbstractContextManager

from aiohttp import web


def open_app(variant: str, sink: str) -> AbstractContextManager[web.Application]:
    """Return the app of a variant; imports its peer only."""
    match variant:
        case "bare":
            from bench.servers.bare import serve
        case _:
            from bench.servers.ours import serve
    return serve(variant, sink)


async def _run(app: web.Application) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(json.dumps({"port": runner.addresses[0][1]}), flush=True)
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Say the port in a line of JSON, then serve."""
    parser = argparse.ArgumentParser(prog="bench.servers", description=__doc__)
    parser.add_argument("variant")
    parser.add_argument("--sink", required=True, help="where telemetry is sent")
    parser.add_argument("--switch-interval", type=float, help="seconds")
    args = parser.parse_args()
    # A failing handler's traceback goes to the same place for everybody: nowhere.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)
    if args.switch_interval is not None:
        sys.setswitchinterval(args.switch_interval)
    with open_app(args.variant, args.sink) as app:
        asyncio.run(_run(app))


if __name__ == "__main__":
    main()
