"""Which rollouts are registered, and which of their requests still need an answer."""

import asyncio
import secrets
from collections.abc import Callable, Mapping, MutableMapping

from opentelemetry.trace import SpanContext

from otel_intercept import failure as failures
from otel_intercept.registry import RolloutRegistry
from otel_intercept.semconv import Dialect, RolloutOutcome
from otel_intercept.server.intercepts import (
    PROTOCOLS,
    Intercept,
    ModelHandler,
    Registration,
    StopHandler,
    ToolHandler,
    UserHandler,
)

_CREDENTIAL_HEADERS = frozenset({"authorization", "x-api-key"})


class RolloutTable:
    """The registered rollouts and their intercepts.

    Confined to the event loop's thread.

    Args:
        registry: Where the rollouts are open.

    Attributes:
        active: Registrations by rollout id.
        intercepts: Requests by request id. One leaves when it has been answered and
            its handler is through, or with its rollout.
    """

    def __init__(self, registry: RolloutRegistry) -> None:
        self.registry = registry
        self.active: dict[str, Registration] = {}
        self.intercepts: dict[str, Intercept] = {}

    def register(
        self,
        rollout_id: str,
        *,
        state: MutableMapping[str, object] | None,
        tool_handler: ToolHandler | None,
        tool_defs: object,
        user_handler: UserHandler | None,
        stop_handler: StopHandler | None,
        model_handler: ModelHandler | None,
        attributes: Mapping[str, object] | None,
        trace_id: str | None,
        parent: str | SpanContext | None,
    ) -> Registration:
        """Register a rollout: open it, or adopt the one that the caller has opened.

        A registration under the same id is replaced: its rollout is closed if it was
        opened here, its requests stay open.

        Raises:
            ConfigurationError: As `RolloutRegistry.open`.
        """
        previous = self.active.get(rollout_id)
        if previous is not None:
            self._close(rollout_id, previous, None)
        rollout = self.registry.get(rollout_id)
        owned = rollout is None
        if rollout is None:
            rollout = self.registry.open(
                rollout_id,
                state=state,
                attributes=attributes,
                trace_id=trace_id,
                parent=parent,
            )
        elif state is not None:
            rollout.state = state
        registration: Registration = {
            "request_id_queue": asyncio.Queue(),
            "state": state,
            "tool_handler": tool_handler,
            "tool_defs": tool_defs,
            "user_handler": user_handler,
            "stop_handler": stop_handler,
            "model_handler": model_handler,
            "rollout": rollout,
            "owned": owned,
            "requests": set() if previous is None else previous["requests"],
        }
        self.active[rollout_id] = registration
        return registration

    def unregister(self, rollout_id: str, outcome: RolloutOutcome | None) -> None:
        """End a registration and cancel what its consumer has not answered. Idempotent.

        Costs time in the rollout's own requests only. A rollout that was opened here
        is closed; an adopted one only with an ``outcome``.
        """
        registration = self.active.pop(rollout_id, None)
        if registration is None:
            return
        self._close(rollout_id, registration, outcome)
        requests = registration["requests"]
        while requests:
            intercept = self.intercepts.pop(requests.pop(), None)
            if intercept is None:
                continue
            if intercept["chunk_queue"] is not None:
                intercept["chunk_queue"].put_nowait(None)
            intercept["response_future"].cancel()

    def add(
        self,
        rollout_id: str,
        dialect: Dialect,
        body: Mapping[str, object],
        headers: Mapping[str, str],
    ) -> Intercept:
        """Take in a request of a registered rollout, and tell its consumer.

        Raises:
            KeyError: The rollout is not registered.
        """
        registration = self.active[rollout_id]
        request_id = _new_request_id()
        while request_id in self.intercepts:
            request_id = _new_request_id()
        intercept: Intercept = {
            "request_id": request_id,
            "rollout_id": rollout_id,
            "protocol": PROTOCOLS[dialect],
            "messages": body.get("messages"),
            "prompt": body.get("prompt"),
            "input": body.get("input"),
            "system": body.get("system"),
            "model": body.get("model"),
            "tools": body.get("tools"),
            "stream": body.get("stream", False),
            "chunk_queue": asyncio.Queue() if body.get("stream") else None,
            "response_future": asyncio.get_running_loop().create_future(),
            "headers": {
                name.lower(): value
                for name, value in headers.items()
                if name.lower() not in _CREDENTIAL_HEADERS
            },
        }
        intercept["response_future"].add_done_callback(_triage(rollout_id))
        # The consumer looks the id up as soon as it comes out of the queue.
        self.intercepts[request_id] = intercept
        registration["requests"].add(request_id)
        registration["request_id_queue"].put_nowait(request_id)
        return intercept

    def handler_done(self, intercept: Intercept) -> None:
        """Let go of a request whose handler is through, as soon as it is answered."""
        requests = self._requests_of(intercept)

        def let_go(_: "asyncio.Future[object]") -> None:
            requests.discard(intercept["request_id"])
            if self.intercepts.get(intercept["request_id"]) is intercept:
                del self.intercepts[intercept["request_id"]]

        future = intercept["response_future"]
        if future.done():
            let_go(future)
        else:
            future.add_done_callback(let_go)

    def _requests_of(self, intercept: Intercept) -> set[str]:
        registration = self.active.get(intercept["rollout_id"])
        return set() if registration is None else registration["requests"]

    def _close(
        self,
        rollout_id: str,
        registration: Registration,
        outcome: RolloutOutcome | None,
    ) -> None:
        rollout = registration["rollout"]
        if not registration["owned"] and outcome is None:
            return
        if self.registry.get(rollout_id) is rollout:
            self.registry.close(rollout_id, outcome=outcome)


def _triage(rollout_id: str) -> Callable[["asyncio.Future[object]"], None]:
    def done(future: "asyncio.Future[object]") -> None:
        error = None if future.cancelled() else future.exception()
        if error is not None:
            failures.triage(error, rollout_id)

    return done


def _new_request_id() -> str:
    return f"req_{secrets.token_hex(4)}"
