"""What is told of a request: method, route, retries; none of it the agent's text."""

import aiohttp
import pytest
from aiohttp import web

from otel_intercept.middleware.connections import Connections
from otel_intercept.middleware.incoming import Places
from otel_intercept.record import Request
from tests.conftest import Serve

ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
PARENT = f"00-{'5f' * 16}-{'a1' * 8}-01"


async def described(
    serve: Serve,
    headers: dict[str, str],
    method: str = "POST",
    route: str = ROUTE,
    scheme: str | None = None,
) -> list[Request]:
    """Return what is told of a request that comes twice."""
    places = Places(None, Connections())
    seen: list[Request] = []

    async def handle(request: web.Request) -> web.StreamResponse:
        if scheme is not None:
            request = request.clone(scheme=scheme)
        seen.append(places.of(request).describe(request))
        return web.Response()

    app = web.Application()
    app.router.add_route("*", route, handle)
    url = await serve(app) + "/rollout/r1/v1/chat/completions"
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.request(method, url, headers=headers) as response:
                assert response.status == 200
    return seen


@pytest.mark.parametrize(
    ("header", "retry_count", "is_remembered"),
    [
        (None, None, True),
        ("0", 0, True),
        ("2", 2, True),
        ("99", 99, True),
        ("007", 7, False),
        ("100", 99, False),
        ("9" * 100, 99, False),
        ("-1", None, False),
        ("many", None, False),
    ],
)
async def test_a_retry_count_is_a_small_number(
    serve: Serve, header: str | None, retry_count: int | None, is_remembered: bool
) -> None:
    """Only what is written as one of few is remembered: the agent may send anything."""
    headers = {} if header is None else {"X-Stainless-Retry-Count": header}

    first, second = await described(serve, headers)

    assert first == second
    assert first.retry_count == retry_count
    assert (first is second) is is_remembered


async def test_a_parent_is_a_link_of_its_own_request(serve: Serve) -> None:
    """The agent's trace is linked to, each time anew."""
    first, second = await described(serve, {"traceparent": PARENT})

    assert first.link == (int("5f" * 16, 16), int("a1" * 8, 16))
    assert first == second
    assert first is not second


async def test_an_unusual_method_is_not_told(serve: Serve) -> None:
    """A method beyond the usual ones has no name, and is not remembered."""
    first, second = await described(serve, {}, method="PROPFIND")

    assert first.method == "_OTHER"
    assert first is not second


@pytest.mark.parametrize(
    ("scheme", "told", "is_remembered"),
    [("http", "http", True), ("https", "https", True), ("gopher", "http", False)],
)
async def test_a_scheme_that_a_middleware_read_is_one_of_two(
    serve: Serve, scheme: str, told: str, is_remembered: bool
) -> None:
    """A proxy's header may hold any text: it is neither told nor remembered."""
    first, second = await described(serve, {}, scheme=scheme)

    assert first.scheme == second.scheme == told
    assert (first is second) is is_remembered


async def test_an_open_route_is_read_by_its_path(serve: Serve) -> None:
    """Where the route does not say the dialect, each request's path does."""
    first, second = await described(serve, {}, route="/rollout/{rollout_id}/{rest:.*}")

    assert first.dialect == "chat_completions"
    assert first is not second
