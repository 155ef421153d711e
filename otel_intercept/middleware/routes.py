"""Stand around the handlers themselves where an app has no other middleware.

aiohttp puts a middleware of its own around those of an app, and looks the whole stack
up for each request. For an app with a single one that is three times what ours takes
to be called, and it says nothing: what aiohttp's own sets is set already.
"""

from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

_HANDLER: Final = "_handler"
_RUNS_MIDDLEWARES: Final = "_run_middlewares"
_REGISTER: Final = "register_route"

Around = Callable[[web.AbstractRoute, Handler], Handler]
"""Returns what stands around the handler of a route."""


def stands_alone(app: web.Application, middleware: Middleware) -> bool:
    """Tell whether a middleware is the only one on the way to each handler.

    Args:
        app: A frozen app.
        middleware: One of its own.
    """
    return list(app.middlewares) == [middleware] and not any(
        isinstance(resource, web.PrefixedSubAppResource)
        for resource in app.router.resources()
    )


def watch_routes(app: web.Application, key: str, around: Around) -> None:
    """Stand around the handlers of an app's rollout routes, and run no middleware.

    aiohttp has no public way to do either. Where a release of it has no such names, or
    does not do as they say, the middleware runs, and what stands around a handler finds
    that it has seen the request.

    Args:
        app: A frozen app whose only middleware may be left out.
        key: Of the rollout id in ``match_info``.
        around: Makes what stands around a handler.
    """
    if getattr(app, _RUNS_MIDDLEWARES, None) is not True:
        return
    resources = [it for it in app.router.resources() if f"{{{key}}}" in it.canonical]
    routes = [route for resource in resources for route in resource]
    if all(_replace(route, around(route, route.handler)) for route in routes):
        for resource in resources:
            _watch_late(resource, around)
        setattr(app, _RUNS_MIDDLEWARES, False)


def _watch_late(resource: web.AbstractResource, around: Around) -> None:
    """Stand around what is added to a resource from now on.

    A frozen router takes no more resources, but those that it has take routes.
    """
    if not isinstance(resource, web.Resource):
        return
    register = resource.register_route

    def register_late(route: web.ResourceRoute) -> None:
        register(route)
        _replace(route, around(route, route.handler))

    setattr(resource, _REGISTER, register_late)


def _replace(route: web.AbstractRoute, handler: Handler) -> bool:
    if getattr(route, _HANDLER, None) is not route.handler:
        return False
    setattr(route, _HANDLER, handler)
    return route.handler is handler
