"""Get on with the contrib aiohttp-server instrumentation, and with client ones.

On rollout routes contrib's middleware is kept silent by its own switch, which also
silences instrumented clients; so the handler gets its context back behind it.
"""

from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_http_instrumentation

_FOREIGN: Final = "opentelemetry.instrumentation."
_CONTEXT: Final = web.RequestKey("otel_intercept.context", Context)
_RESTORED: Final = web.AppKey("otel_intercept.context_restored", bool)


def add_restoring_middleware(app: web.Application) -> None:
    """Give handlers their context back behind contrib's middleware, where it stands."""
    if is_foreign(app):
        app.middlewares.append(_innermost(app))
        app[_RESTORED] = True


def silence(app: web.Application, concerns: Callable[[web.Request], bool]) -> None:
    """Keep contrib's middleware, where it stands, silent on some requests of an app.

    Args:
        app: An app of others, not frozen yet. Without contrib it is left as it is.
        concerns: Tells which requests.
    """
    if not is_foreign(app):
        return

    @web.middleware
    async def silenced(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not concerns(request):
            return await handler(request)
        with suppress_http_instrumentation():
            return await handler(request)

    app.middlewares.insert(0, silenced)


async def call_silenced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Call the handler with contrib's middleware kept silent."""
    with suppress_http_instrumentation():
        return await handler(request)


async def call_restored(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do the same, and give the handler the current context back behind it."""
    request[_CONTEXT] = otel_context.get_current()
    return await call_silenced(request, handler)


def _innermost(app: web.Application) -> Middleware:
    @web.middleware
    async def restore(request: web.Request, handler: Handler) -> web.StreamResponse:
        context = request.get(_CONTEXT)
        if context is None or _is_foreign_below(request, app):
            return await handler(request)
        token = otel_context.attach(context)
        try:
            return await handler(request)
        finally:
            otel_context.detach(token)

    return restore


def is_foreign(app: web.Application) -> bool:
    """Tell whether middleware of contrib stands in the app."""
    return any(
        getattr(middleware, "__module__", "").startswith(_FOREIGN)
        for middleware in app.middlewares
    )


def _is_foreign_below(request: web.Request, app: web.Application) -> bool:
    apps = request.match_info.apps
    below = apps[apps.index(app) + 1 :]
    return any(is_foreign(inner) and _RESTORED not in inner for inner in below)
