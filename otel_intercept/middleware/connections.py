"""End the exchange of a connection that ended before its answer did."""

import asyncio
import weakref

from otel_intercept.exchange import Exchange


class Connections:
    """The connections of one server, and the exchange that each may have to end.

    An exchange ends when its body does. Where aiohttp never gets that far, such as
    after a failing ``on_response_prepare`` signal, it ends with its connection.

    Attributes:
        shutting_down: Whether the server closes its connections by itself, so that a
            lost one does not mean that the agent left.
    """

    __slots__ = ("_open", "shutting_down")

    def __init__(self) -> None:
        self._open: dict[asyncio.Task[None], weakref.ref[Exchange]] = {}
        self.shutting_down = False

    def is_agent_present(self, transport: asyncio.BaseTransport | None) -> bool:
        """Tell whether a connection stands, or the server closes it itself."""
        return self.shutting_down or not (transport is None or transport.is_closing())

    def end_with(self, task: asyncio.Task[None], exchange: Exchange) -> None:
        """End an exchange with the connection that it came on, unless it is over.

        Args:
            task: What serves the connection, one request at a time.
            exchange: Takes the place of the one before.
        """
        if exchange.outcome is not None:
            return
        if task not in self._open:
            task.add_done_callback(self._ended)
        self._open[task] = weakref.ref(exchange)

    def _ended(self, task: asyncio.Task[None]) -> None:
        exchange = self._open.pop(task)()
        if exchange is not None:
            exchange.finish()
