"""See how an app is wired, without a request: its route, its instrumentation."""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from otel_intercept import RolloutRegistry
from otel_intercept.cli.doctor.evidence import Wiring
from otel_intercept.middleware.foreign import is_foreign
from otel_intercept.middleware.instrument import wiring_of
from otel_intercept.middleware.wiring import Resolver

DEFAULT_ROUTE: Final = "/rollout/{rollout_id}/v1/chat/completions"
ROLLOUT_ID: Final = "rollout_id"

_PLACEHOLDER: Final = re.compile(r"\{(\w+)\}")
_CALLS: Final = ("/chat/completions", "/messages", "/responses", "/completions")
_TAIL: Final = re.compile(r"\{\w+\}$")
_ID_LIKE: Final = re.compile(r"rollout|^id$|_id$")
_FILLED: Final = "doctor"


class Wired(NamedTuple):
    """How an app is wired.

    Args:
        wiring: What can be told of it.
        registry: What it is instrumented for, or None.
    """

    wiring: Wiring
    registry: RolloutRegistry | None


async def see(
    app: web.Application,
    *,
    route: str | None,
    wanted: str | Resolver | None,
    given: RolloutRegistry | None,
) -> Wired:
    """Look at the app's route for model calls, and at the apps on the way to it.

    Args:
        app: The app, before or after its runner was set up.
        route: The template to look at; by default the one that looks like a model call.
        wanted: What ``rollout_id`` should be, if that is known.
        given: The registry that the app was given, if any.
    """
    key = wanted if isinstance(wanted, str) else None
    apps, canonical = await _find(app, route)
    known = [(inner, found) for inner in apps if (found := wiring_of(inner))]
    registry, rollout_id = known[0][1] if known else (None, None)
    used = rollout_id if isinstance(rollout_id, str) else None
    template = canonical or route or DEFAULT_ROUTE
    return Wired(
        Wiring(
            route=_with_rollout_id(route or template, (key, used)),
            route_found=canonical is not None,
            instrumented=bool(known),
            key=used,
            placeholders=_placeholders(template),
            wanted=wanted is None or rollout_id is None or rollout_id == wanted,
            same_registry=given is None or registry is None or registry is given,
            foreign_outside=bool(known) and _is_foreign_above(apps, known[0][0]),
            telemetry_enabled=registry is None or registry.telemetry.enabled,
        ),
        registry,
    )


def _is_foreign_above(
    apps: Sequence[web.Application], instrumented: web.Application
) -> bool:
    return any(map(is_foreign, apps[: apps.index(instrumented)]))


async def _find(
    app: web.Application, route: str | None
) -> tuple[tuple[web.Application, ...], str | None]:
    templates = [route] if route is not None else [DEFAULT_ROUTE, *_candidates(app)]
    for template in templates:
        path = _PLACEHOLDER.sub(_FILLED, template)
        request = make_mocked_request("POST", path, app=app)
        match = await app.router.resolve(request)
        resource = match.route.resource
        if match.http_exception is None and resource is not None:
            return (app, *_below(match, app)), _fit(resource.canonical, template)
    return (app,), None


def _below(
    match: web.UrlMappingMatchInfo, app: web.Application
) -> Iterator[web.Application]:
    yield from (inner for inner in match.apps if inner is not app)


def _fit(canonical: str, template: str) -> str:
    # Of a route that takes any call, the call is the last placeholder.
    call = next((call for call in _CALLS if template.endswith(call)), "")
    if call and not canonical.endswith(call):
        return _TAIL.sub(call.lstrip("/"), canonical)
    return canonical


def _candidates(app: web.Application) -> Iterator[str]:
    canonicals = [
        route.resource.canonical
        for route in app.router.routes()
        if route.method in {"POST", "*"} and route.resource is not None
    ]
    for call in _CALLS:
        yield from (found for found in canonicals if found.endswith(call))
    for found in canonicals:
        if _TAIL.search(found):
            yield _TAIL.sub("chat/completions", found)


def _placeholders(template: str) -> tuple[str, ...]:
    return tuple(_PLACEHOLDER.findall(template))


def _with_rollout_id(template: str, known: Sequence[str | None]) -> str:
    """Name the placeholder of the rollout id so, and fill the others."""
    names = _placeholders(template)
    wanted = [name for name in (*known, ROLLOUT_ID) if name in names]
    wanted += [name for name in names if _ID_LIKE.search(name)]
    chosen = next(iter((*wanted, *names)), None)

    def fill(match: re.Match[str]) -> str:
        return "{rollout_id}" if match[1] == chosen else _FILLED

    return _PLACEHOLDER.sub(fill, template)
