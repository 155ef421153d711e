"""The programs under examples/: each is run, called, failed and stopped."""

import asyncio
import subprocess
import sys
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import openai
import pytest
from aiohttp import web
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.collectors import HttpCollector
from tests.programs import (
    ROOT,
    attribute,
    environ,
    exchanges,
    outcomes,
    resources,
    root,
    serving,
    value_of,
)
from tests.relayed import (
    EVENT,
    Script,
    Upstream,
    answers,
    begin_stream,
    listening,
    refuses,
    streams,
)

CANARY = "sk-canary-e8a305"
PROGRAMS = sorted((ROOT / "examples").rglob("*.py"))
TABLE = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")


@dataclass(frozen=True)
class App:
    """An example that serves agents by itself.

    Args:
        name: Its file.
        base: The path of a rollout's base URL.
        route: What its exchanges are named after.
        phase: Where it sees the upstream fail.
    """

    name: str
    base: str
    route: str = "/rollout/{rollout_id}/v1/chat/completions"
    phase: str = "upstream_call"


APPS = [
    App("futures_and_queue", "/rollout/{}/v1", phase="response_future"),
    App("calls_with_aiohttp", "/rollout/{}/v1"),
    App("calls_with_httpx", "/rollout/{}/v1"),
    App("beside_contrib", "/rollout/{}/v1"),
    App("path_prefix", "/{}/v1", "/{path}"),
    App("sub_app", "/proxy/{}/v1", "/proxy/{rollout_id}/v1/chat/completions"),
]


@pytest.fixture
def collector() -> Iterator[HttpCollector]:
    """Receive what the programs export."""
    with HttpCollector() as collector:
        yield collector


@asynccontextmanager
async def upstream(script: Script = answers) -> AsyncIterator[Upstream]:
    """Serve a model API whose script can be changed."""
    served = Upstream(script)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", served.handle)
    async with listening(web.AppRunner(app, shutdown_timeout=0.1)) as served.url:
        yield served


async def breaks_off(request: web.Request) -> web.StreamResponse:
    """Begin a stream, and drop the connection."""
    response = await begin_stream(request)
    await response.write(EVENT)
    assert request.transport is not None
    request.transport.close()
    return response


REFUSES = refuses(500, {"error": {"message": f"no GPU for {CANARY}"}})


def agent(base_url: str, api_key: str = CANARY) -> openai.AsyncOpenAI:
    """Make an agent's SDK client, which tries once."""
    return openai.AsyncOpenAI(base_url=base_url, api_key=api_key, max_retries=0)


async def ask(client: openai.AsyncOpenAI) -> str | None:
    """Ask for one answer, with a secret in the prompt."""
    answer = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": CANARY}]
    )
    return answer.choices[0].message.content


async def drain(client: openai.AsyncOpenAI) -> int:
    """Ask for a stream, and count its chunks."""
    stream = await client.chat.completions.create(
        model="m", messages=[{"role": "user", "content": CANARY}], stream=True
    )
    return len([chunk async for chunk in stream])


def server_spans(collector: HttpCollector) -> list[str]:
    """Name the SERVER spans that are of no rollout."""
    return [
        span.name
        for span in collector.spans()
        if span.kind == Span.SPAN_KIND_SERVER
        and attribute(span, "intercept.rollout.id") is None
    ]


@pytest.mark.parametrize("app", APPS, ids=lambda app: app.name)
async def test_an_app_has_a_trace_per_rollout_and_tells_failures(
    app: App, collector: HttpCollector
) -> None:
    """Good and failed calls are told apart in one trace each; SIGTERM exports all."""
    async with upstream() as model:
        variables = environ(collector, UPSTREAM_URL=model.url)
        with serving([f"examples/{app.name}.py"], variables) as program:
            async with agent(program.url + app.base.format("good")) as client:
                said = [await ask(client), await ask(client)]
            model.script = REFUSES
            async with agent(program.url + app.base.format("bad")) as client:
                with pytest.raises(openai.InternalServerError) as raised:
                    await ask(client)
            out = await asyncio.to_thread(program.stop)

    assert said == ["hi", "hi"]
    assert outcomes(collector, "good") == ["ok", "ok"]
    assert outcomes(collector, "bad") == ["upstream_failed"]
    (failed,) = exchanges(collector, "bad")
    assert failed.name == f"POST {app.route}"
    assert attribute(failed, "error.type") == "upstream_server_error"
    (event,) = failed.events
    assert value_of(event.attributes, "intercept.failure.phase") == app.phase
    for rollout_id in ("good", "bad"):
        whole = root(collector, rollout_id)
        assert attribute(whole, "intercept.rollout.outcome") == "aborted"
        assert {span.trace_id for span in exchanges(collector, rollout_id)} == {
            whole.trace_id
        }
    assert root(collector, "good").trace_id != root(collector, "bad").trace_id
    assert CANARY not in out + str(raised.value)
    assert CANARY.encode() not in collector.raw()


