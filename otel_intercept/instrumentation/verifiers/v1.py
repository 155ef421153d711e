"""Observe the interception server of the v1 stack, through its own methods."""

from types import ModuleType
from typing import Final

from aiohttp import web

from otel_intercept.current import current_exchange
from otel_intercept.dialect import dialect_of
from otel_intercept.exchange import Exchange
from otel_intercept.instrumentation.verifiers import contrib
from otel_intercept.instrumentation.verifiers.calls import (
    Args,
    Call,
    Kwargs,
    argument,
    response_of,
    result_of,
)
from otel_intercept.instrumentation.verifiers.host import Host
from otel_intercept.instrumentation.verifiers.patches import Patches
from otel_intercept.instrumentation.verifiers.v1_redaction import Redaction
from otel_intercept.instrumentation.verifiers.v1_rollouts import (
    SessionRollouts,
    note_stop,
)
from otel_intercept.instrumentation.verifiers.v1_shapes import (
    facts_of,
    is_hook_error,
    is_provider_error,
    secret_of,
    session_of,
)
from otel_intercept.middleware.serving import serve_unchanged
from otel_intercept.outcome import Answer, answer_of
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Origin, Phase
from otel_intercept.shield import shielded

_SERVER: Final = "verifiers.v1.interception.server"
_TRACE: Final = "verifiers.v1.trace"
_DIALECTS: Final = (
    ("verifiers.v1.dialects.base", "Dialect.error_body"),
    ("verifiers.v1.dialects.anthropic", "AnthropicDialect.error_body"),
)
_NS_PER_S: Final = 1_000_000_000
_SIDE_ROUTES: Final = frozenset({"/state", "/task", "/tool", "/v1/models"})


def patch(patches: Patches, host: Host) -> None:
    """Observe every v1 server, also one that has started already.

    Its handlers look its methods up when a request comes in.
    """
    hooks = _Hooks(host)
    methods = {
        "start": _start,
        "register": hooks.register,
        "unregister": hooks.unregister,
        "stop": hooks.stop,
        "handle_request": hooks.handle_request,
        "handle_aux": hooks.handle_aux,
        "record_call": hooks.record_call,
        "_fail": hooks.fail,
    }
    for name, hook in methods.items():
        patches.wrap(_SERVER, f"InterceptionServer.{name}", hook)
    patches.wrap(_TRACE, "Trace.record_error", hooks.record_error)

    def patch_buffering(server: ModuleType) -> None:
        # Since 0.4, streams are served whole, and every retry can be replayed.
        if hasattr(server, "_buffered_stream"):
            patches.wrap(_SERVER, "_buffered_stream", _buffered_stream)
            patches.wrap(_SERVER, "_replay_response", _replay_response)

    patches.when_imported(_SERVER, patch_buffering)
    if host.options.redact_responses:
        for module, path in _DIALECTS:
            patches.wrap(module, path, hooks.redaction.error_body)


