"""Start watched servers, put them under load, and find the helpers of a process."""

import asyncio
import contextlib
import random
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.collectors import Collector

BEAT_S = 0.02

PROGRAM = Path(__file__).with_name("watched_server.py")


def process_environ(collector: Collector, **more: str) -> dict[str, str]:
    """Return variables that send all through a helper process to a collector."""
    return {
        "OTEL_INTERCEPT_RECORDER": "process",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "5",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        **more,
    }


def helpers_of(pid: int) -> list[int]:
    """Return the process ids of the helpers that a process has."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            command = (stat.parent / "cmdline").read_bytes()
            if int(fields[1]) == pid and b"otel_intercept.sdk.helper" in command:
                found.append(int(stat.parent.name))
    return found


def is_alive(pid: int) -> bool:
    """Tell whether a process runs, and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


@contextmanager
def watched_server(
    environ: dict[str, str],
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a watched server; give its process and its port."""
    with subprocess.Popen(
        [sys.executable, PROGRAM],
        env={"PYTHONPATH": f"{PROGRAM.parent.parent}", **environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline())
        finally:
            process.kill()


@dataclass
class Story:
    """What an agent knows of one rollout.

    Args:
        trace_id: 32 hex digits.
        answered: Exchanges whose answer has come.
        asked_at: The load's beat when the exchange that runs was asked for, or None.
        closing: Whether it was being closed.
        closed: Whether it has been closed.
    """

    trace_id: str
    answered: int = 0
    asked_at: int | None = None
    closing: bool = False
    closed: bool = False


@dataclass
class Load:
    """Agents that run rollouts one after the other until their server dies.

    Args:
        port: The server's.
        seed: Of the choices that they make.
        stories: What they know.
        failures: Answers that were not as they should be.
        beats: How often the server has answered, 20 ms apart: seconds that count only
            while both it and its agents are not held up.
    """

    port: int
    seed: int
    stories: list[Story] = field(default_factory=list)
    failures: int = 0
    beats: int = 0

    async def run(self, agents: int, seconds: float) -> None:
        """Run until the time is over, or the server is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(
                    self._beat(), *(self._agent(n) for n in range(agents))
                )

    async def _beat(self) -> None:
        base = f"http://127.0.0.1:{self.port}"
        with contextlib.suppress(aiohttp.ClientError, ConnectionError):
            async with aiohttp.ClientSession(base) as session:
                while True:
                    async with session.get("/beat") as answer:
                        await answer.read()
                    await asyncio.sleep(BEAT_S)
                    self.beats += 1

    async def _agent(self, number: int) -> None:
        choose = random.Random(f"{self.seed}-{number}")  # noqa: S311 - a load
        # One connection: a request is taken only when the one before is through.
        connector = aiohttp.TCPConnector(limit=1)
        base = f"http://127.0.0.1:{self.port}"
        async with aiohttp.ClientSession(base, connector=connector) as session:
            with contextlib.suppress(aiohttp.ClientError, ConnectionError):
                for turn in range(10_000):
                    await self._rollout(session, f"{number}-{turn}", choose)

    async def _rollout(
        self, session: aiohttp.ClientSession, rollout: str, choose: random.Random
    ) -> None:
        async with session.post(f"/open/{rollout}") as opened:
            story = Story((await opened.json())["trace_id"])
        self.stories.append(story)
        for _ in range(choose.randint(0, 6)):
            wait_s = choose.choice((0, 0, 0.001, 0.02, 0.02, 1.0))
            body = {"wait_s": wait_s, "model": "gpt-5"}
            route = f"/rollout/{rollout}/v1/chat/completions"
            story.asked_at = self.beats
            async with session.post(route, json=body) as answer:
                await answer.read()
                story.asked_at = None
                self.failures += answer.status != 200
            story.answered += 1
        story.closing = True
        async with session.post(f"/close/{rollout}") as closed:
            await closed.read()
        story.closed = True


Attributes = dict[str, str | int | bool]


def attributes_of(span: Span) -> Attributes:
    """Return the plain attributes of a span."""
    return {item.key: _plain(item.value) for item in span.attributes}


def traces_of(collector: Collector) -> dict[str, list[Span]]:
    """Return the spans that have arrived by trace id."""
    traces: dict[str, list[Span]] = defaultdict(list)
    for span in collector.spans():
        traces[span.trace_id.hex()].append(span)
    return traces


def _plain(value: AnyValue) -> str | int | bool:
    match value.WhichOneof("value"):
        case "int_value":
            return value.int_value
        case "bool_value":
            return value.bool_value
        case _:
            return value.string_value
