"""The command ``serve``: a relay in front of an upstream, its signals and mistakes."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import anthropic
import openai
import pytest

from otel_intercept.cli import main
from otel_intercept.cli.demo.agents import Clients, sdk_clients
from otel_intercept.cli.demo.dialogues import (
    ChatDialogue,
    CompletionsDialogue,
    Dialogue,
    MessagesDialogue,
    ResponsesDialogue,
)
from otel_intercept.cli.demo.faults import FAULT_HEADER, Fault
from otel_intercept.cli.demo.scenario import Turn
from otel_intercept.cli.demo.upstream import ScriptedUpstream, serving
from otel_intercept.cli.story import RolloutStory, read_all
from tests.collectors import HttpCollector
from tests.stopwatch import Stopwatch

ROOT = Path(__file__).parent.parent
CANARY = "sk-canary-d41f7e"
ADDRESS = re.compile(r"relaying (http://127\.0\.0\.1:\d+)/rollout/ID/v1 to (\S+)\n")


@dataclass
class Relay:
    """A running ``serve``, and what it has printed so far."""

    process: "subprocess.Popen[str]"
    url: str
    out: str

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Send a signal; return the exit code and all that was printed."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=60)
        return self.process.returncode, self.out + out, err


@contextmanager
def relay(upstream: str, *arguments: str, **environ: str) -> Iterator[Relay]:
    """Run ``serve`` on a free port in a process of its own."""
    command = [sys.executable, "-m", "otel_intercept", "serve", "--port", "0"]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OTEL_")}
    process = subprocess.Popen(
        [*command, "--upstream", upstream, *arguments],
        cwd=ROOT,
        env=clean
        | {"OTEL_TRACES_EXPORTER": "none", "OTEL_METRICS_EXPORTER": "none"}
        | environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = ADDRESS.fullmatch(line)
    try:
        assert found is not None
        yield Relay(process, found[1], line)
    finally:
        process.kill()
        process.communicate()


@asynccontextmanager
async def scripted(pace_s: float = 0.0) -> AsyncIterator[str]:
    """Serve a scripted upstream whose error texts hold the canary."""
    async with serving(ScriptedUpstream(secret=CANARY, pace_s=pace_s).app()) as url:
        yield url


def openai_for(clients: Clients, url: str, **headers: str) -> openai.AsyncOpenAI:
    """Point the OpenAI SDK to a rollout."""
    return clients.openai.with_options(
        base_url=f"{url}/v1", api_key=CANARY, default_headers=headers
    )


def anthropic_for(clients: Clients, url: str) -> anthropic.AsyncAnthropic:
    """Point the Anthropic SDK to a rollout."""
    return clients.anthropic.with_options(base_url=url, api_key=CANARY)


def stories_of(path: Path) -> dict[str, RolloutStory]:
    """Read the rollouts of a file by their id."""
    return {story.rollout_id: story for story in read_all(path)}


def wait_until_open(url: str) -> None:
    """Wait until the relay says that a rollout is open."""
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=30).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            time.sleep(0.05)
        else:
            return
    pytest.fail("the rollout was not opened in time")


def wait_until_closed(url: str) -> None:
    """Wait until the relay says that a rollout is open no more."""
    for _ in range(600):
        try:
            urllib.request.urlopen(url, timeout=30).close()  # noqa: S310
        except urllib.error.HTTPError as error:
            error.close()
            if error.status == 404:
                return
        time.sleep(0.05)
    pytest.fail("the rollout was not closed in time")


def outcomes_of(story: RolloutStory) -> list[object]:
    """Return the outcomes of a rollout's exchanges."""
    return [
        item.span.attributes["intercept.exchange.outcome"] for item in story.exchanges
    ]


