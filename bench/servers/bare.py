"""Nobody watches: what everything is compared with."""

from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

from bench.servers.app import make_app


@contextmanager
def serve(variant: str, sink: str) -> Iterator[web.Application]:
    """Give the app as it is."""
    yield make_app()
