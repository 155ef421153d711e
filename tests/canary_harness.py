"""Run the canary program in a process of its own, and own everything that leaves it."""

import asyncio
import json
import os
import secrets
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import grpc
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.canary import Mint
from tests.canary_agents import (
    Talk,
    malformed_talks,
    model_call,
    other_talks,
    talk,
)
from tests.canary_plan import Scenario, plan
from tests.canary_upstream import Upstream, hostile_upstream
from tests.collectors import Answer, Collector, GrpcCollector, HttpCollector

if TYPE_CHECKING:
    from google.protobuf.message import Message

Protocol: TypeAlias = Literal["http/protobuf", "grpc"]

_ROOT: Final = Path(__file__).parent.parent
_SIGNALS: Final = ("traces", "metrics", "logs")
_PATIENCE_S: Final = 60.0
_POLL_S: Final = 0.02
_AT_ONCE: Final = 12


@dataclass(frozen=True, slots=True)
class Outcome:
    """All that left one run, and all that shows that it ran.

    Args:
        mint: Made its canaries.
        sinks: What left, by sink.
        planted: The logs of those who planted canaries.
        reached: Places whose canary came as far as an exception or a call of ours.
        triage: What the operator's own triage handler wrote.
        spans: Our spans, as they arrived.
        foreign: Spans of other instrumentation, as they arrived.
        talks: What each scenario's agent sent and got.
        exit_code: The program's.
    """

    mint: Mint
    sinks: Mapping[str, bytes]
    planted: bytes
    reached: frozenset[str]
    triage: bytes
    spans: Sequence[Span]
    foreign: Sequence[Span]
    talks: Sequence[tuple[Scenario, Talk]]
    exit_code: int


async def play(directory: Path, protocol: Protocol, *, debug: bool) -> Outcome:
    """Play the plan once.

    Args:
        directory: An empty one, for the files of the program.
        protocol: How its telemetry leaves.
        debug: Whether Python and asyncio are in their debug modes.
    """
    mint = Mint(secrets.token_hex(8))
    collector = HttpCollector if protocol == "http/protobuf" else GrpcCollector
    with (
        collector() as traces,
        collector(_refusal(mint)) as metrics,
        collector() as logs,
        HttpCollector() as foreign,
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        environ = _environ(mint, directory, protocol, (traces, metrics, logs))
        async with hostile_upstream(mint) as upstream:
            config = {
                "run": mint.run,
                "directory": f"{directory}",
                "upstream_port": upstream.port,
                "silent_port": silent.getsockname()[1],
                "foreign_url": f"{foreign.url}/v1/traces",
            }
            process = await _start(directory, config, environ, debug=debug)
            try:
                ports = await _ports(directory, process)
                talks = await _all_talks(mint, ports)
                others = await other_talks(mint, ports)
                malformed = await malformed_talks(mint, ports)
                # What the collector refuses must have been refused at least once.
                assert await asyncio.to_thread(metrics.wait_for, "metrics")
                metrics.answer = Answer()
            finally:
                await _stop(process)
        return Outcome(
            mint=mint,
            sinks={
                **dict(_telemetry(traces, metrics, logs, foreign)),
                **dict(_files(directory)),
                "upstream": b"\n".join(upstream.received),
                "agent": b"\n".join(_answers(talks, others)),
                "agent_malformed": b"\n".join(spoken.got for spoken in malformed),
            },
            planted=b"\n".join(
                _planted(mint, upstream, talks, others + malformed, environ)
            ),
            reached=frozenset(json.loads((directory / "reached.json").read_text())),
            triage=(directory / "triage.txt").read_bytes(),
            spans=traces.spans(),
            foreign=foreign.spans(),
            talks=talks,
            exit_code=process.returncode or 0,
        )


def _refusal(mint: Mint) -> Answer:
    return Answer(
        status=400,
        reason=f"Bad {mint('collector.reason')}",
        body=mint("collector.body").encode(),
        headers=(("X-Why", mint("collector.header")),),
        code=grpc.StatusCode.INVALID_ARGUMENT,
        details=mint("collector.body"),
    )


def _environ(
    mint: Mint,
    directory: Path,
    protocol: Protocol,
    collectors: tuple[Collector, Collector, Collector],
) -> dict[str, str]:
    user = f"user:{mint('conf.otlp_password')}@"
    query = f"?token={mint('conf.otlp_query')}"
    if protocol == "grpc":
        # It has neither, so they are refused there.
        user = query = ""
    capture = "OTEL_INSTRUMENTATION_HTTP_CAPTURE_HEADERS"
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": f"{_ROOT}",
        "OTEL_EXPORTER_OTLP_PROTOCOL": protocol,
        **{
            f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT": (
                f"http://{user}127.0.0.1:{collector.port}/v1/{signal}{query}"
            )
            for signal, collector in zip(_SIGNALS, collectors, strict=True)
        },
        "OTEL_EXPORTER_OTLP_HEADERS": f"x-collector-key={mint('conf.otlp_header')}",
        "OTEL_TRACES_EXPORTER": "otlp,otlp_json_file",
        "OTEL_METRICS_EXPORTER": "otlp,otlp_json_file,console",
        "OTEL_LOGS_EXPORTER": "otlp,otlp_json_file,console",
        "OTEL_INTERCEPT_FAILURE_LOGS": "true",
        "OTEL_METRIC_EXPORT_INTERVAL": "4000",
        "OTEL_METRICS_EXEMPLAR_FILTER": "always_on",
        "OTEL_INTERCEPT_FILE": f"{directory / 'spans.jsonl'}",
        "OTEL_INTERCEPT_FINGERPRINT_KEY": mint("conf.fingerprint_key"),
        "OTEL_PROPAGATORS": "tracecontext,baggage",
        "OTEL_SEMCONV_STABILITY_OPT_IN": "http/dup",
        f"{capture}_SERVER_REQUEST": ".*",
        f"{capture}_SERVER_RESPONSE": ".*",
        f"{capture}_CLIENT_REQUEST": ".*",
        f"{capture}_CLIENT_RESPONSE": ".*",
    }
    measured = {name: os.environ[name] for name in os.environ if name.startswith("COV")}
    return environ | measured


