"""Observe the interception server of the legacy stack, through its own methods."""

import logging
import weakref
from collections.abc import Mapping
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from otel_intercept.dialect import dialect_of
from otel_intercept.instrumentation.verifiers import attempts, contrib
from otel_intercept.instrumentation.verifiers.calls import (
    Args,
    Call,
    Kwargs,
    argument,
    is_handler,
    response_of,
    result_of,
)
from otel_intercept.instrumentation.verifiers.host import Host, Served
from otel_intercept.instrumentation.verifiers.legacy_intercepts import (
    WatchedIntercepts,
)
from otel_intercept.instrumentation.verifiers.legacy_redaction import (
    redact_error,
    redact_response,
    redact_state,
)
from otel_intercept.instrumentation.verifiers.legacy_state import (
    SeenState,
    outcome_unless_failed,
    trace_id_of,
)
from otel_intercept.instrumentation.verifiers.patches import (
    Patches,
    Wrapper,
    is_routed,
)
from otel_intercept.middleware.serving import serve_unchanged
from otel_intercept.rollout import Rollout
from otel_intercept.shield import shielded

# 0.3.1 gives one module both names.
_SERVERS: Final = (
    "verifiers.legacy.utils.interception_utils",
    "verifiers.utils.interception_utils",
)
_ENVIRONMENTS: Final = (
    "verifiers.legacy.envs.environment",
    "verifiers.envs.environment",
)
_MODEL_CALLS: Final = "/rollout/{rollout_id}/v1/"
_SIDE_CHANNEL: Final = ("tool", "tools_list", "user", "stop", "model")

_logger: Final = logging.getLogger("otel_intercept.instrumentation")


def patch(patches: Patches, host: Host) -> None:
    """Observe every legacy server that is made from now on, or is used again."""
    hooks = _Hooks(host)
    methods: dict[str, Wrapper] = {
        "__init__": hooks.made,
        "start": hooks.start,
        "stop": hooks.stop,
        "register_rollout": hooks.register,
        "unregister_rollout": hooks.unregister,
        "_handle_request": hooks.handle,
    }
    if host.options.redact_state:
        methods["_set_rollout_error"] = hooks.set_error
    if host.options.redact_responses:
        for name in _SIDE_CHANNEL:
            methods[f"_handle_{name}_request"] = hooks.handle_side_channel
    for module in _SERVERS:
        for name, hook in methods.items():
            patches.wrap(module, f"InterceptionServer.{name}", hook)
    for module in _ENVIRONMENTS:
        patches.wrap(module, "Environment.run_rollout", _run_repeatedly)


def _run_repeatedly(
    wrapped: Call, _instance: object, args: Args, kwargs: Kwargs
) -> object:
    async def run() -> object:
        with attempts.repeated():
            return await result_of(wrapped, args, kwargs)

    return run()


