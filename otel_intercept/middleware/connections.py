"""End the exchange of a connection that ended before its answer did."""

import weakref
from typing import TYPE_CHECKING

from otel_intercept.exchange import Exchange

if TYPE_CHECKING:
    import asyncio


class Connections:
    """The latest exchange of each connection.

    An exchange ends when its body does. Where aiohttp never gets that far, such as
    after a failing ``on_response_prepare`` signal, it ends with its connection, which
    serves one request at a time.
    """

    def __init__(self) -> None:
        self._latest: dict[asyncio.Task[None], weakref.ref[Exchange]] = {}

    def serve(self, connection: "asyncio.Task[None]", exchange: Exchange) -> None:
        """Note the exchange that a connection's task now serves."""
        if connection not in self._latest:
            connection.add_done_callback(self._ended)
        self._latest[connection] = weakref.ref(exchange)

    def _ended(self, connection: "asyncio.Task[None]") -> None:
        exchange = self._latest.pop(connection)()
        if exchange is not None:
            exchange.finish()
