"""The ``/vf/*`` routes: tools, user, stop and model of a rollout's environment.

Their failures reach the agent as a constant sentence with an error type.
"""

import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from aiohttp import web

from otel_intercept import failure as failures
from otel_intercept.semconv import ErrorType, Phase
from otel_intercept.server.answers import read_object, refuse
from otel_intercept.server.credential import Credential
from otel_intercept.server.intercepts import Registration
from otel_intercept.server.json_values import JsonObject, jsonable
from otel_intercept.server.table import RolloutTable
from otel_intercept.server.tool_defs import TOOL_PROTOCOLS, tool_defs_for

_logger = logging.getLogger("otel_intercept.server")

_Handler: TypeAlias = Callable[[web.Request, Registration], Awaitable[web.Response]]
Route: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]


class SideChannel:
    """The handlers of the side-channel routes.

    Args:
        table: Where rollouts are registered.
        credential: What every request must carry.
    """

    def __init__(self, table: RolloutTable, credential: Credential) -> None:
        self._table = table
        self._credential = credential

    def routes(self) -> list[web.RouteDef]:
        """Give the routes."""
        base = "/rollout/{rollout_id}/vf"
        return [
            web.post(f"{base}/tools/{{tool_name}}", self._guarded(self._call_tool)),
            web.get(f"{base}/tools", self._guarded(self._list_tools)),
            web.post(f"{base}/user", self._guarded(self._ask_user)),
            web.post(f"{base}/stop", self._guarded(self._ask_stop)),
            web.post(f"{base}/model", self._guarded(self._call_model)),
        ]

    def _guarded(self, handler: _Handler) -> Route:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if not self._credential.admits(request):
                return refuse(401, "Unauthorized")
            registration = self._table.active.get(request.match_info["rollout_id"])
            if registration is None:
                return refuse(404, "Rollout not found")
            return await handler(request, registration)

        return guarded

    async def _call_tool(
        self, request: web.Request, registration: Registration
    ) -> web.Response:
        handler = registration["tool_handler"]
        if handler is None:
            return refuse(404, "Tool proxy unavailable")
        body = await read_object(request)
        if isinstance(body, web.Response):
            return body
        arguments = body.get("arguments") or {}
        if not isinstance(arguments, dict):
            return refuse(400, "Tool arguments must be an object")
        tool_name = request.match_info["tool_name"]

        async def call() -> JsonObject:
            return {"result": await _result_of(handler(tool_name, arguments))}

        return await self._answer(call, "Tool call failed")

    async def _list_tools(
        self, request: web.Request, registration: Registration
    ) -> web.Response:
        protocol = request.query.get("protocol")
        if protocol not in TOOL_PROTOCOLS:
            return refuse(400, "Unsupported tool protocol")

        async def call() -> JsonObject:
            return {"tools": tool_defs_for(registration["tool_defs"], protocol)}

        return await self._answer(call, "Tool definitions unavailable")

    async def _ask_user(
        self, request: web.Request, registration: Registration
    ) -> web.Response:
        handler = registration["user_handler"]
        if handler is None:
            return web.json_response({"messages": []})
        body = await read_object(request)
        if isinstance(body, web.Response):
            return body
        transcript = body.get("transcript") or []
        if not isinstance(transcript, list):
            return refuse(400, "Transcript must be a list")

        async def call() -> JsonObject:
            return {"messages": await _result_of(handler(transcript)) or []}

        return await self._answer(call, "User call failed")

    async def _ask_stop(
        self, request: web.Request, registration: Registration
    ) -> web.Response:
        handler = registration["stop_handler"]
        if handler is None:
            return web.json_response({"done": False, "stop_condition": None})

        async def call() -> object:
            return await _result_of(handler())

        return await self._answer(call, "Stop check failed")

    async def _call_model(
        self, request: web.Request, registration: Registration
    ) -> web.Response:
        handler = registration["model_handler"]
        if handler is None:
            return refuse(404, "Model proxy unavailable")
        body = await read_object(request)
        if isinstance(body, web.Response):
            return body
        messages = body.get("messages")
        if not isinstance(messages, list):
            return refuse(400, "Model request messages must be a list")
        tools = body.get("tools")

        async def call() -> JsonObject:
            try:
                return {"message": await _result_of(handler(messages, tools))}
            except Exception as exc:
                # A model call that fails must not go unseen, on this route either.
                registration["rollout"].fail(exc, phase=Phase.UPSTREAM_CALL)
                raise

        return await self._answer(call, "Model call failed")

    async def _answer(
        self, call: Callable[[], Awaitable[object]], sentence: str
    ) -> web.Response:
        try:
            return web.json_response(await call())
        except Exception as exc:  # noqa: BLE001 - the environment's own code
            failures.triage(exc)
            failure = failures.describe(
                exc,
                phase=Phase.HANDLER,
                key=self._table.registry.telemetry.settings.fingerprint_key,
                default=ErrorType.HANDLER_ERROR,
            )
            _logger.warning(
                "a side-channel handler failed: error_type=%s", failure.error_type
            )
            error: Mapping[str, object] = {
                "error": sentence,
                "error_type": failure.error_type.value,
            }
            return web.json_response(error, status=500)


async def _result_of(value: object) -> object:
    if inspect.isawaitable(value):
        value = await value
    return jsonable(value)
