"""Doctor's agent: one request for each probe, and what came back."""

import asyncio
import contextlib
import secrets
from collections.abc import Mapping
from typing import Final, NamedTuple

import aiohttp

from otel_intercept.cli.demo.cues import Cues
from otel_intercept.cli.demo.faults import FAULT_MODEL
from otel_intercept.cli.doctor.options import ID
from otel_intercept.cli.doctor.plan import Probe
from otel_intercept.dialect import dialect_of
from otel_intercept.semconv import Dialect

_NOTICED_S: Final = 0.4
_SETTLED_S: Final = 0.4
_MAX_TOKENS: Final = 16


class Agent(NamedTuple):
    """What all requests share.

    Args:
        session: The HTTP client.
        url: The URL of the route, with ``{rollout_id}``.
        headers: Further headers; values may hold ``{rollout_id}``.
        prompt: What it asks; holds a planted secret.
        planted: The secret of the upstream's error texts.
        timeout_s: Seconds that a request may take.
    """

    session: aiohttp.ClientSession
    url: str
    headers: Mapping[str, str]
    prompt: str
    planted: bytes
    timeout_s: float


class Answer(NamedTuple):
    """What came back.

    Args:
        trace_id: The trace of the ``traceparent`` that was sent.
        span_id: The span of it.
        status: The HTTP status, or None without an answer.
        leaked: Whether the planted secret of the upstream came with it.
    """

    trace_id: str
    span_id: str
    status: int | None
    leaked: bool


async def ask(
    agent: Agent, probe: Probe, rollout_id: str, cues: Cues | None = None
) -> Answer:
    """Make one request, and read all of its answer. Never raises for a bad one.

    Args:
        agent: What all requests share.
        probe: What to ask for.
        rollout_id: For which rollout.
        cues: The agent leaves when the upstream has its call, instead of reading the
            answer, and says so there. An app that answers before does not see it leave.
    """
    trace_id, span_id = secrets.token_hex(16), secrets.token_hex(8)
    headers = {
        name: value.replace(ID, rollout_id) for name, value in agent.headers.items()
    }
    headers["traceparent"] = f"00-{trace_id}-{span_id}-01"
    asking = asyncio.create_task(_post(agent, probe, rollout_id, headers))
    if cues is not None and await _left(asking, cues):
        return Answer(trace_id, span_id, None, leaked=False)
    status, leaked = await asking
    return Answer(trace_id, span_id, status, leaked)


async def _left(asking: "asyncio.Task[tuple[int | None, bool]]", cues: Cues) -> bool:
    """Leave when the call is upstream; False if there is an answer before."""
    arriving = asyncio.create_task(cues.arrived.wait())
    await asyncio.wait({asking, arriving}, return_when=asyncio.FIRST_COMPLETED)
    arriving.cancel()
    leaves = not asking.done()
    if leaves:
        # Cancelling closes the socket, as killing the agent's process would.
        asking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asking
        await asyncio.sleep(_NOTICED_S)
    # Now it is answered, and an app that has not noticed will show it.
    cues.left.set()
    if leaves:
        await asyncio.sleep(_SETTLED_S)
    return leaves


async def _post(
    agent: Agent, probe: Probe, rollout_id: str, headers: Mapping[str, str]
) -> tuple[int | None, bool]:
    url = agent.url.replace(ID, rollout_id)
    body = _body(dialect_of(agent.url), probe, agent.prompt)
    status: int | None = None
    got = b""
    with contextlib.suppress(aiohttp.ClientError, OSError):
        async with (
            asyncio.timeout(agent.timeout_s),
            agent.session.post(url, json=body, headers=headers) as response,
        ):
            status = response.status
            async for data in response.content.iter_any():
                got += data
    return status, agent.planted in got


def _body(dialect: Dialect, probe: Probe, prompt: str) -> dict[str, object]:
    model = f"{FAULT_MODEL}{probe.fault.value}"
    body: dict[str, object] = {"model": model, "stream": probe.stream}
    match dialect:
        case Dialect.COMPLETIONS:
            return body | {"prompt": prompt, "max_tokens": _MAX_TOKENS}
        case Dialect.RESPONSES:
            return body | {"input": prompt, "max_output_tokens": _MAX_TOKENS}
        case _:
            messages = [{"role": "user", "content": prompt}]
            return body | {"messages": messages, "max_tokens": _MAX_TOKENS}
