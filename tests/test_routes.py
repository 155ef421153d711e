"""Where ours is the only middleware, it stands around the handlers themselves."""

from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.typedefs import Handler
from opentelemetry.trace import SpanKind

from otel_intercept import RolloutRegistry, exchange_from, instrument_app
from otel_intercept.middleware.routes import stands_alone, watch_routes
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve

CHAT = "/rollout/r1/v1/chat/completions"
ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
Change = Callable[[web.Application], None]


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer for a rollout, with the index of its exchange."""
    return web.json_response({"index": exchange_from(request).index})


async def health(request: web.Request) -> web.StreamResponse:
    """Answer for no rollout."""
    return web.json_response({"healthy": True})


@web.middleware
async def passes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do nothing."""
    return await handler(request)


class Model(web.View):
    """A view, which aiohttp calls and awaits."""

    async def post(self) -> web.StreamResponse:
        """Answer."""
        return await answer(self.request)


def app_of(handler: object = answer) -> web.Application:
    """Return an app with a rollout route and another one."""
    app = web.Application()
    if isinstance(handler, type) and issubclass(handler, web.View):
        app.router.add_view(ROUTE, handler)
    else:
        app.router.add_post(ROUTE, answer)
    app.router.add_get("/health", health)
    return app


def handlers(app: web.Application) -> list[object]:
    """Return the handlers of its routes."""
    return [route.handler for route in app.router.routes()]


def names(recorder: TelemetryRecorder) -> list[str]:
    """Return the names of the exchange spans."""
    recorder.flush()
    return [span.name for span in recorder.spans() if span.kind is SpanKind.SERVER]


async def ask(url: str, path: str, method: str = "POST") -> tuple[int, bytes]:
    """Ask once."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url + path) as response,
    ):
        return response.status, await response.read()


@pytest.mark.parametrize("kind", [answer, Model])
async def test_only_rollout_routes_get_something_around_them(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve, kind: object
) -> None:
    """From the first request on each is an exchange, and other routes are untouched."""
    app = app_of(kind)
    before = handlers(app)
    instrument_app(app, registry)
    url = await serve(app)
    registry.open("r1")

    replies = [await ask(url, CHAT) for _ in range(3)]
    other = await ask(url, "/health", "GET")

    assert replies == [(200, b'{"index": %d}' % index) for index in range(3)]
    assert other == (200, b'{"healthy": true}')
    assert names(recorder) == [f"POST {ROUTE}"] * 3
    changed = [one is not two for one, two in zip(before, handlers(app), strict=True)]
    assert changed == [True, False, False]
    assert getattr(handlers(app)[0], "__wrapped__", None) is before[0]


def beside_another(app: web.Application) -> None:
    """Put another middleware into the app."""
    app.middlewares.append(passes)


def below_a_sub_app(app: web.Application) -> None:
    """Mount an app with a middleware of its own."""
    app.add_subapp("/sub", web.Application(middlewares=[passes]))


@pytest.mark.parametrize("change", [beside_another, below_a_sub_app])
async def test_an_app_with_other_middlewares_keeps_them_all(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    change: Change,
) -> None:
    """Where others stand on the way, nothing of aiohttp's is replaced."""
    app = app_of()
    before = handlers(app)
    instrument_app(app, registry)
    change(app)
    url = await serve(app)
    registry.open("r1")

    replies = [await ask(url, CHAT) for _ in range(2)]

    assert [status for status, _ in replies] == [200, 200]
    assert names(recorder) == [f"POST {ROUTE}"] * 2
    assert handlers(app)[: len(before)] == before