async def test_a_relayed_stream_that_breaks_off_is_cut(
    collector: HttpCollector,
) -> None:
    """A whole stream is ok; of a broken one the agent learns, and so do we."""
    async with upstream(streams) as model:
        variables = environ(collector, UPSTREAM_URL=model.url)
        with serving(["examples/calls_with_aiohttp.py"], variables) as program:
            async with agent(f"{program.url}/rollout/good/v1") as client:
                chunks = await drain(client)
            model.script = breaks_off
            async with agent(f"{program.url}/rollout/bad/v1") as client:
                with pytest.raises((openai.APIError, OSError)):
                    await drain(client)
            out = await asyncio.to_thread(program.stop)

    assert chunks == 3
    assert outcomes(collector, "good") == ["ok"]
    assert outcomes(collector, "bad") == ["cut"]
    assert CANARY not in out
    assert CANARY.encode() not in collector.raw()


async def test_beside_contrib_each_route_has_one_server_span(
    collector: HttpCollector,
) -> None:
    """Contrib's span of another route stays; a rollout's route has ours alone."""
    async with upstream() as model, aiohttp.ClientSession() as session:
        variables = environ(collector, UPSTREAM_URL=model.url)
        with serving(["examples/beside_contrib.py"], variables) as program:
            async with session.get(f"{program.url}/health") as answer:
                assert answer.status == 200
            async with agent(f"{program.url}/rollout/r1/v1") as client:
                await ask(client)
            await asyncio.to_thread(program.stop)

    assert server_spans(collector) == ["GET /health"]
    assert outcomes(collector, "r1") == ["ok"]


@pytest.mark.parametrize("name", ["path_prefix", "sub_app"])
async def test_other_routes_open_no_rollout(
    collector: HttpCollector, name: str
) -> None:
    """What is no rollout's is served as it was, and makes no span."""
    async with upstream() as model, aiohttp.ClientSession() as session:
        variables = environ(collector, UPSTREAM_URL=model.url)
        method = "POST" if name == "path_prefix" else "GET"
        with serving([f"examples/{name}.py"], variables) as program:
            async with session.request(method, f"{program.url}/health") as answer:
                body = await answer.json()
            await asyncio.to_thread(program.stop)

    assert body == {"status": "ok"}
    assert collector.spans() == []
    assert collector.count("metrics") > 0


async def test_a_bearer_token_names_its_rollout_and_stays_inside(
    collector: HttpCollector,
) -> None:
    """Each key reaches its own rollout; an unknown key is a 401 and makes no span."""
    async with upstream() as model, aiohttp.ClientSession() as session:
        variables = environ(collector, UPSTREAM_URL=model.url)
        with serving(["examples/bearer_token.py"], variables) as program:
            keys = {}
            for name in ("good", "bad"):
                async with session.put(f"{program.url}/rollouts/{name}") as answer:
                    keys[name] = (await answer.json())["api_key"]
            base = f"{program.url}/v1"
            async with agent(base, keys["good"]) as client:
                await ask(client)
            async with agent(base) as client:
                with pytest.raises(openai.AuthenticationError):
                    await ask(client)
            model.script = REFUSES
            async with agent(base, keys["bad"]) as client:
                with pytest.raises(openai.InternalServerError):
                    await ask(client)
            ended = {}
            for name in ("good", "bad"):
                async with session.delete(f"{program.url}/rollouts/{name}") as answer:
                    ended[name] = (await answer.json())["outcome"]
            out = await asyncio.to_thread(program.stop)

    assert ended == {"good": "completed", "bad": "failed"}
    assert outcomes(collector, "good") == ["ok"]
    assert outcomes(collector, "bad") == ["upstream_failed"]
    for secret in (CANARY, *keys.values()):
        assert secret not in out
        assert secret.encode() not in collector.raw()