async def test_both_sdks_work_through_it_in_every_dialect(tmp_path: Path) -> None:
    """Whole answers, tool calls and streams of four dialects pass, and are traced."""
    file = tmp_path / "spans.jsonl"
    async with scripted() as upstream, sdk_clients() as clients:
        with relay(upstream, "--file", str(file)) as served:
            dialogues: dict[str, Dialogue] = {
                "chat": ChatDialogue(openai_for(clients, f"{served.url}/rollout/chat")),
                "text": CompletionsDialogue(
                    openai_for(clients, f"{served.url}/rollout/text")
                ),
                "responses": ResponsesDialogue(
                    openai_for(clients, f"{served.url}/rollout/responses")
                ),
                "messages": MessagesDialogue(
                    anthropic_for(clients, f"{served.url}/rollout/messages")
                ),
            }
            filled = [
                await dialogue.ask(turn)
                for dialogue in dialogues.values()
                for turn in (Turn(tool=True), Turn(stream=True), Turn())
            ]
            code, out, err = await asyncio.to_thread(served.stop)

    stories = stories_of(file)
    assert all(filled)
    assert (code, err) == (0, "")
    assert set(stories) == set(dialogues)
    assert all(outcomes_of(story) == ["ok"] * 3 for story in stories.values())
    assert {story.outcome for story in stories.values()} == {"aborted"}
    assert CANARY not in out
    assert CANARY.encode() not in file.read_bytes()


async def test_failures_are_what_the_dialect_promises_and_redacted(
    tmp_path: Path,
) -> None:
    """The SDK raises its own error; the upstream's text stays out of all of it."""
    file = tmp_path / "spans.jsonl"
    async with scripted() as upstream, sdk_clients() as clients:
        with relay(
            f"{upstream}/v1", "--file", str(file), OTEL_INTERCEPT_UPSTREAM_KEY=CANARY
        ) as served:
            client = openai_for(
                clients,
                f"{served.url}/rollout/limited",
                **{FAULT_HEADER: Fault.RATE_LIMITED},
            )
            with pytest.raises(openai.RateLimitError) as raised:
                await ChatDialogue(client).ask(Turn())
            code, out, err = await asyncio.to_thread(served.stop)

    story = stories_of(file)["limited"]
    assert code == 0
    assert outcomes_of(story) == ["upstream_failed"]
    assert story.failures[0].attributes["error.type"] == "upstream_rate_limited"
    assert CANARY not in str(raised.value) + out + err
    assert CANARY.encode() not in file.read_bytes()


async def test_error_bodies_pass_if_asked_to() -> None:
    """With ``--error-bodies pass`` the agent gets the upstream's own words."""
    async with scripted() as upstream, sdk_clients() as clients:
        with relay(upstream, "--error-bodies", "pass") as served:
            client = openai_for(
                clients,
                f"{served.url}/rollout/r",
                **{FAULT_HEADER: Fault.SERVER_ERROR},
            )
            with pytest.raises(openai.InternalServerError) as raised:
                await ChatDialogue(client).ask(Turn())
            _, out, err = await asyncio.to_thread(served.stop)

    assert CANARY in str(raised.value)
    assert CANARY not in out + err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_open_rollouts_and_flushes(
    tmp_path: Path, number: int
) -> None:
    """A stream that runs may end, open rollouts become aborted, all is exported."""
    file = tmp_path / "spans.jsonl"
    async with scripted(pace_s=0.05) as upstream, sdk_clients() as clients:
        with relay(upstream, "--file", str(file)) as served:
            client = openai_for(clients, f"{served.url}/rollout/open")
            stream = await client.chat.completions.create(
                model="scripted-1",
                messages=[{"role": "user", "content": CANARY}],
                stream=True,
            )
            async with stream:
                await anext(aiter(stream))
                served.process.send_signal(number)
                rest = [chunk async for chunk in stream]
            out, err = await asyncio.to_thread(served.process.communicate)

    story = stories_of(file)["open"]
    assert served.process.returncode == 0
    assert err == ""
    assert "stopping: open rollouts end as aborted" in out
    assert re.search(r"(\d+) records started, \1 exported, 0 failed, 0 dropped", out)
    assert rest[-1].choices[0].finish_reason == "stop"
    assert outcomes_of(story) == ["ok"]
    assert story.outcome == "aborted"
    assert CANARY.encode() not in file.read_bytes()


async def test_a_stream_that_outlasts_the_grace_is_cancelled(tmp_path: Path) -> None:
    """After the grace period a running exchange is cut, and traced as cancelled."""
    file = tmp_path / "spans.jsonl"
    async with scripted(pace_s=30.0) as upstream, sdk_clients() as clients:
        with relay(upstream, "--file", str(file), "--grace", "0.2") as served:
            client = openai_for(clients, f"{served.url}/rollout/long")
            asking = asyncio.create_task(ChatDialogue(client).ask(Turn(stream=True)))
            await asyncio.to_thread(wait_until_open, f"{served.url}/rollout/long")
            with Stopwatch() as watch:
                code, _, err = await asyncio.to_thread(served.stop)
            with pytest.raises(openai.APIConnectionError):
                await asking

    story = stories_of(file)["long"]
    assert (code, err) == (0, "")
    assert watch.took_s < 8
    assert outcomes_of(story) == ["cancelled"]
    assert story.outcome == "aborted"


