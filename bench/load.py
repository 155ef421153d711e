"""Agents on keep-alive connections, as cheap as Python allows.

Each connection sends one request after the other, always the same bytes.
"""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count

from bench.scenes import ROLLOUTS, Scene

_LIMIT = 1024 * 1024


class WrongAnswerError(Exception):
    """The server did not answer as the scene says."""


@dataclass(slots=True)
class Load:
    """What was sent and how long each exchange took.

    Args:
        seconds: Wall clock of the whole load.
        latencies_s: One for each exchange, in no order.
    """

    seconds: float = 0.0
    latencies_s: list[float] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """Exchanges that ended as they should."""
        return len(self.latencies_s)


async def send(
    port: int,
    scene: Scene,
    *,
    concurrency: int,
    requests: int | None = None,
    seconds: float | None = None,
) -> Load:
    """Load a server with a number of requests, or for some seconds.

    Raises:
        WrongAnswerError: An answer was not what the scene says.
        OSError: The server went away.
    """
    load = Load()
    numbers = count()
    start = time.perf_counter()

    def goes_on() -> bool:
        if requests is not None:
            return next(numbers) < requests
        return seconds is not None and time.perf_counter() - start < seconds

    async def agent(number: int) -> None:
        request = scene.request(f"r{number % ROLLOUTS}")
        connection: _Connection | None = None
        try:
            while goes_on():
                begun = time.perf_counter()
                if connection is None:
                    connection = await _Connection.open(port)
                keeps = await connection.exchange(request, scene)
                load.latencies_s.append(time.perf_counter() - begun)
                if not keeps:
                    connection.close()
                    connection = None
        finally:
            if connection is not None:
                connection.close()

    async with asyncio.TaskGroup() as group:
        for number in range(concurrency):
            group.create_task(agent(number))
    load.seconds = time.perf_counter() - start
    return load


class _Connection:
    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, port: int) -> "_Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT))

    async def exchange(self, request: bytes, scene: Scene) -> bool:
        """Send, read the whole answer, tell whether the connection stays."""
        self._writer.write(request)
        try:
            head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
            await self._read_body(head)
        except asyncio.IncompleteReadError:
            if scene.whole:
                raise WrongAnswerError("the connection closed too early") from None
            return False
        if head[9:12] != str(scene.status).encode():
            raise WrongAnswerError(f"status {head[9:12].decode()}")
        if not scene.whole:
            raise WrongAnswerError("the answer should have been cut")
        return b"connection: close" not in head

    async def _read_body(self, head: bytes) -> None:
        if b"transfer-encoding: chunked" in head:
            await self._reader.readuntil(b"\r\n0\r\n\r\n")
            return
        _, _, rest = head.partition(b"content-length:")
        await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))

    def close(self) -> None:
        self._writer.close()
