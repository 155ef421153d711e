"""The relay's own routes: open, look at and close a rollout; health."""

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from aiohttp import web

from otel_intercept.errors import ConfigurationError, RolloutExistsError
from otel_intercept.idle import IdleRollouts
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import RolloutOutcome
from otel_intercept.server.answers import read_object, refuse
from otel_intercept.server.credential import Credential
from otel_intercept.server.json_values import JsonObject

Route: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_FIELDS: Final = frozenset({"attributes", "trace_id", "parent"})
_OUTCOMES: Final = (
    RolloutOutcome.COMPLETED,
    RolloutOutcome.FAILED,
    RolloutOutcome.CANCELLED,
    RolloutOutcome.STOPPED,
)


class RelayControl:
    """The handlers of the control routes.

    Args:
        rollouts: The relay's rollouts.
        credential: What control requests must carry, if anything.
    """

    def __init__(self, rollouts: IdleRollouts, credential: Credential | None) -> None:
        self._rollouts = rollouts
        self._credential = credential

    def routes(self) -> list[web.RouteDef]:
        """Give the routes."""
        path = "/rollout/{rollout_id}"
        return [
            web.put(path, self._guarded(self._open)),
            web.get(path, self._guarded(self._status), allow_head=False),
            web.delete(path, self._guarded(self._close)),
            web.get("/health", _health),
        ]

    def _guarded(self, handler: Route) -> Route:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if self._credential is None or self._credential.admits(request):
                return await handler(request)
            return refuse(401, "Unauthorized")

        return guarded

    async def _open(self, request: web.Request) -> web.StreamResponse:
        body: JsonObject | web.Response = {}
        if request.body_exists:
            body = await read_object(request)
        if isinstance(body, web.Response):
            return body
        attributes = body.get("attributes", {})
        trace_id, parent = body.get("trace_id"), body.get("parent")
        if not (body.keys() <= _FIELDS and isinstance(attributes, dict)):
            return refuse(400, "expected an object of attributes, trace_id and parent")
        if not isinstance(trace_id, str | None) or not isinstance(parent, str | None):
            return refuse(400, "trace_id and parent must be strings")
        try:
            rollout = self._rollouts.open(
                request.match_info["rollout_id"],
                attributes=attributes,
                trace_id=trace_id,
                parent=parent,
            )
        except RolloutExistsError:
            return refuse(409, "the rollout is open: close it first")
        except ConfigurationError:
            return refuse(
                400,
                "malformed: a rollout id has 1 to 256 characters, a trace_id 32 hex "
                "digits, a parent is a W3C traceparent of the same trace",
            )
        return web.json_response(_names(rollout), status=201)

    async def _status(self, request: web.Request) -> web.StreamResponse:
        rollout_id = request.match_info["rollout_id"]
        rollout = self._rollouts.registry.get(rollout_id)
        if rollout is None:
            return refuse(404, "Rollout not found")
        return web.json_response(_facts(rollout) | {"running": rollout.running})

    async def _close(self, request: web.Request) -> web.StreamResponse:
        asked = request.query.get("outcome")
        outcome = next((known for known in _OUTCOMES if known.value == asked), None)
        if asked is not None and outcome is None:
            return refuse(
                400, "outcome must be completed, failed, cancelled or stopped"
            )
        rollout_id = request.match_info["rollout_id"]
        rollout = self._rollouts.registry.close(rollout_id, outcome=outcome)
        if rollout is None:
            return refuse(404, "Rollout not found")
        return web.json_response(_facts(rollout))


def _names(rollout: Rollout) -> JsonObject:
    return {
        "rollout_id": rollout.rollout_id,
        "trace_id": rollout.trace_id,
        "traceparent": rollout.traceparent,
    }


def _facts(rollout: Rollout) -> JsonObject:
    """Tell how a rollout stands; an open one can only have failed so far."""
    error = rollout.error
    so_far = RolloutOutcome.FAILED if error is not None else None
    outcome = rollout.outcome or so_far
    return _names(rollout) | {
        "open": not rollout.closed,
        "exchanges": rollout.exchanges,
        "failures": rollout.failures,
        "outcome": None if outcome is None else outcome.value,
        "error_type": None if error is None else error.failure.error_type.value,
    }


async def _health(request: web.Request) -> web.StreamResponse:
    return web.json_response({"status": "ok"})
