"""The process that serves the user's app, run as a module by `app_process`.

It has the app to itself: its event loop, its globals, its environment. Its output goes
nowhere, since it may hold anything; what doctor has to know goes over a socket.
"""

import asyncio
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict
from typing import Final

from aiohttp import web

from otel_intercept import RolloutExistsError, RolloutRegistry
from otel_intercept.cli.doctor import messages
from otel_intercept.cli.doctor.evidence import Wiring
from otel_intercept.cli.doctor.factory import (
    Given,
    Hosted,
    Unusable,
    load,
    make,
    start,
    trouble_of,
)
from otel_intercept.cli.doctor.wiring import DEFAULT_ROUTE, Wired, see
from otel_intercept.middleware.wiring import Resolver
from otel_intercept.server import InterceptionServer
from otel_intercept.server.runner import quiet_runner

_LOOPBACK: Final = "127.0.0.1"
_SHUTDOWN_S: Final = 2.0


class _Rollouts:
    """Opens and closes rollouts where the app looks for them."""

    def __init__(
        self,
        hosted: Hosted,
        registry: RolloutRegistry | None,
        wired: RolloutRegistry | None,
    ) -> None:
        self._hosted = hosted
        self._registry = registry
        self._wired = wired

    def open(self, rollout_id: str) -> bool:
        """Open one; whether the app can see it."""
        if isinstance(self._hosted, InterceptionServer):
            self._hosted.register_rollout(rollout_id)
            return True
        if self._registry is not None:
            try:
                self._registry.open(rollout_id)
            except RolloutExistsError:
                return True
        return self.look(rollout_id) is not False

    def close(self, rollout_id: str) -> bool:
        """End one; True."""
        if isinstance(self._hosted, InterceptionServer):
            self._hosted.unregister_rollout(rollout_id)
        elif self._registry is not None:
            self._registry.close(rollout_id)
        return True

    def look(self, rollout_id: str) -> bool | None:
        """Tell whether the app's own registry has it open; None without one."""
        if self._wired is None:
            return None
        return self._wired.get(rollout_id) is not None


async def _main(fd: int) -> None:
    reader, writer = await asyncio.open_connection(
        sock=socket.socket(fileno=fd), limit=messages.MAX_LINE
    )
    _, content = await messages.receive(reader)
    try:
        async with AsyncExitStack() as stack:
            await _serve(stack, reader, writer, messages.fields_of(content))
    except Unusable as exc:
        await messages.send(writer, messages.TROUBLE, trouble_of(exc)._asdict())
    finally:
        writer.close()


async def _serve(
    stack: AsyncExitStack,
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    job: Mapping[str, object],
) -> None:
    given = Given(stack, os.environ, messages.text_in(job, "upstream") or "")
    hosted = await make(stack, load(messages.text_in(job, "target") or ""), given)
    wired = await _see(hosted, given, job)
    port = await _listen(stack, hosted)
    # An empty registry is false.
    registry = wired.registry if given.taken is None else given.taken
    rollouts = _Rollouts(hosted, registry, wired.registry)
    ready = {
        "port": port,
        "secret": hosted.secret if isinstance(hosted, InterceptionServer) else None,
        "wiring": asdict(wired.wiring),
    }
    await messages.send(writer, messages.READY, ready)
    while True:
        word, content = await messages.receive(reader)
        rollout_id = content if isinstance(content, str) else ""
        match word:
            case messages.OPEN:
                answer: bool | None = rollouts.open(rollout_id)
            case messages.CLOSE:
                answer = rollouts.close(rollout_id)
            case messages.LOOK:
                answer = rollouts.look(rollout_id)
            case _:
                return
        await messages.send(writer, messages.ANSWER, answer)


async def _see(hosted: Hosted, given: Given, job: Mapping[str, object]) -> Wired:
    if isinstance(hosted, InterceptionServer):
        # It is instrumented by itself, for the registry that it was made with.
        return Wired(Wiring(route=DEFAULT_ROUTE), None)
    return await see(
        hosted,
        route=messages.text_in(job, "route"),
        wanted=_wanted(messages.text_in(job, "rollout_id")),
        given=given.taken,
    )


def _wanted(asked: str | None) -> str | Resolver | None:
    if asked is None or ":" not in asked:
        return asked
    found = load(asked)
    return found if callable(found) else None


async def _listen(stack: AsyncExitStack, hosted: Hosted) -> int:
    if isinstance(hosted, InterceptionServer):
        await start(hosted.start())
        stack.push_async_callback(hosted.stop)
        return hosted.port
    runner = quiet_runner(hosted, shutdown_timeout_s=_SHUTDOWN_S)
    await start(runner.setup())
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, _LOOPBACK, 0).start()
    port: int = runner.addresses[0][1]
    return port


if __name__ == "__main__":
    asyncio.run(_main(int(sys.argv[1])))