class _Hooks:
    """The wrappers of one host."""

    def __init__(self, host: Host) -> None:
        self.redaction = Redaction(host)
        self._host = host
        self._rollouts = SessionRollouts(host)

    def register(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        secrets = wrapped(*args, **kwargs)
        secret = secrets[0] if isinstance(secrets, tuple) and secrets else None
        if isinstance(secret, str):
            session = argument(args, kwargs, 0, "session")
            self._rollouts.register(server, secret, session)
        return secrets

    def unregister(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        try:
            return wrapped(*args, **kwargs)
        finally:
            # Handlers that it has cancelled find the rollout closed: teardown.
            secret = argument(args, kwargs, 0, "model_secret")
            if isinstance(secret, str):
                self._rollouts.unregister(server, secret)

    def stop(self, wrapped: Call, server: object, args: Args, kwargs: Kwargs) -> object:
        async def stop() -> object:
            serving = self._host.served(server).serving
            serving.connections.shutting_down = True
            try:
                return await result_of(wrapped, args, kwargs)
            finally:
                serving.connections.shutting_down = False
                self._rollouts.stopped(server)

        return stop()

    def handle_request(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        return self._serve(wrapped, server, args, kwargs, replays=True)

    def handle_aux(
        self, wrapped: Call, server: object, args: Args, kwargs: Kwargs
    ) -> object:
        return self._serve(wrapped, server, args, kwargs, replays=False)

    def record_call(
        self, wrapped: Call, _server: object, args: Args, kwargs: Kwargs
    ) -> object:
        exchange = current_exchange()
        error = kwargs.get("error")
        if exchange is not None:
            _stop_if_stopped(exchange, argument(args, kwargs, 0, "session"))
            _report_call(exchange, args, kwargs)
        if self._host.options.redact_state and isinstance(error, BaseException):
            kwargs = {**kwargs, "error": self.redaction.stand_in(error)}
        return wrapped(*args, **kwargs)

    def fail(
        self, wrapped: Call, _server: object, args: Args, kwargs: Kwargs
    ) -> object:
        exchange = current_exchange()
        error = argument(args, kwargs, 2, "error")
        if exchange is not None and isinstance(error, Exception):
            if is_provider_error(error):
                exchange.fail(error, phase=Phase.UPSTREAM_CALL)
            else:
                exchange.handler_raised(error)
        return wrapped(*args, **kwargs)

    def record_error(
        self, wrapped: Call, trace: object, args: Args, kwargs: Kwargs
    ) -> object:
        error = argument(args, kwargs, 0, "error")
        if isinstance(error, Exception):
            self._rollouts.record_error(trace, error)
        recorded = wrapped(*args, **kwargs)
        if self._host.options.redact_state and isinstance(error, Exception):
            self.redaction.redact_last_error(trace, error)
        return recorded

    def _serve(
        self,
        wrapped: Call,
        server: object,
        args: Args,
        kwargs: Kwargs,
        *,
        replays: bool,
    ) -> object:
        request = argument(args, kwargs, 0, "request")
        if not isinstance(request, web.Request):
            return wrapped(*args, **kwargs)
        secret = secret_of(argument(args, kwargs, 1, "dialect"), request.headers)
        session = session_of(server, secret)
        served = self._host.served(server)
        if session is None:
            served.registry.reject(dialect_of(request.path))
            return wrapped(*args, **kwargs)
        rollout = self._rollouts.find(server, secret, session)
        if rollout is None:
            return wrapped(*args, **kwargs)
        found = rollout

        async def handler(_request: web.Request) -> web.StreamResponse:
            note_stop(found, session)
            response = await response_of(wrapped, args, kwargs)
            note_stop(found, session)
            exchange = current_exchange()
            if replays and exchange is not None:
                _tell_replay(exchange, response.status)
            return response

        return serve_unchanged(served.serving, request, handler, rollout)


def _start(wrapped: Call, _server: object, args: Args, kwargs: Kwargs) -> object:
    async def start() -> object:
        with contrib.starting(_is_observed):
            return await result_of(wrapped, args, kwargs)

    return start()


def _is_observed(request: web.Request) -> bool:
    resource = request.match_info.route.resource
    return resource is not None and resource.canonical not in _SIDE_ROUTES


def _buffered_stream(
    wrapped: Call, _instance: object, args: Args, kwargs: Kwargs
) -> object:
    exchange = current_exchange()
    if exchange is not None:
        exchange.outlives_agent()
    return wrapped(*args, **kwargs)


def _replay_response(
    wrapped: Call, _instance: object, args: Args, kwargs: Kwargs
) -> object:
    exchange = current_exchange()
    if exchange is not None:
        exchange.replays()
    return wrapped(*args, **kwargs)


@shielded
def _report_call(exchange: Exchange, args: Args, kwargs: Kwargs) -> None:
    body = argument(args, kwargs, 2, "request")
    started = argument(args, kwargs, 3, "started")
    response = facts_of(kwargs.get("finish_reason"), kwargs.get("usage"))
    error = kwargs.get("error")
    if isinstance(body, dict):
        exchange.describe_request(body)
    if response:
        exchange.describe_response(response)
    if not isinstance(started, float):
        return
    started_ns = int(started * _NS_PER_S)
    if not isinstance(error, BaseException) or _is_lost_agent(exchange, error):
        exchange.upstream_called(started_ns, None)
    elif is_hook_error(error):
        # The task's own code failed over a call that was good.
        exchange.upstream_called(started_ns, None)
        exchange.handler_raised(error)
    else:
        exchange.upstream_called(started_ns, error)


def _is_lost_agent(exchange: Exchange, error: BaseException) -> bool:
    """Tell whether a call is recorded as failed only because the agent left."""
    failure = exchange.failure
    return (
        isinstance(error, ConnectionResetError)
        and failure is not None
        and failure.origin is Origin.AGENT
    )


def _stop_if_stopped(exchange: Exchange, session: object) -> None:
    if isinstance(exchange.rollout, Rollout):
        note_stop(exchange.rollout, session)


def _tell_replay(exchange: Exchange, status: int) -> None:
    # Whoever is answered otherwise than with a refusal, and for whom neither a call was
    # made nor anything failed, got the answer of an earlier request.
    called = exchange.called_upstream or exchange.failure is not None
    if not called and answer_of(status) is not Answer.REFUSING:
        exchange.replays()