async def test_a_mounted_app_is_served_by_its_middleware(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """An instrumented sub-app is alone in itself, but not on the way to it."""
    inner, outer = app_of(), web.Application()
    before = handlers(inner)
    instrument_app(inner, registry)
    outer.add_subapp("/api", inner)
    url = await serve(outer)
    registry.open("r1")

    replies = [await ask(url, "/api" + CHAT) for _ in range(2)]

    assert [status for status, _ in replies] == [200, 200]
    assert names(recorder) == [f"POST /api{ROUTE}"] * 2
    assert handlers(inner) == before


async def test_a_resolver_sees_every_route(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A function may find a rollout in any request, so the middleware stays."""
    app = app_of()
    before = handlers(app)
    instrument_app(app, registry, rollout_id=lambda _request: "r1")
    url = await serve(app)
    registry.open("r1")

    replies = [await ask(url, path, method) for path, method in CASES]

    assert [status for status, _ in replies] == [200, 200, 404]
    assert len(names(recorder)) == 3
    assert handlers(app) == before


CASES = ((CHAT, "POST"), ("/health", "GET"), ("/none", "GET"))


async def test_a_request_that_no_route_takes_is_answered_by_aiohttp(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """Also as the first one, which finds out that nothing else is on the way."""
    app = app_of()
    instrument_app(app, registry)
    url = await serve(app)
    registry.open("r1")

    statuses = [
        (await ask(url, path, method))[0]
        for path, method in (("/none", "GET"), (CHAT, "PUT"), (CHAT, "POST"))
    ]

    assert statuses == [404, 405, 200]
    assert names(recorder) == [f"POST {ROUTE}"]


async def test_a_handler_that_serves_through_another_makes_one_exchange(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """What is handed on to another route's handler is one exchange, or one refusal."""

    async def hands_on(request: web.Request) -> web.StreamResponse:
        (chat,) = [
            route.handler
            for route in app.router.routes()
            if route.resource is not None and route.resource.canonical == ROUTE
        ]
        return await chat(request)

    app = app_of()
    app.router.add_post("/rollout/{rollout_id}/alias", hands_on)
    instrument_app(app, registry)
    url = await serve(app)
    registry.open("r1")

    replies = [await ask(url, "/rollout/r1/alias") for _ in range(2)]

    assert replies == [(200, b'{"index": 0}'), (200, b'{"index": 1}')]
    assert names(recorder) == ["POST /rollout/{rollout_id}/alias"] * 2

    await ask(url, "/rollout/unknown/alias")

    recorder.flush()
    rejected = [
        point.value
        for point in recorder.metrics()
        if point.name == "intercept.exchanges"
        and point.attributes["intercept.exchange.outcome"] == "rejected"
        and point.value
    ]
    assert rejected == [1]


async def test_a_release_with_other_names_is_left_as_it_is(
    registry: RolloutRegistry,
) -> None:
    """Without the names that are known nothing is replaced: the middleware runs."""
    app = app_of()
    app.middlewares.append(passes)
    app.freeze()
    setattr(app, "_run_middlewares", None)  # noqa: B010 - as another release has it
    before = handlers(app)

    watch_routes(app, "rollout_id", lambda _route, _handler: answer)

    assert stands_alone(app, passes)
    assert handlers(app) == before


async def test_a_route_that_cannot_be_replaced_keeps_the_middleware() -> None:
    """Middlewares are left out only once every rollout route has what stands around."""

    class Fixed(web.ResourceRoute):
        @property
        def handler(self) -> Handler:
            return answer

    app = app_of()
    app.middlewares.append(passes)
    resource = app.router.add_resource("/fixed/{rollout_id}")
    resource.register_route(Fixed("POST", answer, resource))
    app.freeze()

    watch_routes(app, "rollout_id", lambda _route, _handler: health)

    assert getattr(app, "_run_middlewares") is True  # noqa: B009 - it has no public name


@pytest.mark.parametrize("change", [None, beside_another])
@pytest.mark.parametrize("handler", [answer, Model])
async def test_a_route_that_is_added_while_the_app_runs_is_seen(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    change: Change | None,
    handler: Callable[[web.Request], Awaitable[web.StreamResponse]] | type[web.View],
) -> None:
    """A frozen router takes no more resources, but a resource takes more routes."""
    app = web.Application()
    resource = app.router.add_resource(ROUTE)
    other = app.router.add_resource("/health")
    resource.add_route("GET", answer)
    instrument_app(app, registry)
    if change is not None:
        change(app)
    url = await serve(app)
    registry.open("r1")
    await ask(url, CHAT, "GET")

    resource.add_route("POST", handler)
    other.add_route("POST", health)

    assert await ask(url, CHAT) == (200, b'{"index": 1}')
    assert await ask(url, "/health") == (200, b'{"healthy": true}')
    assert names(recorder) == [f"GET {ROUTE}", f"POST {ROUTE}"]


async def test_a_running_app_takes_nothing_else(
    registry: RolloutRegistry, serve: Serve
) -> None:
    """There is no other way for a route or a middleware to come later."""
    app = app_of()
    instrument_app(app, registry)
    await serve(app)

    with pytest.raises(RuntimeError):
        app.router.add_post("/late/{rollout_id}", answer)
    with pytest.raises(RuntimeError):
        app.router.add_resource("/late/{rollout_id}")
    with pytest.raises(RuntimeError):
        app.router.add_static("/late", "tests")
    with pytest.raises(RuntimeError):
        app.add_subapp("/late", web.Application())
    with pytest.raises(RuntimeError):
        app.middlewares.append(passes)
