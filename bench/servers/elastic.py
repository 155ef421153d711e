"""Elastic's APM agent, events to the intake over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import elasticapm
from elasticapm.contrib.aiohttp import ElasticAPM

from bench.servers.app import AppSite, Site, make_app


@contextmanager
def serve(sink: str) -> Iterator[Site]:
    """Give the app with the agent in it."""
    app = make_app()
    client = elasticapm.Client(
        service_name="bench",
        server_url=sink,
        # By default 10 s: longer than a turn of the benchmark.
        api_request_time="1s",
        central_config=False,
        cloud_provider=False,
        framework_name="aiohttp",
        framework_version=aiohttp.__version__,
    )
    ElasticAPM(app, client)
    try:
        yield AppSite(app)
    finally:
        client.close()