async def _start(
    directory: Path, config: Mapping[str, object], environ: Mapping[str, str], *,
    debug: bool,
) -> asyncio.subprocess.Process:  # fmt: skip
    path = directory / "config.json"
    path.write_text(json.dumps(config))
    modes = ("-X", "dev") if debug else ("-W", "default")
    with (
        (directory / "stdout.txt").open("wb") as stdout,
        (directory / "stderr.txt").open("wb") as stderr,
    ):
        return await asyncio.create_subprocess_exec(
            sys.executable, *modes, "-m", "tests.canary_proxy", f"{path}",
            stdin=asyncio.subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            env=environ, cwd=_ROOT,
        )  # fmt: skip


async def _ports(
    directory: Path, process: asyncio.subprocess.Process
) -> dict[str, int]:
    ready = directory / "ready.json"
    async with asyncio.timeout(_PATIENCE_S):
        while not ready.exists():
            if process.returncode is not None:
                raise AssertionError((directory / "stderr.txt").read_text())
            await asyncio.sleep(_POLL_S)
    ports: dict[str, int] = json.loads(ready.read_text())
    return ports


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.terminate()
    async with asyncio.timeout(_PATIENCE_S):
        await process.wait()


async def _all_talks(
    mint: Mint, ports: Mapping[str, int]
) -> list[tuple[Scenario, Talk]]:
    turn = asyncio.Semaphore(_AT_ONCE)

    async def one(number: int, scenario: Scenario) -> tuple[Scenario, Talk]:
        async with turn:
            sent = model_call(mint, scenario, number)
            port = ports[scenario.via]
            return scenario, await talk(port, sent, leave=scenario.how == "leave")

    return await asyncio.gather(
        *(one(number, scenario) for number, scenario in enumerate(plan()))
    )


def _telemetry(
    traces: Collector, metrics: Collector, logs: Collector, foreign: Collector
) -> Iterator[tuple[str, bytes]]:
    kinds: tuple[tuple[str, Collector, type[Message]], ...] = (
        ("otlp_traces", traces, ExportTraceServiceRequest),
        ("otlp_metrics", metrics, ExportMetricsServiceRequest),
        ("otlp_logs", logs, ExportLogsServiceRequest),
        ("foreign", foreign, ExportTraceServiceRequest),
    )
    heads = []
    for name, collector, kind in kinds:
        texts = []
        for got in collector.received:
            parsed = kind()
            parsed.ParseFromString(got.body)
            # Numbers are varints on the wire.
            texts.append(f"{parsed}".encode())
            heads.append(f"{got.target} {got.headers}".encode())
        yield name, b"\n".join(got.body for got in collector.received)
        yield f"{name}_text", b"\n".join(texts)
    yield "otlp_heads", b"\n".join(heads)


def _files(directory: Path) -> Iterator[tuple[str, bytes]]:
    for name, file in (
        ("file", "spans.jsonl"),
        ("metrics_file", "spans.metrics.jsonl"),
        ("logs_file", "spans.logs.jsonl"),
        ("log", "log.txt"),
        ("stdout", "stdout.txt"),
        ("stderr", "stderr.txt"),
        ("states", "states.bin"),
        ("objects", "objects.bin"),
    ):
        yield name, (directory / file).read_bytes()


def _answers(
    talks: Sequence[tuple[Scenario, Talk]], others: Sequence[Talk]
) -> Iterator[bytes]:
    for scenario, spoken in talks:
        # A stream of the model's own words is what the agent has asked for.
        if not (scenario.passes_through and spoken.status == 200):
            yield spoken.got
    yield from (spoken.got for spoken in others)


def _planted(
    mint: Mint,
    upstream: Upstream,
    talks: Sequence[tuple[Scenario, Talk]],
    others: Sequence[Talk],
    environ: Mapping[str, str],
) -> Iterator[bytes]:
    yield from upstream.sent
    yield from upstream.received
    yield from (spoken.sent for _, spoken in talks if spoken.got)
    yield from (spoken.sent for spoken in others if spoken.got)
    yield f"{environ}".encode()
    yield f"{_refusal(mint)}".encode()
