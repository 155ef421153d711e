"""Make all probes against one app, and collect the evidence."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Final, NamedTuple

import aiohttp

from otel_intercept.cli.demo.cues import Cues
from otel_intercept.cli.demo.faults import Fault
from otel_intercept.cli.demo.upstream import ScriptedUpstream, serving
from otel_intercept.cli.doctor.driving import Agent, ask
from otel_intercept.cli.doctor.evidence import Evidence, Injected
from otel_intercept.cli.doctor.hosting import Host, hosting
from otel_intercept.cli.doctor.lateness import Lateness
from otel_intercept.cli.doctor.options import DoctorOptions
from otel_intercept.cli.doctor.plan import PROBES, Probe
from otel_intercept.cli.doctor.receiver import FileSight, Receiver, Sight, receiving
from otel_intercept.cli.output import refuse, sentence_of

_PACE_S: Final = 0.005
_HANG_S: Final = 2.0
_APP_WAIT_S: Final = 2.0
_SERVER_WAIT_S: Final = 12.0
_TRIES: Final = 5
_LATE_S: Final = 0.25


class _Upstream(NamedTuple):
    """The scripted upstream, and how to take it away."""

    script: ScriptedUpstream
    url: str
    stack: AsyncExitStack


async def examine(options: DoctorOptions, environ: Mapping[str, str]) -> Evidence:
    """Probe a factory's app in a process of its own, or a server that runs.

    Raises:
        Unusable: The user's code cannot be served.
        Refused: Doctor cannot do its work.
    """
    planted, prompt = _new_secret(), _new_secret()
    secrets_ = (planted.encode(), prompt.encode())
    script = ScriptedUpstream(secret=planted, pace_s=_PACE_S, hang_s=_HANG_S)
    async with AsyncExitStack() as stack:
        upstream = await _serve(stack, script, options)
        sight, endpoint = await _watch(stack, options, secrets_)
        async with AsyncExitStack() as running_app:
            host = await running_app.enter_async_context(
                hosting(
                    options,
                    environ,
                    upstream_url=upstream.url,
                    endpoint=endpoint,
                    key=planted,
                )
            )
            agent = await running_app.enter_async_context(
                _agent(host, options, planted, prompt)
            )
            injected = [
                await _in_time(partial(_inject, probe, host, agent, upstream, options))
                for probe in _worth_making(host)
            ]
            links = {item.span_id for item in injected}
            wait_s = _SERVER_WAIT_S if options.is_server else _APP_WAIT_S
            await sight.wait_for(links, wait_s)
        return Evidence(
            injected=injected,
            spans=sight.spans(),
            route=host.route,
            rejected=sight.rejected,
            planted_seen=sight.planted_seen(),
            passes_texts=options.allow_error_texts,
            wiring=host.wiring,
        )


def _worth_making(host: Host) -> Sequence[Probe]:
    # Where nothing can be seen, failures show nothing more than a good call.
    blind = host.wiring is not None and not host.wiring.sound
    return PROBES[:1] if blind else PROBES


async def _serve(
    stack: AsyncExitStack, script: ScriptedUpstream, options: DoctorOptions
) -> _Upstream:
    own = await stack.enter_async_context(AsyncExitStack())
    port = options.upstream_port if options.is_server else 0
    try:
        url = await own.enter_async_context(serving(script.app(), port=port))
    except OSError as exc:
        refuse(
            f"cannot listen on port {port} as upstream: {sentence_of(exc)}; pass "
            "--upstream-port"
        )
    return _Upstream(script, url, own)


async def _watch(
    stack: AsyncExitStack, options: DoctorOptions, planted: tuple[bytes, ...]
) -> tuple[Sight, str]:
    if options.is_server and options.file is not None:
        if not options.file.is_file():
            refuse("--file names no file: start the server with OTEL_INTERCEPT_FILE")
        return FileSight(options.file, time.time_ns(), planted), ""
    receiver = Receiver(planted)
    port = options.listen if options.is_server else 0
    try:
        endpoint = await stack.enter_async_context(receiving(receiver, port=port))
    except OSError as exc:
        refuse(
            f"cannot listen on port {port} for telemetry: {sentence_of(exc)}; pass "
            "--listen"
        )
    return receiver, endpoint


@contextlib.asynccontextmanager
async def _agent(
    host: Host, options: DoctorOptions, planted: str, prompt: str
) -> AsyncIterator[Agent]:
    # A connection for each request, as one agent is one process.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector) as session:
        yield Agent(
            session=session,
            url=f"{host.base_url}{host.route}",
            headers=host.headers,
            prompt=prompt,
            planted=planted.encode(),
            timeout_s=options.timeout_s,
        )


async def _in_time(inject: Callable[[], Awaitable[Injected]]) -> Injected:
    """Make one probe, anew if the machine stood still: deadlines tell nothing then."""
    for _ in range(_TRIES):
        async with Lateness() as lateness:
            injected = await inject()
        if lateness.worst_s < _LATE_S:
            break
    else:
        refuse(
            f"this machine is too busy: it stood still in each of {_TRIES} tries of a "
            "probe; try again when it has less to do"
        )
    return injected


async def _inject(
    probe: Probe,
    host: Host,
    agent: Agent,
    upstream: _Upstream,
    options: DoctorOptions,
) -> Injected:
    fixed = options.rollout_id if options.is_server else None
    rollout_id = fixed or f"doctor-{probe.name}-{secrets.token_hex(4)}"
    if probe.fault is Fault.REFUSED:
        await upstream.stack.aclose()
    cues = Cues() if probe.fault is Fault.AGENT_LEAVES else None
    upstream.script.playing = probe.fault
    if cues is not None:
        upstream.script.cues = cues
    before = upstream.script.calls
    in_registry = await host.rollouts.open(rollout_id)
    answer = await ask(agent, probe, rollout_id, cues)
    await host.rollouts.close(rollout_id)
    return Injected(
        probe=probe,
        rollout_id=rollout_id,
        trace_id=answer.trace_id,
        span_id=answer.span_id,
        status=answer.status,
        leaked=answer.leaked,
        called=upstream.script.calls > before,
        in_registry=in_registry,
    )


def _new_secret() -> str:
    """Return what looks like a provider's key, and is found nowhere else."""
    return f"sk-planted-{secrets.token_hex(12)}"
