"""Nobody watches: what everything is compared with."""

from collections.abc import Iterator
from contextlib import contextmanager

from bench.servers.app import AppSite, Site, make_app


@contextmanager
def serve(sink: str) -> Iterator[Site]:
    """Give the app as it is; nothing is sent."""
    yield AppSite(make_app())
