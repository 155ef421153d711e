"""The interception server: agents call it, and consumers answer for the model."""

import asyncio
import logging
import secrets
from collections.abc import Mapping, MutableMapping
from typing import Final, get_args

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry.trace import SpanContext

from otel_intercept.errors import ConfigurationError
from otel_intercept.middleware import instrument_app
from otel_intercept.registry import RolloutRegistry
from otel_intercept.semconv import RolloutOutcome
from otel_intercept.server import intercepts
from otel_intercept.server.credential import Credential
from otel_intercept.server.intercepts import (
    Intercept,
    ModelHandler,
    Registration,
    StopHandler,
    ToolHandler,
    UserHandler,
)
from otel_intercept.server.model_routes import ModelRoutes
from otel_intercept.server.runner import quiet_runner
from otel_intercept.server.side_channel import SideChannel
from otel_intercept.server.streaming import StreamFailure
from otel_intercept.server.table import RolloutTable

CLIENT_MAX_SIZE: Final = 48 * 1024 * 1024
"""Bytes of a request body: long multimodal prompts come close to it."""

_MODEL_ROUTES: Final = ("chat/completions", "completions", "responses", "messages")
_MODEL_BASE: Final = "/rollout/{rollout_id}/v1/"

_logger = logging.getLogger("otel_intercept.server")


