"""Verifiers' own rollout loop; the sandbox is an agent in this process."""

import asyncio
import importlib
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Protocol

import openai
from aiohttp import web

from tests.hosts.legacy_stage import SECRET, load

MODEL = "model-1"
_TURNS = 3
TASK = {
    "prompt": [{"role": "user", "content": "go"}],
    "example_id": 0,
    "answer": "",
}


@dataclass(slots=True)
class Upstream:
    """A model provider that answers its calls as it is told to, the last one for ever.

    Args:
        answers: Names of answers.
    """

    answers: tuple[str, ...]
    calls: int = 0

    def app(self) -> web.Application:
        """Return it as an app."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        return app

    async def _answer(self, _request: web.Request) -> web.StreamResponse:
        answer = self.answers[min(self.calls, len(self.answers) - 1)]
        self.calls += 1
        if answer == "hangs":
            await asyncio.sleep(30)
        if answer == "too_long":
            text = f"This model's maximum context length is 8 tokens. {SECRET}"
            error = {"message": text, "code": "context_length_exceeded"}
            return web.json_response({"error": error}, status=400)
        if answer.isdigit():
            error = {"message": SECRET}
            return web.json_response({"error": error}, status=int(answer))
        content = None if answer == "empty" else "hello"
        message = {"role": "assistant", "content": content}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
        head = {"id": "c1", "object": "chat.completion", "created": 7, "model": MODEL}
        return web.json_response({**head, "choices": [choice], "usage": usage})


@dataclass(slots=True)
class Loop:
    """One environment of theirs, whose agent asks three times at most.

    Args:
        upstream_url: Where its client finds the model.
        stream: Whether the agent asks for streams.
        goes_on: Whether the agent asks again after an error.
        timeout_s: The rollout's, or None.
        heard: What the agent got: the words it could read, or the error's class.
    """

    upstream_url: str
    stream: bool = False
    goes_on: bool = False
    timeout_s: float | None = None
    heard: list[str] = field(default_factory=list)

    async def run(self, *, max_retries: int = 0) -> "Output":
        """Run one rollout, and return what verifiers makes of it."""
        env = self.environment()
        clients = load("clients.openai_chat_completions_client")
        async with openai.AsyncOpenAI(
            base_url=f"{self.upstream_url}/v1", api_key="k", max_retries=0
        ) as sdk:
            try:
                output: Output = await env.run_rollout(
                    TASK,
                    clients.OpenAIChatCompletionsClient(sdk),
                    MODEL,
                    {},
                    max_retries=max_retries,
                    state_columns=["timed_out"],
                )
            finally:
                await env.sandbox_client.wait()
                await env._teardown()  # noqa: SLF001 - theirs
        return output

    def environment(self) -> "Environment":
        """Make an environment whose sandboxes are tasks of this process."""
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        env: Environment = load("envs.experimental.cli_agent_env").CliAgentEnv(
            run_command="agent",
            dataset=importlib.import_module("datasets").Dataset.from_list([TASK]),
            rubric=load("rubrics.rubric").Rubric(funcs=[_reward]),
            poll_interval=0.05,
            timeout_seconds=self.timeout_s,
            interception_port=port,
            interception_url=f"http://127.0.0.1:{port}",
        )
        env.sandbox_client = InProcess(self.ask)
        return env

    async def ask(self, url: str, secret: str) -> None:
        """Be the agent."""
        async with openai.AsyncOpenAI(
            base_url=url, api_key=secret, max_retries=0
        ) as sdk:
            for _ in range(_TURNS if self.goes_on else 1):
                try:
                    self.heard.append(await self._turn(sdk))
                except openai.APIError as problem:
                    self.heard.append(f"{type(problem).__name__}: {problem}")
                    if not self.goes_on:
                        return
                # Time for the loop to clean up after what failed.
                await asyncio.sleep(0.1)

    async def _turn(self, sdk: openai.AsyncOpenAI) -> str:
        if not self.stream:
            whole = await sdk.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "go"}]
            )
            return whole.choices[0].message.content or ""
        chunks = await sdk.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "go"}], stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in chunks])


async def _reward(**_given: object) -> float:
    return 1.0


@dataclass(slots=True)
class InProcess:
    """A sandbox client whose sandboxes are tasks of this process.

    Args:
        agent: What runs in each; takes the URL and the credential of its model.
    """

    agent: Callable[[str, str], Awaitable[None]]
    _requests: dict[str, "SandboxRequest"] = field(default_factory=dict)
    _jobs: list["asyncio.Task[None]"] = field(default_factory=list)

    async def create(self, request: "SandboxRequest") -> SimpleNamespace:
        """Make a sandbox."""
        name = f"sandbox-{len(self._requests)}"
        self._requests[name] = request
        return SimpleNamespace(id=name)

    async def wait_for_creation(self, name: str, max_attempts: int) -> None:
        """Have it ready at once."""

    async def start_background_job(self, name: str, _command: str) -> int:
        """Start the agent; jobs are counted from 1, since theirs are truthy."""
        given = self._requests[name].environment_vars

        async def run() -> None:
            await self.agent(given["OPENAI_BASE_URL"], given["OPENAI_API_KEY"])

        self._jobs.append(asyncio.create_task(run()))
        return len(self._jobs)

    async def get_background_job(
        self,
        _name: str,
        job: int,
        timeout: float,  # noqa: ASYNC109 - theirs
    ) -> SimpleNamespace:
        """Tell whether the agent is through; it always exits with 0."""
        return SimpleNamespace(
            completed=self._jobs[job - 1].done(), exit_code=0, stdout="", stderr=""
        )

    async def delete(self, name: str) -> None:
        """Leave the agent running: it is to see that it is no longer served."""

    def teardown(self, **_given: object) -> None:
        """Have nothing to tear down when the process exits."""

    async def wait(self) -> None:
        """Wait for all agents, and raise what they raised."""
        await asyncio.wait_for(asyncio.gather(*self._jobs), 10)


class Environment(Protocol):
    """What of their environment is used here."""

    sandbox_client: InProcess
    run_rollout: Callable[..., Awaitable["Output"]]
    _teardown: Callable[[], Awaitable[None]]


class SandboxRequest(Protocol):
    """What of their request is used here."""

    environment_vars: dict[str, str]


Output = Mapping[str, object]
