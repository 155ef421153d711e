"""The command ``serve``: a relay that observes, in front of any upstream."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from yarl import URL

from otel_intercept import RolloutRegistry, Telemetry
from otel_intercept.cli.export_file import claim
from otel_intercept.cli.logs import own_warnings
from otel_intercept.cli.output import (
    EXIT_OK,
    printable,
    refuse,
    sentence_of,
)
from otel_intercept.sdk import configure
from otel_intercept.server.relay import ErrorBodies, make_relay_app, relay_runner
from otel_intercept.server.relay.wire import upstream_base

UPSTREAM_KEY: Final = "OTEL_INTERCEPT_UPSTREAM_KEY"
CONTROL_SECRET: Final = "OTEL_INTERCEPT_CONTROL_SECRET"  # noqa: S105 - its name

_SERVICE_NAME: Final = "otel-intercept-relay"
_BACKLOG: Final = 1024
_CHECK_S: Final = 5.0
_ENDPOINTS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
)
_EXPORTERS: Final = ("OTEL_TRACES_EXPORTER", "OTEL_METRICS_EXPORTER")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What the command line says.

    Args:
        upstream: Base URL of the upstream.
        host: Address to listen on.
        port: Port to listen on; 0 for any free one.
        idle_close_s: Seconds after which an idle rollout is closed as abandoned.
        error_bodies: Whether the upstream's error bodies reach the agent.
        file: Where telemetry is written to as well, or None.
        grace_s: Seconds that running exchanges have after a signal.
        check: Whether to connect to the upstream once before serving.
    """

    upstream: str
    host: str
    port: int
    idle_close_s: float
    error_bodies: ErrorBodies
    file: Path | None
    grace_s: float
    check: bool


def serve(options: ServeOptions, environ: Mapping[str, str] = os.environ) -> int:
    """Relay until SIGTERM or SIGINT, then end everything that is open; return 0.

    Raises:
        Refused: The address or the file cannot be used, or nobody is at the upstream.
        ConfigurationError: The upstream's URL or a variable cannot be used.
    """
    base = upstream_base(options.upstream)
    if options.check:
        asyncio.run(_check(URL(base)))
    variables = _variables(options.file, environ)
    with (
        own_warnings(),
        contextlib.closing(_listen(options)) as listener,
        configure(variables, service_name=_SERVICE_NAME) as telemetry,
    ):
        asyncio.run(_relay(options, environ, telemetry, listener))
    _print_balance(telemetry)
    return EXIT_OK


async def _relay(
    options: ServeOptions,
    environ: Mapping[str, str],
    telemetry: Telemetry,
    listener: socket.socket,
) -> None:
    app = make_relay_app(
        RolloutRegistry(telemetry),
        upstream=options.upstream,
        idle_close_s=options.idle_close_s,
        error_bodies=options.error_bodies,
        control_secret=environ.get(CONTROL_SECRET) or None,
        upstream_key=environ.get(UPSTREAM_KEY) or None,
    )
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    runner = relay_runner(app, shutdown_timeout_s=options.grace_s)
    await runner.setup()
    try:
        await web.SockSite(runner, listener).start()
        print(_address_line(options, listener), flush=True)
        await stop.wait()
        # A second Ctrl-C means it.
        loop.remove_signal_handler(signal.SIGINT)
        print("stopping: open rollouts end as aborted", flush=True)
    finally:
        await runner.cleanup()


def _listen(options: ServeOptions) -> socket.socket:
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        return socket.create_server(
            (options.host, options.port), family=family, backlog=_BACKLOG
        )
    except OSError as exc:
        refuse(
            f"cannot listen on {printable(options.host)}, port {options.port}: "
            f"{sentence_of(exc)}"
        )


async def _check(url: URL) -> None:
    try:
        async with asyncio.timeout(_CHECK_S):
            _, writer = await asyncio.open_connection(url.host, url.port)
    except OSError as exc:
        refuse(
            f"cannot reach the upstream {_origin(url)}: {sentence_of(exc)}; "
            "--no-check serves anyway"
        )
    writer.close()


def _address_line(options: ServeOptions, listener: socket.socket) -> str:
    host = f"[{options.host}]" if ":" in options.host else options.host
    port = listener.getsockname()[1]
    upstream = _origin(URL(upstream_base(options.upstream)))
    return f"relaying http://{host}:{port}/rollout/ID/v1 to {upstream}"


def _origin(url: URL) -> str:
    # A path may be a secret of its own, as in some gateways' URLs.
    return printable(str(url.origin()))


def _variables(file: Path | None, environ: Mapping[str, str]) -> dict[str, str]:
    variables = dict(environ)
    if file is None:
        return variables
    claim(file)
    variables["OTEL_INTERCEPT_FILE"] = str(file)
    if not any(environ.get(name) for name in (*_ENDPOINTS, *_EXPORTERS)):
        # Nobody asked for a collector, so none is looked for on this machine.
        variables |= dict.fromkeys(_EXPORTERS, "otlp_json_file")
    return variables


def _print_balance(telemetry: Telemetry) -> None:
    if not telemetry.enabled:
        print("telemetry was disabled by the environment")
        return
    balance = telemetry.balance()
    print(
        f"telemetry: {balance.started} records started, {balance.exported} exported, "
        f"{balance.failed} failed, {balance.dropped} dropped, {balance.open} open, "
        f"{balance.queued} queued"
    )