class InterceptionServer:
    """An HTTP server that agents talk to instead of a model provider.

    Every model call of a registered rollout is put on the rollout's queue as a request
    id. A consumer looks it up in ``intercepts``, calls the model, and answers with
    `deliver_response` or `synthesize_stream`, or through ``chunk_queue`` and
    ``response_future``. Confined to the event loop that started it.

    Args:
        registry: Where the rollouts are opened.
        port: TCP port; 0 lets the operating system choose one at each start.
        host: Address to listen on. Agents in sandboxes need another than loopback.
        secret: What agents must send as bearer token or ``x-api-key``. Random if empty.
        keepalive_s: Seconds without a write after which a stream gets a keepalive.
        client_max_size: Bytes of a request body beyond which it is refused with 413.
        stream_failure: What a stream whose upstream failed ends with: ``done``, its
            terminal event alone, or ``error_frame``, an error frame before it.
        shutdown_timeout_s: Seconds that running handlers have when the server stops.

    Raises:
        ConfigurationError: ``keepalive_s`` is not positive, or ``stream_failure`` none
            of the two.

    Attributes:
        port: The port that is listened on; before and after that, the one asked for.
        secret: The credential in force. Never logged, never in telemetry.
        active_rollouts: Registrations by rollout id.
        intercepts: Requests that are not answered yet, by request id.
    """

    deliver_response = staticmethod(intercepts.deliver_response)
    synthesize_stream = staticmethod(intercepts.synthesize_stream)

    def __init__(
        self,
        registry: RolloutRegistry,
        *,
        port: int = 0,
        host: str = "127.0.0.1",
        secret: str | None = None,
        keepalive_s: float = 3.0,
        client_max_size: int = CLIENT_MAX_SIZE,
        stream_failure: StreamFailure = "done",
        shutdown_timeout_s: float = 2.0,
    ) -> None:
        if not keepalive_s > 0:
            raise ConfigurationError("keepalive_s must be above 0")
        if stream_failure not in get_args(StreamFailure):
            raise ConfigurationError("stream_failure must be 'done' or 'error_frame'")
        self.port = port
        self.secret: Final = secret or secrets.token_urlsafe(32)
        self._asked_port = port
        self._host = host
        self._keepalive_s = keepalive_s
        self._client_max_size = client_max_size
        self._stream_failure: StreamFailure = stream_failure
        self._shutdown_timeout_s = shutdown_timeout_s
        self._table = RolloutTable(registry)
        self._handlers: set[asyncio.Task[object]] = set()
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None

    @property
    def active_rollouts(self) -> dict[str, Registration]:
        """Registrations by rollout id."""
        return self._table.active

    @property
    def intercepts(self) -> dict[str, Intercept]:
        """Requests that are not answered yet, by request id."""
        return self._table.intercepts

    async def start(self) -> None:
        """Listen. Idempotent; concurrent calls wait for the first.

        Raises:
            OSError: The address cannot be listened on.
        """
        async with self._lock:
            if self._runner is not None:
                return
            runner = quiet_runner(
                self._app(), shutdown_timeout_s=self._shutdown_timeout_s
            )
            await runner.setup()
            try:
                await web.TCPSite(runner, self._host, self._asked_port).start()
            except BaseException:
                await runner.cleanup()
                raise
            self.port = runner.addresses[0][1]
            self._loop = asyncio.get_running_loop()
            self._runner = runner
            _logger.debug("interception server listens on port %d", self.port)

    async def stop(self) -> None:
        """Stop listening, and end everything that is open. Idempotent.

        Rollouts that were opened here end as ``aborted``; their requests are cancelled.
        Handlers that go on for longer than the shutdown timeout are cancelled. When the
        loop that started the server is closed, only the bookkeeping is done.
        """
        async with self._lock:
            for rollout_id, registration in list(self.active_rollouts.items()):
                outcome = RolloutOutcome.ABORTED if registration["owned"] else None
                self._table.unregister(rollout_id, outcome)
            runner, self._runner = self._runner, None
            loop, self._loop = self._loop, None
            self.port = self._asked_port
            if runner is None or loop is None or loop.is_closed():
                return
            await self._end_handlers()
            await runner.cleanup()
            _logger.debug("interception server stopped")

    def register_rollout(
        self,
        rollout_id: str,
        state: MutableMapping[str, object] | None = None,
        tool_handler: ToolHandler | None = None,
        tool_defs: object = None,
        user_handler: UserHandler | None = None,
        stop_handler: StopHandler | None = None,
        model_handler: ModelHandler | None = None,
        *,
        attributes: Mapping[str, object] | None = None,
        trace_id: str | None = None,
        parent: str | SpanContext | None = None,
    ) -> "asyncio.Queue[str]":
        """Take in the requests of a rollout from now on.

        Opens the rollout in the registry. One that is open there already is adopted:
        it gets the state, and closing it is left to who opened it. A registration
        under the same id is replaced; its open requests stay open.

        Args:
            rollout_id: The id in the agent's base URL.
            state: The training loop's mapping; ``state["error"]`` is set on failure.
            tool_handler: Called with name and arguments of a tool call.
            tool_defs: The tools, as objects or dicts.
            user_handler: Called with the transcript; gives the user's messages.
            stop_handler: Called without arguments; tells whether the rollout is done.
            model_handler: Called with messages and tools; gives a message.
            attributes: As in `RolloutRegistry.open`; not used on an adopted rollout.
            trace_id: Likewise.
            parent: Likewise.

        Returns:
            The queue of request ids, first come, first served.

        Raises:
            ConfigurationError: The id, trace id or parent is malformed.
        """
        registration = self._table.register(
            rollout_id,
            state=state,
            tool_handler=tool_handler,
            tool_defs=tool_defs,
            user_handler=user_handler,
            stop_handler=stop_handler,
            model_handler=model_handler,
            attributes=attributes,
            trace_id=trace_id,
            parent=parent,
        )
        return registration["request_id_queue"]

    def unregister_rollout(
        self, rollout_id: str, outcome: RolloutOutcome | None = None
    ) -> None:
        """End a rollout's registration, and cancel its open requests. Idempotent.

        Costs time in the rollout's own requests only.

        Args:
            rollout_id: Which one; an unknown one is ignored.
            outcome: How the rollout ended; by default as it earned. An adopted rollout
                is closed only if this is given.
        """
        self._table.unregister(rollout_id, outcome)

    def _app(self) -> web.Application:
        credential = Credential(self.secret)
        model_routes = ModelRoutes(
            self._table,
            credential,
            keepalive_s=self._keepalive_s,
            stream_failure=self._stream_failure,
        )
        app = web.Application(
            client_max_size=self._client_max_size, middlewares=[self._track()]
        )
        app.add_routes(
            web.post(_MODEL_BASE + name, model_routes.handle) for name in _MODEL_ROUTES
        )
        app.add_routes(SideChannel(self._table, credential).routes())
        app.router.add_get("/health", _health)
        instrument_app(app, self._table.registry, rollout_id=_model_rollout_id)
        return app

    def _track(self) -> Middleware:
        handlers = self._handlers

        @web.middleware
        async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
            task = asyncio.current_task()
            if task is None:
                return await handler(request)
            handlers.add(task)
            try:
                return await handler(request)
            finally:
                handlers.discard(task)

        return track

    async def _end_handlers(self) -> None:
        # aiohttp cancels late handlers without waiting for their end.
        for cancel in (False, True):
            running = self._handlers - {asyncio.current_task()}
            if cancel:
                for task in running:
                    task.cancel()
            if running:
                await asyncio.wait(running, timeout=self._shutdown_timeout_s)


async def _health(request: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "ok"})


def _model_rollout_id(request: web.Request) -> str | None:
    resource = request.match_info.route.resource
    if resource is None or not resource.canonical.startswith(_MODEL_BASE):
        return None
    return request.match_info["rollout_id"]