async def test_rollouts_are_controlled_with_the_secret(tmp_path: Path) -> None:
    """PUT and DELETE need the secret of the environment; health needs none."""
    file = tmp_path / "spans.jsonl"

    def ask(method: str, url: str, key: str | None = None) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(url, method=method, headers=headers)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with closing(error):
                return error.code

    def control() -> tuple[list[int], str, str]:
        with relay(
            upstream, "--file", str(file), OTEL_INTERCEPT_CONTROL_SECRET=CANARY
        ) as served:
            url = f"{served.url}/rollout/mine"
            statuses = [
                ask("GET", f"{served.url}/health"),
                ask("PUT", url),
                ask("PUT", url, CANARY),
                ask("DELETE", url, CANARY),
            ]
            _, out, err = served.stop()
            return statuses, out, err

    async with scripted() as upstream:
        statuses, out, err = await asyncio.to_thread(control)

    assert statuses[0] == 200
    assert statuses[1] == 401
    assert all(200 <= status < 300 for status in statuses[2:])
    assert stories_of(file)["mine"].outcome == "completed"
    assert CANARY not in out + err


async def test_idle_rollouts_are_abandoned(tmp_path: Path) -> None:
    """A rollout without a request for ``--idle-close`` seconds is closed."""
    file = tmp_path / "spans.jsonl"
    async with scripted() as upstream, sdk_clients() as clients:
        with relay(upstream, "--file", str(file), "--idle-close", "0.2") as served:
            client = openai_for(clients, f"{served.url}/rollout/idle")
            await ChatDialogue(client).ask(Turn())
            await asyncio.to_thread(wait_until_closed, f"{served.url}/rollout/idle")
            await asyncio.to_thread(served.stop)

    assert stories_of(file)["idle"].outcome == "abandoned"


async def test_secrets_in_the_upstream_path_are_not_printed() -> None:
    """Of the upstream's URL only scheme, host and port are shown."""
    async with scripted() as upstream:
        with relay(f"{upstream}/{CANARY}/v1") as served:
            code, out, err = await asyncio.to_thread(served.stop)

    assert code == 0
    assert f"to {upstream}\n" in out
    assert CANARY not in out + err


async def test_an_endpoint_of_the_environment_is_used(tmp_path: Path) -> None:
    """With an OTLP endpoint, a file gets the spans as well, not instead."""
    file = tmp_path / "spans.jsonl"
    with HttpCollector() as collector:
        async with scripted() as upstream, sdk_clients() as clients:
            with relay(
                upstream,
                "--file",
                str(file),
                OTEL_TRACES_EXPORTER="otlp",
                OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
            ) as served:
                client = openai_for(clients, f"{served.url}/rollout/both")
                await ChatDialogue(client).ask(Turn())
                await asyncio.to_thread(served.stop)
        arrived = {span.span_id.hex() for span in collector.spans()}

    assert outcomes_of(stories_of(file)["both"]) == ["ok"]
    assert stories_of(file)["both"].exchanges[0].span.span_id in arrived


async def test_a_dead_collector_is_one_warning_without_its_url() -> None:
    """Relaying goes on; the log says that export fails, and not to where."""
    async with scripted() as upstream, sdk_clients() as clients:
        with relay(
            upstream,
            OTEL_TRACES_EXPORTER="otlp",
            OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:1/{CANARY}",
            OTEL_EXPORTER_OTLP_TIMEOUT="0.2",
        ) as served:
            client = openai_for(clients, f"{served.url}/rollout/r")
            answered = await ChatDialogue(client).ask(Turn())
            await asyncio.sleep(1.5)
            code, out, err = await asyncio.to_thread(served.stop)

    assert answered
    assert code == 0
    assert err.count("spans were not exported (the connection failed)") == 1
    assert "Traceback" not in err
    assert CANARY not in out + err


def test_disabled_telemetry_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """With the SDK disabled the relay works, and says that nothing was recorded."""
    with relay("http://127.0.0.1:1", "--no-check", OTEL_SDK_DISABLED="true") as served:
        code, out, _ = served.stop()

    assert code == 0
    assert "telemetry was disabled by the environment" in out


