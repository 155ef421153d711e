"""Put the exchange around the handlers of an aiohttp app that exists already."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import StreamWriter
from aiohttp.typedefs import Handler, Middleware

from otel_intercept import failure as failures
from otel_intercept.current import enter, leave
from otel_intercept.errors import ConfigurationError, NotIntercepted
from otel_intercept.exchange import Exchange
from otel_intercept.idle import IdleRollouts
from otel_intercept.middleware.access_log import (
    shorten_access_line,
    shorten_access_log,
)
from otel_intercept.middleware.foreign import (
    add_restoring_middleware,
    call_restored,
    call_silenced,
)
from otel_intercept.middleware.incoming import Place
from otel_intercept.middleware.plain import send_plain
from otel_intercept.middleware.redacted import (
    fail_exchange,
    fail_unobserved,
    has_left,
    refuse_unknown,
    send_failure,
)
from otel_intercept.middleware.serving import (
    EXCHANGE,
    Serving,
    cancel_exchange,
    start_exchange,
)
from otel_intercept.middleware.writer import ON_WRITER
from otel_intercept.registry import RolloutRegistry

Resolver = Callable[[web.Request], str | None]

_REJECTED: Final = web.RequestKey("otel_intercept.rejected", bool)

_logger = logging.getLogger("otel_intercept.middleware")


@dataclass(slots=True)
class _Wiring:
    """What one instrumented app needs at request time."""

    app: web.Application
    registry: RolloutRegistry
    rollout_id: str | Resolver
    implicit: IdleRollouts | None
    serving: Serving


_WIRING: Final = web.AppKey("otel_intercept.wiring", _Wiring)


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
    known = app.get(_WIRING)
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
    wiring = _Wiring(app, registry, rollout_id, implicit, Serving(app))
    app[_WIRING] = wiring
    app.on_shutdown.append(_note_shutdown)
    app.on_cleanup.append(_end_implicit)
    add_restoring_middleware(app)
    app.middlewares.insert(0, _outermost(wiring))
    shorten_access_log()


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
    wiring = app.get(_WIRING)
    return None if wiring is None else (wiring.registry, wiring.rollout_id)


async def _note_shutdown(app: web.Application) -> None:
    app[_WIRING].serving.connections.shutting_down = True


async def _end_implicit(app: web.Application) -> None:
    implicit = app[_WIRING].implicit
    if implicit is not None:
        implicit.close_all()


def _idle_close_s(implicit: IdleRollouts | None) -> float | None:
    return None if implicit is None else implicit.idle_close_s


def _outermost(wiring: _Wiring) -> Middleware:
    registry, places = wiring.registry, wiring.serving.places
    find = registry.get if wiring.implicit is None else wiring.implicit.ensure
    key = wiring.rollout_id if isinstance(wiring.rollout_id, str) else None

    # A plain function: aiohttp awaits what it returns, and saves one coroutine.
    @web.middleware
    def intercept(
        request: web.Request, handler: Handler
    ) -> Awaitable[web.StreamResponse]:
        writer = request.writer
        if getattr(writer, ON_WRITER, None) is not None:
            return handler(request)
        info = request.match_info
        rollout_id = _resolve(wiring, request) if key is None else info.get(key)
        if rollout_id is None:
            return handler(request)
        place = places.get(info.route) or places.of(request)
        if place.apps_above and _is_seen(request):
            return handler(request)
        description = place.describe(request)
        shorten_access_line(description)
        rollout = find(rollout_id)
        if rollout is None:
            request[_REJECTED] = True
            registry.reject(description.dialect)
            return _pass_through(wiring, place, request, handler)
        exchange = start_exchange(place, request, writer, rollout, description)
        return _serve(place, request, handler, exchange, writer)

    return intercept


async def _serve(
    place: Place,
    request: web.Request,
    handler: Handler,
    exchange: Exchange,
    writer: AbstractStreamWriter,
) -> web.StreamResponse:
    try:
        token = enter(exchange)
        try:
            if place.foreign:
                response = await call_restored(request, handler)
            else:
                response = await handler(request)
        finally:
            leave(token)
        try:
            if (
                type(response) is web.Response
                and place.outermost
                and type(writer) is StreamWriter
                and exchange.returns_plainly()
                and await send_plain(writer, request, response, exchange)
            ):
                return response
            _check(response, exchange)
            exchange.handler_returned()
            if place.outermost and _is_sent_once(response):
                # aiohttp does the same next, but logs what is raised.
                await response.prepare(request)
                await response.write_eof()
        except ConnectionError:
            # With the agent gone, aiohttp meets the same error and drops the
            # connection. Otherwise it is of the body's own source, and aiohttp would
            # end the body cleanly.
            if not has_left(request):
                raise
    except web.HTTPException as exc:
        if exchange.answer_begun:
            return fail_exchange(request, exchange, exc)
        exchange.handler_returned()
        place.connections.end_with(request.task, exchange)
        raise
    except Exception as exc:  # noqa: BLE001 - whatever escapes becomes a redacted 500
        response = fail_exchange(request, exchange, exc)
        if place.outermost:
            place.connections.end_with(request.task, exchange)
            response = await send_failure(request, response)
    except BaseException as exc:
        final = place.outermost or not failures.is_cancellation(exc)
        cancel_exchange(place.connections, request, exchange, final=final)
        raise
    place.connections.end_with(request.task, exchange)
    return response


def _is_seen(request: web.Request) -> bool:
    return _REJECTED in request or EXCHANGE in request


async def _pass_through(
    wiring: _Wiring, place: Place, request: web.Request, handler: Handler
) -> web.StreamResponse:
    try:
        if place.foreign:
            return await call_silenced(request, handler)
        return await handler(request)
    except web.HTTPException:
        raise
    except NotIntercepted:
        return refuse_unknown()
    except Exception as exc:  # noqa: BLE001 - as above, without an exchange
        key = wiring.registry.telemetry.settings.fingerprint_key
        return fail_unobserved(request, exc, key)


def _check(response: object, exchange: Exchange) -> None:
    # aiohttp would log the repr of the one, and write the other into the first's body.
    if not isinstance(response, web.StreamResponse):
        raise TypeError("a handler must return a response")
    if exchange.answer_begun and not response.prepared:
        raise TypeError("a handler that has begun an answer must return that one")


def _is_sent_once(response: web.StreamResponse) -> bool:
    # What has a way of its own to be sent may do so again, as files are.
    kind = type(response)
    return kind.prepare is web.StreamResponse.prepare and kind.write_eof in {
        web.Response.write_eof,
        web.StreamResponse.write_eof,
    }


def _resolve(wiring: _Wiring, request: web.Request) -> str | None:
    resolve = wiring.rollout_id
    if isinstance(resolve, str):
        return request.match_info.get(resolve)
    try:
        rollout_id = resolve(request)
    except Exception as exc:  # noqa: BLE001 - a resolver's fault is not the agent's
        failures.triage(exc)
        _logger.warning("the rollout_id function raised; the request is not observed")
        # It may be a rollout's, so the agent's text stays out of the access log.
        shorten_access_line(wiring.serving.places.of(request).describe(request))
        return None
    return rollout_id if isinstance(rollout_id, str) else None
