"""The program of a canary run: a proxy with every debug switch on, in its own process.

Started by ``tests/canary_harness.py``. It plays the plan, then reads its own objects
off, and then lets one control canary out at every exit, to show that they are watched.
"""

import asyncio
import contextlib
import gc
import json
import logging
import signal
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.aiohttp_client import AioHttpClientInstrumentor
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from otel_intercept import Phase, RolloutRegistry, Telemetry
from otel_intercept.sdk import configure
from otel_intercept.translate.guarded import GuardedSpanExporter
from tests.canary import Mint
from tests.canary_app import OwnApp
from tests.canary_liars import Trap
from tests.canary_servers import serve_all
from tests.canary_stage import Stage
from tests.canary_walk import reachable, renderings

# They write URLs, headers and bodies by design; an operator has to silence them.
_CLIENT_LOGGERS: Final = (
    "httpx", "httpcore", "httpx2", "httpcore2", "openai", "anthropic",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Config:
    """What the harness tells the program.

    Args:
        run: The run that makes the canaries.
        directory: Where the files are written.
        upstream_port: Where the hostile upstream listens.
        silent_port: Where somebody accepts and says nothing.
        foreign_url: Where the spans of other instrumentation go.
    """

    run: str
    directory: Path
    upstream_port: int
    silent_port: int
    foreign_url: str


class _Everything(logging.Handler):
    """Writes each record as a formatter would, and all that hangs on it."""

    def __init__(self, path: Path) -> None:
        super().__init__(logging.DEBUG)
        self._file = path.open("w", encoding="utf-8", errors="backslashreplace")

    def emit(self, record: logging.LogRecord) -> None:
        self._file.write(f"{self.format(record)}\n{vars(record)!r}\n")
        self._file.flush()


class _Triage(_Everything):
    """The operator's own handler, which is meant to print exceptions."""

    def emit(self, record: logging.LogRecord) -> None:
        with Trap.disarmed():
            super().emit(record)


def main(path: str) -> None:
    """Run until SIGTERM."""
    given = json.loads(Path(path).read_text())
    config = Config(**given | {"directory": Path(given["directory"])})
    mint = Mint(config.run)
    _log_everything(config.directory)
    foreign = _instrument_others(config)
    with configure() as telemetry:
        stage = asyncio.run(_play(telemetry, config))
    named = {"http.route": mint("control.foreign")}
    foreign.get_tracer("control").start_span("GET", attributes=named).end()
    foreign.shutdown()
    _read_off(stage, config.directory)
    _write_json(config.directory / "reached.json", sorted(stage.reached))
    del stage
    gc.collect()
    _let_out(mint)


async def _play(telemetry: Telemetry, config: Config) -> Stage:
    loop = asyncio.get_running_loop()
    # asyncio prints the arguments of slow callbacks in debug mode, futures with their
    # exceptions among them; on a busy machine any callback is slow.
    loop.slow_callback_duration = 3600
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    mint = Mint(config.run)
    registry = RolloutRegistry(telemetry)
    stage = Stage(registry, mint, config.upstream_port, config.silent_port)
    runner = web.AppRunner(OwnApp(stage).app(), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    async with serve_all(stage) as ports:
        ports["app"] = runner.addresses[0][1]
        _write_json(config.directory / "ready.json", ports)
        await stopped.wait()
        if stage.late:
            await asyncio.wait(stage.late)
        stage.late.clear()
    await runner.cleanup()
    for rollout in stage.rollouts:
        registry.close(rollout.rollout_id)
    shown = registry.open(mint("control.rollout_id"))
    shown.fail(TimeoutError(), phase=Phase.UPSTREAM_CALL)
    registry.close(shown.rollout_id)
    # What nobody has retrieved is reported now.
    gc.collect()
    await asyncio.sleep(0)
    await _drop_failures(mint)
    gc.collect()
    await asyncio.sleep(0)
    return stage


def _log_everything(directory: Path) -> None:
    logging.basicConfig(
        level=logging.DEBUG, handlers=[_Everything(directory / "log.txt")]
    )
    for name in _CLIENT_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    triage = logging.getLogger("otel_intercept.triage")
    triage.addHandler(_Triage(directory / "triage.txt"))
    triage.setLevel(logging.DEBUG)


def _instrument_others(config: Config) -> TracerProvider:
    """Instrument server and clients with contrib, behind our export guard."""
    provider = TracerProvider()
    exporter = GuardedSpanExporter(OTLPSpanExporter(endpoint=config.foreign_url))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    AioHttpClientInstrumentor().instrument(tracer_provider=provider)
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    return provider


async def _drop_failures(mint: Mint) -> None:
    """Let a future and a task fail that nobody sees to."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()
    future.set_exception(RuntimeError(mint("control.future")))
    task = asyncio.create_task(asyncio.to_thread(_fail, mint("control.task")))
    await asyncio.wait([task])


def _read_off(stage: Stage, directory: Path) -> None:
    """Write what the training loop, a debugger or a pickle would show."""
    shown: list[object] = [RuntimeError(stage.mint("control.state"))]
    shown += [rollout.error for rollout in stage.rollouts]
    shown += [exchange.failure for exchange in stage.exchanges]
    for state in stage.states:
        # A hostile mapping tells its own secrets.
        with contextlib.suppress(RuntimeError):
            shown.append(state.get("error"))
    texts = (renderings(value) + reachable(value) for value in shown)
    (directory / "states.bin").write_bytes(b"\n".join(dict.fromkeys(texts)))
    other = RuntimeError(stage.mint("control.object"))
    with (directory / "objects.bin").open("wb") as file:
        for thing in (*stage.rollouts, *stage.exchanges, stage.registry, other):
            file.write(f"{thing!r} {thing!s}\n".encode())


def _let_out(mint: Mint) -> None:
    """Let a control canary out at every exit of a process."""
    logging.getLogger("control").debug("%s", mint("control.log"))
    sys.stdout.write(f"{mint('control.stdout')}\n")
    sys.stderr.write(f"{mint('control.stderr')}\n")
    warnings.warn(mint("control.warning"), stacklevel=1)
    thread = threading.Thread(target=_fail, args=(mint("control.thread"),))
    thread.start()
    thread.join()
    thing = _Unraisable(mint("control.unraisable"))
    del thing


def _fail(canary: str) -> None:
    raise RuntimeError(canary)


class _Unraisable:
    def __init__(self, canary: str) -> None:
        self._canary = canary

    def __del__(self) -> None:
        raise RuntimeError(self._canary)


def _write_json(path: Path, value: object) -> None:
    # The harness waits for the file to be there, and then reads it at once.
    partial = path.with_suffix(".part")
    partial.write_text(json.dumps(value))
    partial.rename(path)


if __name__ == "__main__":
    main(sys.argv[1])
