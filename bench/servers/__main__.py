"""Serve one variant until SIGTERM: ``python -m bench.servers VARIANT --sink URL``."""

import argparse
import asyncio
import gc
import json
import logging
import signal
import sys
from contextlib import AbstractContextManager

from bench.servers.app import Site


def open_site(variant: str, sink: str) -> AbstractContextManager[Site]:
    """Return what serves a variant; imports its peer only."""
    match variant:
        case "bare":
            from bench.servers import bare

            return bare.serve(sink)
        case "contrib":
            from bench.servers import contrib

            return contrib.serve(sink)
        case "logfire":
            from bench.servers import logfire

            return logfire.serve(sink)
        case "sentry":
            from bench.servers import sentry

            return sentry.serve(sink)
        case "ddtrace":
            from bench.servers import ddtrace

            return ddtrace.serve(sink)
        case "elastic":
            from bench.servers import elastic

            return elastic.serve(sink)
        case "verifiers" | "verifiers-thread" | "verifiers-process":
            from bench.servers import verifiers

            return verifiers.serve(variant, sink)
        case _:
            from bench.servers import ours

            return ours.serve(variant, sink)


async def _run(site: Site, *, freeze: bool) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    port = await site.start()
    if freeze:
        gc.collect()
        gc.freeze()
    print(json.dumps({"port": port}), flush=True)
    await stop.wait()
    await site.stop()


def main() -> None:
    """Say the port in a line of JSON, then serve."""
    parser = argparse.ArgumentParser(prog="bench.servers", description=__doc__)
    parser.add_argument("variant")
    parser.add_argument("--sink", required=True, help="where telemetry is sent")
    parser.add_argument("--switch-interval", type=float, help="seconds")
    parser.add_argument(
        "--freeze", action="store_true", help="collect no garbage of the start"
    )
    args = parser.parse_args()
    # A failing handler's traceback goes to the same place for everybody: nowhere.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL + 1)
    if args.switch_interval is not None:
        sys.setswitchinterval(args.switch_interval)
    with open_site(args.variant, args.sink) as site:
        asyncio.run(_run(site, freeze=args.freeze))


if __name__ == "__main__":
    main()
