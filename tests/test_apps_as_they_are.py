"""Apps as people have them: all is traced, and not a byte of their answers changes."""

import asyncio
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Final

import pytest
from aiohttp import web
from aiohttp.typedefs import Handler

# The name is bound before contrib replaces `web.Application`.
from aiohttp.web import Application
from opentelemetry.instrumentation.aiohttp_server import AioHttpServerInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_intercept import RolloutRegistry, instrument_app
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve
from tests.served import attribute, exchange_spans

PREFIX: Final = "/rollout/{rollout_id}/v1"
AGENTS_TRACE: Final = "ab" * 16

HEADS: Final = {
    "plain": "Host: proxy",
    "bad_host": "Host: a:99999999",
    "empty_host": "Host:",
    "unsampled": f"Host: proxy\r\ntraceparent: 00-{AGENTS_TRACE}-{'cd' * 8}-00\r\n"
    "tracestate: a=b\r\nbaggage: c=d",
}

REQUESTS: Final = {
    "json": "POST /rollout/r1/v1/chat/completions",
    "stream": "POST /rollout/r1/v1/messages",
    "refusal": "POST /rollout/r1/v1/responses",
    "compressed": "GET /rollout/r1/v1/models",
    "head": "HEAD /rollout/r1/v1/models",
    "redirect": "GET /rollout/r1/v1/old?key=1",
}

OUTSIDE: Final = ("GET /health", "GET /nothing", "DELETE /health")

pytestmark = pytest.mark.filterwarnings(
    "ignore:Inheritance class _InstrumentedApplication:DeprecationWarning"
)


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer with what was sent."""
    return web.json_response({"got": await request.text(), "url": request.path_qs})


async def stream(request: web.Request) -> web.StreamResponse:
    """Answer in an event stream."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    for name in ("message_start", "ping", "message_stop"):
        await response.write(f'event: {name}\ndata: {{"type":"{name}"}}\n\n'.encode())
    return response


async def refuse(request: web.Request) -> web.StreamResponse:
    """Refuse by an exception that is an answer."""
    raise web.HTTPBadRequest(text="no such model", headers={"X-Reason": "model"})


async def compressed(request: web.Request) -> web.StreamResponse:
    """Answer with a compressed body and a cookie."""
    response = web.json_response({"data": ["m"] * 100})
    response.enable_compression(web.ContentCoding.deflate)
    response.set_cookie("k", "v")
    return response


async def redirect(request: web.Request) -> web.StreamResponse:
    """Send the agent elsewhere."""
    raise web.HTTPFound(f"/rollout/{request.match_info['rollout_id']}/v1/models")


