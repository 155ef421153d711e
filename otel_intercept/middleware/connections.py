"""End the exchange of a connection that ended before its answer did."""

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    import asyncio
    import weakref

    from otel_intercept.exchange import Exchange


class Connection:
    """An agent's connection, which serves one request at a time.

    Args:
        request: Any request that came in on it.
        connections: Those of its server.
    """

    __slots__ = ("_connections", "_protocol", "latest")

    def __init__(self, request: web.Request, connections: "Connections") -> None:
        self._protocol = request.protocol
        self._connections = connections
        self.latest: weakref.ref[Exchange] | None = None

    def is_agent_present(self) -> bool:
        """Whether it stands, or its server closes it itself."""
        transport = self._protocol.transport
        return self._connections.shutting_down or not (
            transport is None or transport.is_closing()
        )


class Connections:
    """The connections of one server, and the latest exchange of each.

    An exchange ends when its body does. Where aiohttp never gets that far, such as
    after a failing ``on_response_prepare`` signal, it ends with its connection.

    Attributes:
        shutting_down: Whether the server closes its connections by itself, so that a
            lost one does not mean that the agent left.
    """

    __slots__ = ("_open", "shutting_down")

    def __init__(self) -> None:
        self._open: dict[asyncio.Task[None], Connection] = {}
        self.shutting_down = False

    def of(self, request: web.Request) -> Connection:
        """Return the connection of a request."""
        task = request.task
        connection = self._open.get(task)
        if connection is None:
            connection = self._open[task] = Connection(request, self)
            task.add_done_callback(self._ended)
        return connection

    def _ended(self, task: "asyncio.Task[None]") -> None:
        latest = self._open.pop(task).latest
        exchange = None if latest is None else latest()
        if exchange is not None:
            exchange.finish()
