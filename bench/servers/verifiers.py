"""The legacy server of verifiers, plain or with our instrumentor."""

import asyncio
import contextlib
from collections.abc import Iterator

from verifiers.legacy.utils.interception_utils import InterceptionServer

from bench.scenes import ROLLOUTS, SECRET
from bench.servers.app import Site, answer_call
from bench.traffic import telemetry
from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor


@contextlib.contextmanager
def serve(variant: str, sink: str) -> Iterator[Site]:
    """Give their server; ``verifiers`` alone is the plain one."""
    _, _, recorder = variant.partition("-")
    if not recorder:
        yield _Theirs()
        return
    with telemetry(recorder, sink) as made:
        VerifiersInstrumentor().instrument(telemetry=made)
        yield _Theirs()


class _Theirs:
    def __init__(self) -> None:
        self._server = InterceptionServer(0, secret=SECRET)
        self._consumers: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        await self._server.start()
        for number in range(ROLLOUTS):
            queue = self._server.register_rollout(f"r{number}", state={})
            self._consumers.append(asyncio.create_task(self._consume(queue)))
        port: int = self._server.port
        return port

    async def stop(self) -> None:
        await self._server.stop()
        for consumer in self._consumers:
            consumer.cancel()

    async def _consume(self, queue: "asyncio.Queue[str]") -> None:
        while True:
            # As their loop does: what stays makes each later end slower.
            one = self._server.intercepts.pop(await queue.get())
            answer_call(one["model"], one["chunk_queue"], one["response_future"])
