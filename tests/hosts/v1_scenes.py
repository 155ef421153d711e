"""What agents do at verifiers' v1 server, apart from asking once."""

import asyncio
from typing import Final

from tests.hosts.v1_stage import RETRY, Scene, Stage, load
from tests.hosts.v1_upstream import SECRET


async def ask(at: Stage) -> None:
    """Ask once."""
    await at.ask()


async def ask_for_a_stream(at: Stage) -> None:
    """Ask once for a stream."""
    await at.ask(stream=True)


async def ask_again(at: Stage) -> None:
    """Ask, and repeat that as a retry."""
    await at.ask()
    await at.ask(headers=RETRY)


async def ask_for_a_stream_again(at: Stage) -> None:
    """Ask for a stream, and repeat that as a retry."""
    await at.ask(stream=True)
    await at.ask(stream=True, headers=RETRY)


async def coalesce(at: Stage) -> None:
    """Ask, and ask again before the answer is there."""
    await _coalesce(at, stream=False)


async def coalesce_streams(at: Stage) -> None:
    """Do the same with streams."""
    await _coalesce(at, stream=True)


async def _coalesce(at: Stage, *, stream: bool) -> None:
    first = asyncio.create_task(at.ask(stream=stream))
    await at.upstream.reached.wait()
    again = asyncio.create_task(at.ask(stream=stream, headers=RETRY))
    await asyncio.sleep(0.2)
    at.upstream.go.set()
    await asyncio.gather(first, again)


async def ask_patiently(at: Stage) -> None:
    """Ask for a stream that takes longer than the grace period."""
    asked = asyncio.create_task(at.ask(stream=True))
    await asyncio.sleep(0.2)
    at.upstream.go.set()
    await asked


async def ask_beyond_a_limit(at: Stage) -> None:
    """Ask three times where one turn is allowed."""
    at.session.limits = load("session").RolloutLimits(max_turns=1)
    await at.ask()
    await at.ask(text="more")
    await at.ask(text="still more")


async def stop_meanwhile(at: Stage) -> None:
    """Have the trace stop while a call runs."""
    asked = asyncio.create_task(at.ask())
    await at.upstream.reached.wait()
    at.session.trace.stop("enough")
    at.upstream.go.set()
    await asked


async def end_meanwhile(at: Stage) -> None:
    """Have the rollout end while a call runs."""
    asked = asyncio.create_task(at.ask())
    await at.upstream.reached.wait()
    at.unregister()
    await asked


async def end_a_stream_meanwhile(at: Stage) -> None:
    """Have the rollout end while a stream runs."""
    asked = asyncio.create_task(at.ask(stream=True))
    await at.upstream.reached.wait()
    at.unregister()
    await asked


async def leave(at: Stage) -> None:
    """Ask, and leave before the answer is there."""
    asked = asyncio.create_task(at.ask())
    await at.upstream.reached.wait()
    asked.cancel()
    await asyncio.sleep(0.1)
    at.upstream.go.set()
    await asyncio.sleep(0.3)


async def leave_a_stream(at: Stage) -> None:
    """Leave once there have been keepalives."""
    asked = asyncio.create_task(at.ask(stream=True))
    await at.upstream.reached.wait()
    await asyncio.sleep(0.2)
    asked.cancel()
    await asyncio.sleep(0.3)
    at.upstream.go.set()
    await asyncio.sleep(0.3)


async def be_impatient(at: Stage) -> None:
    """Let verifiers' own client give up on the upstream."""
    at.session.client.client.timeout = 0.2
    await at.ask()


async def fail_in_a_hook(at: Stage) -> None:
    """Let the task's own code raise."""

    def intercept(request: object) -> None:
        raise ValueError(SECRET)

    intercept.__annotations__["request"] = load("types").Request
    at.session.request_interceptors.append(intercept)
    await at.ask()


async def fail_in_a_hook_of_the_answer(at: Stage) -> None:
    """Let the task's own code raise over a good answer, whole and streamed."""

    def intercept(response: object) -> None:
        raise ValueError(SECRET)

    intercept.__annotations__["response"] = load("types").Response
    at.session.response_interceptors.append(intercept)
    await at.ask()
    await at.ask(stream=True)


async def be_unknown(at: Stage) -> None:
    """Ask with a secret that nobody gave out."""
    at.agent.api_key = SECRET
    await at.ask()


async def send_no_json(at: Stage) -> None:
    """Send a body that cannot be parsed."""
    await at.post("/v1/chat/completions", b"{", at.secrets[0])


async def count_tokens(at: Stage) -> None:
    """Ask a side question, as Anthropic's agents do."""
    body = b'{"model": "m", "messages": []}'
    await at.post("/v1/messages/count_tokens", body, at.secrets[0])


EVERYWHERE: Final[tuple[tuple[Scene, tuple[str, ...]], ...]] = (
    (ask_again, ("good",)),
    (ask_again, ("500",)),
    (ask_for_a_stream_again, ("good",)),
    (coalesce, ("slow-good",)),
    (coalesce, ("slow-500",)),
    (coalesce_streams, ("slow-good",)),
    (coalesce_streams, ("slow-503",)),
    (ask_beyond_a_limit, ("good",)),
    (stop_meanwhile, ("slow-good",)),
    (stop_meanwhile, ("slow-500",)),
    (end_meanwhile, ("slow-good",)),
    (end_a_stream_meanwhile, ("slow-good",)),
    (leave, ("slow-good",)),
    (leave, ("slow-500",)),
    (be_impatient, ("hang",)),
    (fail_in_a_hook, ("good",)),
    (fail_in_a_hook_of_the_answer, ("good",)),
    (ask, ("overlong",)),
    (ask_for_a_stream, ("overlong",)),
    (be_unknown, ("good",)),
    (send_no_json, ("good",)),
    (count_tokens, ("good",)),
    (count_tokens, ("500",)),
)
"""Scenes with a script of the upstream, for every release."""
