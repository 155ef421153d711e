"""This library, switched off, unsampled, or with everything exported over OTLP/HTTP."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from bench.scenes import ROLLOUTS
from bench.servers.app import Answer, make_app
from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.sdk import configure

_ENVIRONMENTS: Final[Mapping[str, Mapping[str, str]]] = {
    "off": {"OTEL_SDK_DISABLED": "true"},
    "unsampled": {"OTEL_TRACES_SAMPLER": "always_off"},
    "thread": {},
    "process": {"OTEL_INTERCEPT_RECORDER": "process"},
}


@contextmanager
def serve(variant: str, sink: str) -> Iterator[web.Application]:
    """Give the app with every rollout open in a registry."""
    environ = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": sink,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        **os.environ,
        **_ENVIRONMENTS[variant],
    }
    with configure(environ, service_name="bench") as telemetry:
        registry = RolloutRegistry(telemetry)
        for number in range(ROLLOUTS):
            registry.open(f"r{number}", state={})
        app = make_app(_observe)
        instrument_app(app, registry)
        yield app


def _observe(request: web.Request, body: Mapping[str, object], answer: Answer) -> None:
    exchange = exchange_from(request)
    exchange.describe_request(body)
    _ = exchange.watch(answer)
