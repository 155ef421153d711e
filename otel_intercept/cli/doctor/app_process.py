"""Run the user's app in a process of its own, and talk to it."""

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Final

from otel_intercept.cli.doctor import messages
from otel_intercept.cli.doctor.evidence import Wiring
from otel_intercept.cli.doctor.factory import Trouble, Unusable
from otel_intercept.cli.output import refuse

_START_S: Final = 120.0
_STOP_S: Final = 10.0
_ANSWER_S: Final = 10.0


class AppProcess:
    """The process of the user's app, from `running`.

    Args:
        reader: What it says.
        writer: What it is told.
        ready: What it said when it was ready.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        ready: Mapping[str, object],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self.base_url: Final = f"http://127.0.0.1:{ready['port']}"
        self.secret: Final = messages.text_in(ready, "secret")
        self.wiring: Final = _wiring(messages.fields_of(ready["wiring"]))

    async def open(self, rollout_id: str) -> bool | None:
        """Have a rollout opened; whether the app's own registry has it then."""
        return await self._ask(messages.OPEN, rollout_id)

    async def close(self, rollout_id: str) -> None:
        """Have a rollout closed."""
        await self._ask(messages.CLOSE, rollout_id)

    async def look(self, rollout_id: str) -> bool | None:
        """Ask whether the app's own registry has a rollout open."""
        return await self._ask(messages.LOOK, rollout_id)

    async def _ask(self, word: str, rollout_id: str) -> bool | None:
        try:
            async with asyncio.timeout(_ANSWER_S):
                await messages.send(self._writer, word, rollout_id)
                got, answer = await messages.receive(self._reader)
        except (TimeoutError, ConnectionError):
            got, answer = messages.STOP, None
        if got != messages.ANSWER:
            refuse("the app's process ended, or its event loop is blocked")
        return answer if isinstance(answer, bool) else None


@contextlib.asynccontextmanager
async def running(
    job: Mapping[str, object], environ: Mapping[str, str]
) -> AsyncIterator[AppProcess]:
    """Start the process for the length of a block; ends it in good order.

    Args:
        job: ``target``, ``route``, ``rollout_id`` and ``upstream``.
        environ: Its environment.

    Raises:
        Unusable: The user's code cannot be served.
        Refused: The process ended before it could say why.
    """
    ours, theirs = socket.socketpair()
    with theirs:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "otel_intercept.cli.doctor.child",
            str(theirs.fileno()),
            pass_fds=(theirs.fileno(),),
            env=environ,
            stdin=asyncio.subprocess.DEVNULL,
            # It may hold anything, so nobody gets to see it.
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
    reader, writer = await asyncio.open_connection(sock=ours, limit=messages.MAX_LINE)
    try:
        yield AppProcess(reader, writer, await _ready(reader, writer, job))
    finally:
        writer.close()
        await _end(process)


async def _ready(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    job: Mapping[str, object],
) -> Mapping[str, object]:
    try:
        async with asyncio.timeout(_START_S):
            await messages.send(writer, messages.JOB, job)
            word, content = await messages.receive(reader)
    except (TimeoutError, ConnectionError):
        word, content = messages.STOP, None
    fields = messages.fields_of(content)
    if word == messages.TROUBLE:
        texts = {name: messages.text_in(fields, name) or "" for name in Trouble._fields}
        raise Unusable(Trouble(**texts))
    if word != messages.READY:
        refuse("the app's process ended, or took too long, before it could be served")
    return fields


async def _end(process: asyncio.subprocess.Process) -> None:
    # Without its socket it shuts down by itself, and flushes what it has.
    for stop in (None, process.terminate, process.kill):
        if stop is not None:
            with contextlib.suppress(ProcessLookupError):
                stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_STOP_S):
                await process.wait()
                return


def _wiring(fields: Mapping[str, object]) -> Wiring:
    names = fields.get("placeholders")
    return Wiring(
        route=messages.text_in(fields, "route") or "",
        route_found=fields.get("route_found") is True,
        instrumented=fields.get("instrumented") is True,
        key=messages.text_in(fields, "key"),
        placeholders=tuple(map(str, names)) if isinstance(names, list) else (),
        wanted=fields.get("wanted") is True,
        same_registry=fields.get("same_registry") is True,
        foreign_outside=fields.get("foreign_outside") is True,
        telemetry_enabled=fields.get("telemetry_enabled") is True,
    )
