"""This library: around the handler, and as the server with a writer of its own."""

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from bench.scenes import ROLLOUTS, SECRET
from bench.servers.app import Answer, AppSite, Site, answer_call, make_app
from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure
from otel_intercept.server import InterceptionServer

_OWN_SERVER: Final = "server-"
_ENVIRONMENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "off": {"OTEL_SDK_DISABLED": "true"},
    "unsampled": {"OTEL_TRACES_SAMPLER": "always_off"},
    "thread": {},
    "process": {"OTEL_INTERCEPT_RECORDER": "process"},
}


@contextmanager
def serve(variant: str, sink: str) -> Iterator[Site]:
    """Give the app with every rollout open, or the server of our own.

    Args:
        variant: ``off``, ``unsampled``, ``thread`` or ``process``; with ``server-``
            before it, our server in place of the handler that everybody watches.
        sink: Where everything is exported to, over OTLP/HTTP.
    """
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        **os.environ,
        **_ENVIRONMENTS[variant.removeprefix(_OWN_SERVER)],
    }
    with configure(environ, service_name="bench") as telemetry:
        registry = RolloutRegistry(telemetry)
        if variant.startswith(_OWN_SERVER):
            yield _OwnServer(registry)
            return
        for number in range(ROLLOUTS):
            registry.open(f"r{number}", state={})
        app = make_app(_observe)
        instrument_app(app, registry)
        yield AppSite(app)


def _observe(request: web.Request, body: Mapping[str, object], answer: Answer) -> None:
    exchange = exchange_from(request)
    exchange.describe_request(body)
    _ = exchange.watch(answer)


class _OwnServer:
    def __init__(self, registry: RolloutRegistry) -> None:
        self._server = InterceptionServer(registry, secret=SECRET)
        self._consumers: list[asyncio.Task[None]] = []

    async def start(self) -> int:
        await self._server.start()
        for number in range(ROLLOUTS):
            queue = self._server.register_rollout(f"r{number}", state={})
            self._consumers.append(asyncio.create_task(self._consume(queue)))
        return self._server.port

    async def stop(self) -> None:
        await self._server.stop()
        for consumer in self._consumers:
            consumer.cancel()

    async def _consume(self, queue: "asyncio.Queue[str]") -> None:
        while True:
            one = self._server.intercepts[await queue.get()]
            answer_call(str(one["model"]), one["chunk_queue"], one["response_future"])
