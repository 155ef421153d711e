"""Datadog's tracer, traces to its agent over HTTP."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bench.servers.app import AppSite, Site, make_app


@contextmanager
def serve(sink: str) -> Iterator[Site]:
    """Give the app with the tracer in it."""
    # Read when it is imported. What is off is not tracing: it talks to others.
    os.environ["DD_TRACE_AGENT_URL"] = sink
    os.environ["DD_SERVICE"] = "bench"
    os.environ["DD_INSTRUMENTATION_TELEMETRY_ENABLED"] = "false"
    os.environ["DD_REMOTE_CONFIGURATION_ENABLED"] = "false"
    import ddtrace
    from ddtrace.contrib.aiohttp import trace_app
    from ddtrace.trace import tracer

    # Without it the middleware lacks a default of its own.
    ddtrace.patch(aiohttp=True)
    app = make_app()
    trace_app(app)
    try:
        yield AppSite(app)
    finally:
        tracer.shutdown()
