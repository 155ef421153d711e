"""Sentry's SDK with every transaction sampled, envelopes over HTTP."""

from collections.abc import Iterator
from contextlib import contextmanager

import sentry_sdk

from bench.servers.app import AppSite, Site, make_app


@contextmanager
def serve(sink: str) -> Iterator[Site]:
    """Give the app; aiohttp is instrumented by default."""
    address = sink.removeprefix("http://")
    sentry_sdk.init(dsn=f"http://key@{address}/1", traces_sample_rate=1.0)
    try:
        yield AppSite(make_app())
    finally:
        sentry_sdk.flush()