async def test_gunicorn_workers_export_on_their_own(collector: HttpCollector) -> None:
    """Each worker has its own instance id, and SIGTERM makes all of them export."""
    command = ["-m", "gunicorn", "-k", "aiohttp.GunicornWebWorker", "-w", "2"]
    sent = 0
    async with upstream() as model:
        variables = environ(
            collector, UPSTREAM_URL=model.url, OTEL_BSP_SCHEDULE_DELAY="50"
        )
        with serving(
            [*command, "-b", "127.0.0.1:0", "examples.gunicorn_app:make_app"],
            variables,
        ) as program:
            while len(instances(collector)) < 2 and sent < 3000:
                async with agent(f"{program.url}/rollout/r{sent}/v1") as client:
                    await ask(client)
                sent += 1
                await asyncio.sleep(0.02)
            model.script = REFUSES
            async with agent(f"{program.url}/rollout/bad/v1") as client:
                with pytest.raises(openai.InternalServerError):
                    await ask(client)
            out = await asyncio.to_thread(program.stop)

    names = [f"r{number}" for number in range(sent)]
    assert len(instances(collector)) == 2
    assert [outcomes(collector, name) for name in names] == [["ok"]] * sent
    assert outcomes(collector, "bad") == ["upstream_failed"]
    traces = {root(collector, name).trace_id for name in [*names, "bad"]}
    assert len(traces) == sent + 1
    assert CANARY not in out
    assert CANARY.encode() not in collector.raw()


def instances(collector: HttpCollector) -> set[object]:
    """Give the instance ids of those who sent spans."""
    spans = [got for got in collector.received if got.signal == "traces"]
    return {
        value_of(one.attributes, "service.instance.id")
        for one in resources(HttpCollector(received=spans))
    }


async def test_three_processes_make_one_trace_and_attempts_are_linked(
    collector: HttpCollector,
) -> None:
    """Trainer, proxy and tools join one trace; an attempt links to the one before."""
    calls = 0

    async def fails_once(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return await (REFUSES if calls == 1 else answers)(request)

    async with upstream(fails_once) as model:
        variables = environ(collector, UPSTREAM_URL=model.url)
        with (
            serving(["examples/one_trace/proxy.py"], variables) as proxy,
            serving(["examples/one_trace/tool_server.py"], variables) as tools,
        ):
            trainer = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "examples/one_trace/trainer.py"],
                cwd=ROOT,
                env=variables | {"PROXY_URL": proxy.url, "TOOL_URL": tools.url},
                capture_output=True,
                text=True,
                timeout=60,
            )
            out = await asyncio.to_thread(proxy.stop)
            await asyncio.to_thread(tools.stop)

    assert (trainer.stdout, trainer.stderr) == ("failed\ncompleted\n", "")
    spans = collector.spans()
    assert len({span.trace_id for span in spans}) == 1
    services = {
        value_of(one.attributes, "service.name") for one in resources(collector)
    }
    assert services == {"trainer", "proxy", "tools"}
    (train,) = (span for span in spans if span.name == "train")
    first, second = root(collector, "task-7-0"), root(collector, "task-7-1")
    assert {first.parent_span_id, second.parent_span_id} == {train.span_id}
    assert [link.span_id for link in first.links] == []
    assert [link.span_id for link in second.links] == [first.span_id]
    parents = [span.parent_span_id for span in spans if span.name == "run tool"]
    assert sorted(parents) == sorted([first.span_id, second.span_id])
    assert outcomes(collector, "task-7-0") == ["upstream_failed"]
    assert outcomes(collector, "task-7-1") == ["ok"]
    assert CANARY not in out
    assert CANARY.encode() not in collector.raw()


def test_a_trainer_that_crashes_exports_its_span_without_the_text(
    collector: HttpCollector,
) -> None:
    """The text of an exception is the one thing that the SDK would send by default."""
    done = subprocess.run(
        [sys.executable, "examples/one_trace/trainer.py"],
        cwd=ROOT,
        env=environ(collector, PROXY_URL=CANARY, TOOL_URL=CANARY),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert CANARY in done.stderr
    assert [span.name for span in collector.spans()] == ["train"]
    assert CANARY.encode() not in collector.raw()


@pytest.mark.parametrize(
    "path", PROGRAMS, ids=lambda path: str(path.relative_to(ROOT / "examples"))
)
def test_an_example_is_short_and_in_the_table(path: Path) -> None:
    """Each has fewer than 60 lines, says what it is for, and can be found."""
    source = path.read_text(encoding="utf-8")

    assert len(source.splitlines()) < 60
    assert source.startswith('"""')
    assert f"({path.relative_to(ROOT / 'examples').as_posix()})" in TABLE


def test_examples_are_checked_and_shipped() -> None:
    """They are typed, ruff leaves none out, and the sdist has them."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]

    listed = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--show-files", "examples"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()

    assert "examples" in tools["mypy"]["files"]
    assert "/examples" in tools["hatch"]["build"]["targets"]["sdist"]["include"]
    assert sorted(map(Path, listed)) == PROGRAMS


def test_the_table_names_only_what_there_is() -> None:
    """No row of the table is about a file that has gone."""
    named = {part.split(")")[0] for part in TABLE.split("](")[1:]}

    assert named == {
        path.relative_to(ROOT / "examples").as_posix() for path in PROGRAMS
    }
