"""Logfire, spans and metrics over OTLP/HTTP."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import logfire

from bench.servers.app import AppSite, Site, make_app


@contextmanager
def serve(sink: str) -> Iterator[Site]:
    """Give the app made while aiohttp is instrumented."""
    # Logfire adds exporters for the standard variables.
    os.environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = sink
    os.environ["OTEL_EXPORTER_OTLP_PROTOCOL"] = "http/protobuf"
    logfire.configure(send_to_logfire=False, console=False, service_name="bench")
    logfire.instrument_aiohttp_server()
    try:
        yield AppSite(make_app())
    finally:
        logfire.shutdown()