@web.middleware
async def stamp(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Add a header, as a middleware of the app's own."""
    response = await handler(request)
    if not response.prepared:
        response.headers["X-Stamp"] = "1"
    return response


def routed(app: web.Application) -> web.Application:
    """Add the routes."""
    app.router.add_post(f"{PREFIX}/chat/completions", answer)
    app.router.add_post(f"{PREFIX}/messages", stream)
    app.router.add_post(f"{PREFIX}/responses", refuse)
    app.router.add_get(f"{PREFIX}/models", compressed)
    app.router.add_get(f"{PREFIX}/old", redirect)
    app.router.add_get("/health", answer)
    return app


BUILDERS: Final[dict[str, Callable[[], web.Application]]] = {
    "by_imported_name": lambda: routed(Application()),
    "tuple_of_none": lambda: routed(Application(middlewares=())),
    "tuple_of_one": lambda: routed(Application(middlewares=(stamp,))),
    "by_module": lambda: routed(web.Application(middlewares=[stamp])),
}

each_builder = pytest.mark.parametrize("builder", BUILDERS)
each_head = pytest.mark.parametrize("head", HEADS)


@contextmanager
def contrib() -> Iterator[InMemorySpanExporter]:
    """Instrument aiohttp's server with contrib, and give what it exports."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    AioHttpServerInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    AioHttpServerInstrumentor().uninstrument()
    provider.shutdown()


async def raw(url: str, line: str, head: str) -> bytes:
    """Send one request over a socket, and return every byte but the date."""
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = "" if line.startswith(("GET", "HEAD")) else '{"model": "m"}'
    writer.write(
        f"{line} HTTP/1.1\r\n{head}\r\nConnection: close\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
    )
    async with asyncio.timeout(60):
        data = await reader.read()
    writer.close()
    return re.sub(rb"\r\nDate: [^\r]+", b"", data, count=1)


async def all_answers(url: str, head: str) -> dict[str, bytes]:
    """Send every request once, those to other routes too."""
    lines = (*REQUESTS.values(), *OUTSIDE)
    return {line: await raw(url, line, head) for line in lines}


def link_traces(span: ReadableSpan) -> list[str]:
    """Give the trace ids that a span links to."""
    return [f"{link.context.trace_id:032x}" for link in span.links]


@each_head
@each_builder
async def test_answers_are_the_same_and_all_is_traced(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    builder: str,
    head: str,
) -> None:
    """However it was built and whatever is sent, the app answers as without us."""
    expected = await all_answers(await serve(BUILDERS[builder]()), HEADS[head])
    app = BUILDERS[builder]()
    instrument_app(app, registry)
    rollout = registry.open("r1")

    observed = await all_answers(await serve(app), HEADS[head])

    assert observed == expected
    assert expected[REQUESTS["json"]].startswith(b"HTTP/1.1 200 OK\r\n")
    assert expected[REQUESTS["stream"]].endswith(b"0\r\n\r\n")
    spans = exchange_spans(recorder)
    ended = {
        f"{span.name.split()[0]} {attribute(span, 'url.path')}": attribute(
            span, "intercept.exchange.outcome"
        )
        for span in spans
    }
    assert ended == {
        f"POST {PREFIX}/chat/completions": "ok",
        f"POST {PREFIX}/messages": "ok",
        f"POST {PREFIX}/responses": "rejected",
        f"GET {PREFIX}/models": "ok",
        f"HEAD {PREFIX}/models": "ok",
        f"GET {PREFIX}/old": "ok",
    }
    assert len(spans) == len(REQUESTS)
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context} == {
        rollout.trace_id
    }
    linked = [AGENTS_TRACE] if head == "unsampled" else []
    assert [link_traces(span) for span in spans] == [linked] * len(spans)


@each_head
@pytest.mark.parametrize("built", ["before", *BUILDERS])
async def test_with_contrib_active_the_answers_are_the_apps_own(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    built: str,
    head: str,
) -> None:
    """Contrib changes nothing on rollout routes, and makes no span there.

    It answers 500 to a host that it cannot parse: not where the exchange is ours.
    """
    build = BUILDERS["by_module" if built == "before" else built]
    expected = await all_answers(await serve(build()), HEADS[head])
    early = build() if built == "before" else None
    with contrib() as foreign:
        app = early or build()
        instrument_app(app, registry)
        registry.open("r1")

        url = await serve(app)
        observed = {line: await raw(url, line, HEADS[head]) for line in expected}

    ours = list(REQUESTS.values())
    assert [observed[line] for line in ours] == [expected[line] for line in ours]
    assert len(exchange_spans(recorder)) == len(ours)
    routes = {
        str((span.attributes or {}).get("http.route"))
        for span in foreign.get_finished_spans()
    }
    assert not [route for route in routes if route.startswith("/rollout")]


@each_builder
async def test_on_other_routes_contribs_answers_are_contribs(
    registry: RolloutRegistry, serve: Serve, builder: str
) -> None:
    """What contrib does to other routes, good or bad, stays as it is."""
    for head in HEADS.values():
        with contrib() as foreign:
            expected_url = await serve(BUILDERS[builder]())
            expected = [await raw(expected_url, line, head) for line in OUTSIDE]
            names = [span.name for span in foreign.get_finished_spans()]
        with contrib() as foreign:
            app = BUILDERS[builder]()
            instrument_app(app, registry)
            url = await serve(app)

            observed = [await raw(url, line, head) for line in OUTSIDE]

            assert observed == expected
            assert [span.name for span in foreign.get_finished_spans()] == names


@pytest.mark.parametrize("with_contrib", [False, True])
async def test_two_apps_that_share_their_middlewares_stay_apart(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    with_contrib: bool,
) -> None:
    """A list that the app was built from is not touched: its other app is untouched."""
    shared = [stamp]
    with contrib() if with_contrib else nullcontext():
        ours, theirs = (routed(Application(middlewares=shared)) for _ in range(2))
        instrument_app(ours, registry)
        registry.open("r1")
        urls = [await serve(ours), await serve(theirs)]

        ours_got, theirs_got = [
            await raw(url, REQUESTS["json"], HEADS["plain"]) for url in urls
        ]

    assert shared == [stamp]
    assert ours_got == theirs_got
    assert len(exchange_spans(recorder)) == 1
