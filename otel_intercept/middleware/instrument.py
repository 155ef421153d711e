"""Put the exchange around the handlers of an aiohttp app that exists already."""

from collections.abc import Awaitable
from functools import partial, wraps

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from otel_intercept.errors import ConfigurationError, NotIntercepted
from otel_intercept.exchange import Exchange
from otel_intercept.idle import IdleRollouts
from otel_intercept.middleware.access_log import shorten_access_log
from otel_intercept.middleware.answering import answer, is_seen
from otel_intercept.middleware.foreign import add_restoring_middleware
from otel_intercept.middleware.routes import stands_alone, watch_routes
from otel_intercept.middleware.server_log import redact_log_of, redact_logs
from otel_intercept.middleware.serving import EXCHANGE, Serving
from otel_intercept.middleware.wiring import WIRING, Resolver, Wiring, resolve
from otel_intercept.middleware.writer import ON_WRITER
from otel_intercept.registry import RolloutRegistry


def instrument_app(
    app: web.Application,
    registry: RolloutRegistry,
    *,
    rollout_id: str | Resolver = "rollout_id",
    idle_close_s: float | None = None,
) -> None:
    """Observe every request of an app that belongs to a rollout.

    Works on an app that exists, before its runner is set up, and on a sub-app before it
    is mounted. On rollout routes it makes the SERVER span itself and keeps the contrib
    aiohttp-server instrumentation out; other routes are not touched. Instrument the
    root app rather than a sub-app where the choice is free: what wraps a sub-app from
    outside cannot be kept out.

    An exception that escapes a rollout handler becomes a redacted 500 before aiohttp
    logs it; after the answer has begun the connection is cut. ``web.HTTPException`` is
    an answer and passes. Cancellations and other ``BaseException`` are never caught.

    In an app without sub-apps that has no other middleware, and whose rollout ids are
    found by a ``match_info`` key, it stands around the handlers of the rollout routes
    themselves from the first request on, and of those that are added to a resource
    later.

    Idempotent for the same arguments.

    Args:
        app: The application.
        registry: Where the rollouts are open.
        rollout_id: The ``match_info`` key of the rollout id, or a function of the
            request that returns it, or None for a request that is no rollout's.
        idle_close_s: For apps that do not know when a rollout begins and ends: its
            first request opens it, and it is closed as ``abandoned`` after so many
            seconds without a running exchange, or as ``aborted`` when the app stops.
            `RolloutRegistry.close` ends it sooner; what the app opens itself is left
            alone. Beyond 16,384 of them, requests of further ids are rejected. None
            (the default) rejects every request of a rollout that is not open.

    Raises:
        ConfigurationError: The app is frozen, or is instrumented for another registry
            or with another ``rollout_id`` or ``idle_close_s``; or ``idle_close_s`` is
            not above 0.
    """
    implicit = None if idle_close_s is None else IdleRollouts(registry, idle_close_s)
    wire_app(app, registry, rollout_id=rollout_id, implicit=implicit)


def wire_app(
    app: web.Application,
    registry: RolloutRegistry,
    *,
    rollout_id: str | Resolver,
    implicit: IdleRollouts | None,
) -> None:
    """Do what `instrument_app` does, with rollouts that the caller opens as well.

    Raises:
        ConfigurationError: As `instrument_app`.
    """
    known = app.get(WIRING)
    if known is not None:
        same = known.registry is registry and known.rollout_id == rollout_id
        if same and _idle_close_s(known.implicit) == _idle_close_s(implicit):
            return
        raise ConfigurationError(
            "the app is instrumented for another registry, or with another rollout_id "
            "or idle_close_s: use one registry per app, and one function and one "
            "idle_close_s for all of its routes"
        )
    if app.frozen or app.pre_frozen:
        raise ConfigurationError(
            "the app is frozen: call instrument_app before AppRunner.setup(), "
            "and for a sub-app before add_subapp()"
        )
    find = registry.get if implicit is None else implicit.ensure
    recorded = registry.telemetry.intake is not None
    wiring = Wiring(app, registry, rollout_id, implicit, Serving(app), find, recorded)
    app[WIRING] = wiring
    app.on_shutdown.append(_note_shutdown)
    app.on_cleanup.append(_end_implicit)
    add_restoring_middleware(app)
    app.middlewares.insert(0, _outermost(wiring))
    shorten_access_log()
    redact_log_of(app)


def exchange_from(request: web.Request) -> Exchange:
    """Return the exchange that a rollout handler is serving.

    Raises:
        NotIntercepted: The request belongs to no open rollout, or the app is not
            instrumented. Where it escapes from a rollout route, the agent gets a 404.
    """
    exchange: object = getattr(request.writer, ON_WRITER, None) or request.get(EXCHANGE)
    if not isinstance(exchange, Exchange):
        raise NotIntercepted(
            "this request belongs to no open rollout: check that instrument_app was "
            "called on the root app, and that the rollout is open"
        )
    return exchange


def wiring_of(app: web.Application) -> tuple[RolloutRegistry, str | Resolver] | None:
    """Return what an app is instrumented with; None if it is not. Changes nothing."""
    wiring = app.get(WIRING)
    return None if wiring is None else (wiring.registry, wiring.rollout_id)


async def _note_shutdown(app: web.Application) -> None:
    app[WIRING].serving.connections.shutting_down = True


async def _end_implicit(app: web.Application) -> None:
    implicit = app[WIRING].implicit
    if implicit is not None:
        implicit.close_all()


def _idle_close_s(implicit: IdleRollouts | None) -> float | None:
    return None if implicit is None else implicit.idle_close_s


def _outermost(wiring: Wiring) -> Middleware:
    places = wiring.serving.places
    key = wiring.rollout_id if isinstance(wiring.rollout_id, str) else None
    looked = False

    # A plain function: aiohttp awaits what it returns, and saves one coroutine.
    @web.middleware
    def intercept(
        request: web.Request, handler: Handler
    ) -> Awaitable[web.StreamResponse]:
        nonlocal looked
        if not looked:
            # All routes and middlewares are known by now: aiohttp takes no more.
            looked = True
            redact_logs(request)
            alone = request.match_info.apps == (wiring.app,)
            if key and alone and stands_alone(wiring.app, intercept):
                watch_routes(wiring.app, key, partial(_at_route, wiring, key))
                return request.match_info.handler(request)
        writer = request.writer
        if getattr(writer, ON_WRITER, None) is not None:
            return handler(request)
        info = request.match_info
        rollout_id = resolve(wiring, request) if key is None else info.get(key)
        if rollout_id is None:
            return handler(request)
        place = places.get(info.route) or places.of(request)
        if place.apps_above and is_seen(request):
            return handler(request)
        return answer(wiring, place, rollout_id, request, handler, writer)

    return intercept


def _at_route(
    wiring: Wiring, key: str, route: web.AbstractRoute, handler: Handler
) -> Handler:
    place = wiring.serving.places.at(route, (wiring.app,))

    @wraps(handler, updated=())
    def observed(request: web.Request) -> Awaitable[web.StreamResponse]:
        writer = request.writer
        rollout_id = request.match_info.get(key)
        if rollout_id is None or getattr(writer, ON_WRITER, None) is not None:
            return handler(request)
        return answer(wiring, place, rollout_id, request, handler, writer)

    return observed