def test_it_runs_and_stops_in_process(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """`main` returns 0 after a signal, and prints address, end and balance."""
    monkeypatch.setenv("OTEL_INTERCEPT_UPSTREAM_KEY", CANARY)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]

    def stop_when_served() -> None:
        for _ in range(1000):
            time.sleep(0.05)
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
            except OSError:
                continue
            os.kill(os.getpid(), signal.SIGTERM)
            return

    stopper = threading.Thread(target=stop_when_served)
    stopper.start()
    code = main(
        [
            "serve", "--upstream", "http://127.0.0.1:1", "--no-check",
            "--port", str(port), "--file", str(tmp_path / "spans.jsonl"),
        ]
    )  # fmt: skip
    stopper.join()
    lines = capsys.readouterr().out.splitlines()

    assert code == 0
    assert lines[0].startswith(f"relaying http://127.0.0.1:{port}/rollout/ID/v1 to ")
    assert lines[1].startswith("stopping")
    assert lines[2].startswith("telemetry: 0 records started")
    assert CANARY not in "".join(lines)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a ``serve`` that must be refused; return its line."""
    code = main(["serve", *arguments])
    printed = capsys.readouterr()

    assert code == 2
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_an_occupied_port_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The line names address and port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]

        line = refused(
            capsys, "--upstream", "http://h.invalid", "--no-check", "--port", str(port)
        )

    assert f"cannot listen on 127.0.0.1, port {port}: the address is in use" in line


@pytest.mark.parametrize(
    ("upstream", "words"),
    [
        ("http://127.0.0.1:1/v1", "http://127.0.0.1:1: the connection was refused"),
        ("https://h.invalid/v1", "https://h.invalid: the host name is unknown"),
    ],
)
def test_an_unreachable_upstream_is_one_line(
    capsys: pytest.CaptureFixture[str], upstream: str, words: str
) -> None:
    """The line names host and port, and how to serve nevertheless."""
    line = refused(capsys, "--upstream", upstream, "--port", "0")

    assert words in line
    assert "--no-check" in line


@pytest.mark.parametrize(
    "upstream",
    [
        f"http://user:{CANARY}@h.invalid/v1",
        f"http://h.invalid/v1?key={CANARY}",
        f"h.invalid/{CANARY}",
        f"http://[{CANARY}",
        "",
    ],
)
def test_an_unusable_upstream_is_refused_without_an_echo(
    capsys: pytest.CaptureFixture[str], upstream: str
) -> None:
    """User names, queries and what is no URL are refused in a clear sentence."""
    line = refused(capsys, "--upstream", upstream)

    assert "must be an http or https URL" in line
    assert CANARY not in line


@pytest.mark.parametrize("host", ["192.0.2.1", "h.invalid", "::ffff"])
def test_an_address_of_others_is_one_line(
    capsys: pytest.CaptureFixture[str], host: str
) -> None:
    """An address that is not this machine's cannot be listened on."""
    line = refused(
        capsys, "--upstream", "http://h.invalid", "--no-check", "--host", host
    )

    assert f"cannot listen on {host}, port 8080: " in line


def test_a_file_of_another_purpose_is_left_alone(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Telemetry is appended to files of spans only."""
    notes = tmp_path / "notes"
    notes.write_text("notes\n", encoding="utf-8")

    line = refused(capsys, "--upstream", "http://h", "--no-check", "--file", str(notes))

    assert "is not a file of this command" in line
    assert notes.read_text(encoding="utf-8") == "notes\n"


def test_a_bad_variable_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable with a value that is not allowed is named, its value is not."""
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", CANARY)

    line = refused(capsys, "--upstream", "http://h", "--no-check", "--port", "0")

    assert "OTEL_TRACES_EXPORTER" in line
    assert CANARY not in line


def test_the_metrics_stand_in_a_file_of_their_own(tmp_path: Path) -> None:
    """Spans and metrics do not share a file, since viewers take spans only."""
    file = tmp_path / "spans.jsonl"
    environ = {"OTEL_TRACES_EXPORTER": "", "OTEL_METRICS_EXPORTER": ""}
    with relay(
        "http://127.0.0.1:1", "--no-check", "--file", str(file), **environ
    ) as served:
        served.stop()

    metrics = (tmp_path / "spans.metrics.jsonl").read_text(encoding="utf-8")
    assert "resourceMetrics" in json.loads(metrics.splitlines()[0])
