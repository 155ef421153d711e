"""Agents: programs that know only a base URL and a key, and use the real SDKs.

An agent is what runs in a sandbox: it asks, calls its tool, asks again, and exits. What
it notices of a failure is what its SDK raises, which is often nothing.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

import anthropic
import openai

from otel_intercept.cli.demo.cues import Cues
from otel_intercept.cli.demo.dialogues import (
    ChatDialogue,
    CompletionsDialogue,
    Dialogue,
    MessagesDialogue,
    ResponsesDialogue,
)
from otel_intercept.cli.demo.faults import Fault
from otel_intercept.cli.demo.scenario import Scenario, Turn
from otel_intercept.cli.demo.tasks import cancel
from otel_intercept.semconv import Dialect


class AgentExit(NamedTuple):
    """How an agent's program ended.

    Args:
        noticed: Whether its SDK raised, so that it exited with 1 instead of 0.
        empty: Whether its last answer had no text and no tool call.
    """

    noticed: bool
    empty: bool


class Clients(NamedTuple):
    """The SDK clients that all agents of the demo share, with their connections."""

    openai: openai.AsyncOpenAI
    anthropic: anthropic.AsyncAnthropic


@contextlib.asynccontextmanager
async def sdk_clients() -> AsyncIterator[Clients]:
    """Make the clients, without proxies of the environment, and close them."""
    async with (
        openai.DefaultAsyncHttpxClient(trust_env=False) as openai_http,
        anthropic.DefaultAsyncHttpxClient(trust_env=False) as anthropic_http,
    ):
        yield Clients(
            openai.AsyncOpenAI(api_key="unset", max_retries=0, http_client=openai_http),
            anthropic.AsyncAnthropic(
                api_key="unset", max_retries=0, http_client=anthropic_http
            ),
        )


async def run_agent(
    clients: Clients, base_url: str, api_key: str, scenario: Scenario, cues: Cues
) -> AgentExit:
    """Run one agent to its end.

    Args:
        clients: The shared SDK clients.
        base_url: The rollout's URL at its host, without ``/v1``.
        api_key: The host's key.
        scenario: What it is going to ask.
        cues: When it may leave, if it has to.

    Returns:
        How it ended. Any error ends it, as an uncaught exception ends a program.
    """
    dialogue = _dialogue(clients, base_url, api_key, scenario)
    filled = True
    try:
        for turn in scenario.turns:
            if turn.fault is Fault.AGENT_LEAVES:
                await _leave(dialogue, turn, cues)
            elif turn.fault is Fault.AGENT_KEY:
                stranger = _dialogue(clients, base_url, "not-the-key", scenario)
                await stranger.ask(turn)
            elif not turn.retry:
                filled = await dialogue.ask(turn)
    except Exception:  # noqa: BLE001 - the SDKs let errors of their HTTP client through
        return AgentExit(noticed=True, empty=False)
    finally:
        cues.left.set()
    return AgentExit(noticed=False, empty=not filled)


def _dialogue(
    clients: Clients, base_url: str, api_key: str, scenario: Scenario
) -> Dialogue:
    retries = sum(turn.retry for turn in scenario.turns)
    if scenario.dialect is Dialect.MESSAGES:
        return MessagesDialogue(
            clients.anthropic.with_options(
                base_url=base_url, api_key=api_key, max_retries=retries
            )
        )
    client = clients.openai.with_options(
        base_url=f"{base_url}/v1", api_key=api_key, max_retries=retries
    )
    match scenario.dialect:
        case Dialect.RESPONSES:
            return ResponsesDialogue(client)
        case Dialect.COMPLETIONS:
            return CompletionsDialogue(client)
        case _:
            return ChatDialogue(client)


async def _leave(dialogue: Dialogue, turn: Turn, cues: Cues) -> None:
    asking = asyncio.create_task(dialogue.ask(turn))
    await cues.arrived.wait()
    # Cancelling closes the socket, as killing the agent's process would.
    await cancel(asking)
