"""Start the stack, print where everything is, and end it all on Ctrl-C."""

import argparse
import signal
import sys
import threading
from pathlib import Path
from typing import Final

from deploy.stack.engine import EngineError
from deploy.stack.stack import Ports, Stack, free_ports
from deploy.stack.tools import CACHE, ensure_tools

_DEFAULT_DIRECTORY: Final = CACHE / "run"


def main() -> int:
    """Run the stack until a signal comes; return 0, or 1 if an engine failed."""
    parser = argparse.ArgumentParser(prog="make stack", description=__doc__)
    parser.add_argument(
        "--directory",
        type=Path,
        default=_DEFAULT_DIRECTORY,
        help="where storage and logs are kept (default: %(default)s)",
    )
    parser.add_argument(
        "--free-ports", action="store_true", help="take any free ports, not the usual"
    )
    options = parser.parse_args()
    tools = ensure_tools()
    ports = free_ports() if options.free_ports else Ports()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        with Stack(tools, options.directory, ports) as stack:
            _print_urls(stack)
            while not stop.wait(1.0):
                for engine in stack.engines:
                    engine.check()
            print("stopping", flush=True)
    except EngineError as error:
        print(*error.args, file=sys.stderr)
        return 1
    return 0


def _print_urls(stack: Stack) -> None:
    for engine in stack.engines:
        print(f"{engine.name:13} {engine.url}")
    print(f"{'logs':13} {stack.directory}")
    print(
        f"\nsend to it:   export OTEL_EXPORTER_OTLP_ENDPOINT={stack.collector.url}\n"
        "              otel-intercept demo\n"
        "end it:       Ctrl-C",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