class _Hooks:
    """The wrappers of one host, and what they remember of its servers."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._open_traces: set[str] = set()
        self._seen_starting: weakref.WeakSet[object] = weakref.WeakSet()
        self._told: weakref.WeakSet[object] = weakref.WeakSet()

    def made(self, wrapped: Call, server: object, args: Args, kwargs: Kwargs) -> object:
        made = wrapped(*args, **kwargs)
        self._watch_intercepts(server)
        return made

    def start(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        async def start() -> object:
            # It binds its handlers when it starts, and does so once.
            if getattr(server, "_app", None) is None:
                self._seen_starting.add(server)
            with contrib.starting(_is_model_call):
                return await result_of(wrapped, args, kwargs)

        return start() if self._host.active else wrapped(*args, **kwargs)

    def stop(self, wrapped: Call, server: object, args: Args, kwargs: Kwargs) -> object:
        served = self._served(server)
        if served is None or not self._host.active:
            return wrapped(*args, **kwargs)

        async def stop() -> object:
            served.serving.connections.shutting_down = True
            try:
                return await result_of(wrapped, args, kwargs)
            finally:
                # A handler that swallowed its cancellation never ends by itself.
                served.registry.end_exchanges()
                served.serving.connections.shutting_down = False
                served.forget_routes()

        return stop()

    def register(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        queue = wrapped(*args, **kwargs)
        if self._host.active:
            rollout_id = argument(args, kwargs, 0, "rollout_id")
            self._open(server, rollout_id, argument(args, kwargs, 1, "state"))
        return queue

    def unregister(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        if not self._host.active:
            return wrapped(*args, **kwargs)
        rollout_id = argument(args, kwargs, 0, "rollout_id")
        state = _state_of(server, rollout_id)
        try:
            return wrapped(*args, **kwargs)
        finally:
            # Only now, so that a future it cancels tells whether the agent had left.
            self._close(server, rollout_id, state)

    def handle(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        # Once for each request, so it calls no more than it needs.
        request = args[0] if args else kwargs.get("request")
        if not isinstance(request, web.Request) or not self._host.active:
            return wrapped(*args, **kwargs)
        served = self._host.known.get(id(server)) or self._served(server)
        if served is None:
            return wrapped(*args, **kwargs)
        match = request.match_info
        rollout = self._rollout_of(server, served, request, match.get("rollout_id", ""))
        if rollout is None:
            return wrapped(*args, **kwargs)
        route = match.route
        last = served.last.get(route)
        if last is None:
            last = served.last[route] = is_routed(route, wrapped)
        redacts = self._host.options.redact_responses
        if not redacts and is_handler(wrapped, args, kwargs):
            return serve_unchanged(served.serving, request, wrapped, rollout, last=last)
        handler = self._handler(wrapped, args, kwargs, rollout)
        return serve_unchanged(served.serving, request, handler, rollout, last=last)

    def _handler(
        self, wrapped: Call, args: Args, kwargs: Kwargs, rollout: Rollout
    ) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            response = await response_of(wrapped, args, kwargs)
            if self._host.options.redact_responses:
                return redact_response(request, response, rollout)
            return response

        return handler

    def handle_side_channel(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        request = argument(args, kwargs, 0, "request")
        if not isinstance(request, web.Request) or not self._host.active:
            return wrapped(*args, **kwargs)
        rollout = self._find(server, request.match_info.get("rollout_id"))

        async def handle() -> web.StreamResponse:
            response = await response_of(wrapped, args, kwargs)
            return redact_response(request, response, rollout)

        return handle()

    def set_error(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        if not self._host.active:
            return wrapped(*args, **kwargs)
        rollout_id = argument(args, kwargs, 0, "rollout_id")
        error = argument(args, kwargs, 1, "error")
        if isinstance(error, BaseException):
            key = self._host.telemetry.settings.fingerprint_key
            error = redact_error(error, self._find(server, rollout_id), key)
        return wrapped(rollout_id, error)

    @shielded
    def _watch_intercepts(self, server: object) -> None:
        intercepts = getattr(server, "intercepts", None)
        if type(intercepts) is not dict or not self._host.active:
            return
        served = self._served(server)
        if served is not None:
            vars(server)["intercepts"] = WatchedIntercepts(
                intercepts, self._host, served.registry
            )

    @shielded
    def _open(self, server: object, rollout_id: object, state: object) -> None:
        served = self._served(server)
        if served is None or not isinstance(rollout_id, str):
            return
        self._watch_intercepts(server)
        self._tell_if_late(server)
        self._close(server, rollout_id, None)
        trace_id = trace_id_of(state)
        rollout = served.registry.open(
            rollout_id,
            state=SeenState(state) if isinstance(state, Mapping) else None,
            trace_id=None if trace_id in self._open_traces else trace_id,
            previous=attempts.previous(),
        )
        self._open_traces.add(rollout.trace_id)
        attempts.began(rollout)

    @shielded
    def _close(self, server: object, rollout_id: object, state: object) -> None:
        served = self._served(server)
        if served is None or not isinstance(rollout_id, str):
            return
        rollout = served.registry.close(
            rollout_id, unless_failed=outcome_unless_failed(state)
        )
        if rollout is not None:
            self._open_traces.discard(rollout.trace_id)
        if self._host.options.redact_state:
            redact_state(state, rollout, self._host.telemetry.settings.fingerprint_key)

    def _served(self, server: object) -> Served | None:
        try:
            return self._host.served(server)
        except TypeError:
            # When a server ends of which nothing can tell, its rollouts would stay.
            return None

    def _find(self, server: object, rollout_id: object) -> Rollout | None:
        served = self._served(server)
        if served is None or not isinstance(rollout_id, str):
            return None
        return served.registry.get(rollout_id)

    def _rollout_of(
        self, server: object, served: Served, request: web.Request, rollout_id: str
    ) -> Rollout | None:
        """Return the rollout of a request that their server will not turn away."""
        try:
            authorized = getattr(server, "_authorized")(request)  # noqa: B009 - theirs
        except Exception:  # noqa: BLE001 - theirs will raise it again, and answer
            return None
        if not authorized:
            return None
        rollout = served.registry.get(rollout_id)
        if rollout is None:
            served.registry.reject(dialect_of(request.path))
        return rollout

    def _tell_if_late(self, server: object) -> None:
        known = server in self._seen_starting or server in self._told
        if not known and getattr(server, "_app", None) is not None:
            self._told.add(server)
            _logger.warning(
                "an interception server was started before it was instrumented: its "
                "rollouts and failed model calls are seen, its requests are not; call "
                "instrument() before its start()"
            )


def _is_model_call(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical.startswith(_MODEL_CALLS)


def _state_of(server: object, rollout_id: object) -> object:
    rollouts = getattr(server, "active_rollouts", None)
    known = rollouts.get(rollout_id) if isinstance(rollouts, dict) else None
    return known.get("state") if isinstance(known, dict) else None
