"""The middleware on apps that exist: what it sees, and what it leaves alone."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from opentelemetry import context as otel_context
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode

from otel_intercept import (
    ConfigurationError,
    ErrorType,
    ExchangeOutcome,
    InterceptionError,
    NotIntercepted,
    Phase,
    RolloutRegistry,
    StreamInterrupted,
    exchange_from,
    instrument_app,
)
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import Serve, logged
from tests.served import settle, until

SECRET = "sk-canary-4f9a1c"
CHAT = "/rollout/r1/v1/chat/completions"
ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def passes(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Do nothing."""
    return await handler(request)


@pytest.fixture(params=["alone", "beside another"])
def serve(request: pytest.FixtureRequest, serve: Serve) -> Serve:
    """Serve apps with our middleware alone, or with another one below it."""

    async def start(app: web.Application, *, handler_cancellation: bool = False) -> str:
        if request.param != "alone":
            app.middlewares.append(passes)
        return await serve(app, handler_cancellation=handler_cancellation)

    return start


def app_of(handler: Handler, registry: RolloutRegistry) -> web.Application:
    """Return an instrumented app with one rollout route."""
    app = web.Application()
    app.router.add_post(ROUTE, handler)
    instrument_app(app, registry)
    return app


def exchange_spans(recorder: TelemetryRecorder) -> list[ReadableSpan]:
    """Return the exchange spans in the order of their ends."""
    recorder.flush()
    return [span for span in recorder.spans() if span.kind is SpanKind.SERVER]


def attribute(span: ReadableSpan, key: str) -> object:
    """Return one attribute of a span, or None."""
    return (span.attributes or {}).get(key)


def outcomes(recorder: TelemetryRecorder) -> list[object]:
    """Return the outcomes of all exchanges."""
    return [
        attribute(span, "intercept.exchange.outcome")
        for span in exchange_spans(recorder)
    ]


async def post(
    url: str, path: str = CHAT, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """Post once; return status and body."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(url + path, json={}, headers=headers) as response,
    ):
        return response.status, await response.read()


async def ok(request: web.Request) -> web.StreamResponse:
    """Answer."""
    return web.json_response({"ok": True})


async def raises(request: web.Request) -> web.StreamResponse:
    """Fail with a secret in the text."""
    raise RuntimeError(f"GET https://up/?key={SECRET}")


async def test_an_exchange_is_a_server_span_below_the_rollout(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """An answered request is one SERVER span in the rollout's trace, named by route."""
    url = await serve(app_of(ok, registry))
    rollout = registry.open("r1")

    status, _ = await post(url, CHAT + f"?token={SECRET}")

    (span,) = exchange_spans(recorder)
    assert status == 200
    assert span.name == f"POST {ROUTE}"
    assert span.parent is not None
    assert span.parent.span_id == rollout.ref.span_id
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == rollout.trace_id
    assert span.status.status_code is StatusCode.UNSET
    assert attribute(span, "http.route") == ROUTE
    assert attribute(span, "url.path") == ROUTE
    assert attribute(span, "http.response.status_code") == 200
    assert attribute(span, "intercept.exchange.outcome") == "ok"
    assert attribute(span, "intercept.exchange.index") == 0
    assert attribute(span, "intercept.rollout.id") == "r1"


async def test_an_escaping_exception_becomes_a_redacted_500(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The agent gets type and trace id without text, and no log says more."""
    caplog.set_level(logging.DEBUG)
    url = await serve(app_of(raises, registry))
    state: dict[str, object] = {}
    rollout = registry.open("r1", state=state)

    status, body = await post(url)

    (span,) = exchange_spans(recorder)
    assert status == 500
    assert rollout.trace_id.encode() in body
    assert b"handler_error" in body
    assert SECRET.encode() not in body + recorder.exported_bytes()
    assert SECRET not in logged(caplog)
    assert attribute(span, "intercept.exchange.outcome") == "handler_failed"
    assert attribute(span, "error.type") == "handler_error"
    assert type(state["error"]) is InterceptionError


async def test_an_exception_after_prepare_cuts_the_connection(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The agent sees a truncated body, and only a redacted line is logged."""
    caplog.set_level(logging.DEBUG)

    async def breaks(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        raise RuntimeError(SECRET)

    url = await serve(app_of(breaks, registry))
    rollout = registry.open("r1")

    with pytest.raises(aiohttp.ClientPayloadError):
        await post(url)

    (span,) = exchange_spans(recorder)
    assert attribute(span, "intercept.exchange.outcome") == "cut"
    assert attribute(span, "http.response.status_code") == 200
    assert attribute(span, "intercept.stream.chunks") == 1
    assert type(rollout.error) is StreamInterrupted
    assert SECRET not in logged(caplog)
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_a_late_http_exception_writes_no_second_status_line(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """An HTTPException after the answer has begun cuts it instead of nesting in it."""

    async def late(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        raise web.HTTPBadRequest(text=SECRET)

    host, port = (await serve(app_of(late, registry)))[7:].split(":")
    registry.open("r1")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    )

    received = await reader.read()

    writer.close()
    assert received.count(b"HTTP/1.1") == 1
    assert not received.endswith(b"0\r\n\r\n")
    assert outcomes(recorder) == ["cut"]


async def test_a_second_response_is_not_written_into_the_first(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A handler that begins one answer and returns another cuts the first."""

    async def confused(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: 1\n\n")
        return web.json_response({"other": True})

    url = await serve(app_of(confused, registry))
    registry.open("r1")

    with pytest.raises(aiohttp.ClientPayloadError):
        await post(url)

    assert outcomes(recorder) == ["cut"]


@pytest.mark.parametrize(
    ("raised", "outcome", "error_type"),
    [
        (web.HTTPBadRequest, "rejected", None),
        (web.HTTPNotFound, "rejected", None),
        (web.HTTPTooManyRequests, "upstream_failed", "upstream_rate_limited"),
        (web.HTTPServiceUnavailable, "upstream_failed", "upstream_overloaded"),
        (web.HTTPGatewayTimeout, "upstream_failed", "upstream_timeout"),
        (web.HTTPInternalServerError, "upstream_failed", "upstream_server_error"),
    ],
)
async def test_an_http_exception_is_an_answer(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    raised: type[web.HTTPException],
    outcome: str,
    error_type: str | None,
) -> None:
    """A raised HTTPException reaches the agent as it is, and its status decides."""

    async def refuses(request: web.Request) -> web.StreamResponse:
        raise raised(text="as it is")

    url = await serve(app_of(refuses, registry))
    registry.open("r1")

    status, body = await post(url)

    (span,) = exchange_spans(recorder)
    assert (status, body) == (raised.status_code, b"as it is")
    assert attribute(span, "intercept.exchange.outcome") == outcome
    assert attribute(span, "error.type") == error_type


async def test_a_handler_without_a_response_fails_without_its_repr(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Aiohttp would log the repr of what the handler returned; nobody sees it here."""

    async def wrong(request: web.Request) -> web.StreamResponse:
        return SECRET  # type: ignore[return-value]  # the mistake under test

    url = await serve(app_of(wrong, registry))
    registry.open("r1")

    status, body = await post(url)

    assert status == 500
    assert SECRET not in logged(caplog) + body.decode()
    assert outcomes(recorder) == ["handler_failed"]


@pytest.mark.parametrize("raised", [RuntimeError(SECRET), ConnectionResetError(SECRET)])
async def test_a_body_generator_that_raises_is_cut_and_redacted(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    raised: Exception,
) -> None:
    """What an async body raises while aiohttp writes it never reaches aiohttp's log."""

    async def body() -> AsyncIterator[bytes]:
        yield b'data: {"choices": []}\n\n'
        raise raised

    async def streams(request: web.Request) -> web.StreamResponse:
        return web.Response(body=body(), content_type="text/event-stream")

    url = await serve(app_of(streams, registry))
    registry.open("r1")

    with pytest.raises(aiohttp.ClientPayloadError):
        await post(url)

    assert SECRET not in logged(caplog)
    assert outcomes(recorder) == ["cut"]


async def test_a_swallowed_future_failure_is_silent_empty(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """The bug that started this: a clean [DONE] over a failed upstream is an error."""

    async def seed(request: web.Request) -> web.StreamResponse:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        assert exchange_from(request).watch(future) is future
        future.set_exception(TimeoutError(SECRET))
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b"data: [DONE]\n\n")
        with contextlib.suppress(TimeoutError):
            await future
        await response.write_eof()
        return response

    url = await serve(app_of(seed, registry))
    state: dict[str, object] = {}
    registry.open("r1", state=state)

    status, body = await post(url)

    (span,) = exchange_spans(recorder)
    (event,) = span.events
    assert (status, body) == (200, b"data: [DONE]\n\n")
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert attribute(span, "intercept.exchange.outcome") == "silent_empty"
    assert attribute(span, "error.type") == "upstream_timeout"
    assert event.name == "exception"
    assert (event.attributes or {})["intercept.failure.phase"] == "response_future"
    assert type(state["error"]) is StreamInterrupted


async def test_an_agent_that_left_before_the_answer_is_no_error(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A socket closed during the wait gives agent_gone, without failing the rollout."""
    gone = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        await gone.wait()
        await until(lambda: request.transport is None)
        return web.json_response({})

    host, port = (await serve(app_of(waits, registry)))[7:].split(":")
    rollout = registry.open("r1")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    )
    await settle()
    writer.close()
    gone.set()
    await until(lambda: outcomes(recorder))

    assert outcomes(recorder) == ["agent_gone"]
    assert rollout.error is None


async def test_an_agent_that_left_during_the_stream_is_cut(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A write that fails makes the exchange cut, with the agent as its origin."""
    done = asyncio.Event()

    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        try:
            for _ in range(100):
                await response.write(b": keepalive\n\n")
                await asyncio.sleep(0.01)
        finally:
            done.set()
        return response

    host, port = (await serve(app_of(streams, registry)))[7:].split(":")
    rollout = registry.open("r1")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
    )
    await reader.readuntil(b"keepalive")
    writer.close()
    await done.wait()
    await until(lambda: outcomes(recorder))

    (span,) = exchange_spans(recorder)
    assert rollout.error is not None
    assert rollout.error.failure.error_type is ErrorType.AGENT_DISCONNECTED
    assert rollout.error.failure.phase is Phase.KEEPALIVE
    assert attribute(span, "intercept.exchange.outcome") == "cut"
    assert attribute(span, "intercept.failure.origin") is None
    assert (span.events[0].attributes or {})["intercept.failure.origin"] == "agent"


@pytest.mark.parametrize("handler_cancellation", [False, True])
async def test_unregister_cancels_without_an_error(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    handler_cancellation: bool,
) -> None:
    """A future that teardown cancels makes the exchange cancelled, not failed."""
    futures: list[asyncio.Future[None]] = []
    waiting = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        futures.append(exchange_from(request).watch(future))
        waiting.set()
        try:
            await future
        except asyncio.CancelledError:
            return web.json_response({"error": "Rollout cancelled"}, status=499)
        return web.json_response({})

    app = app_of(waits, registry)
    url = await serve(app, handler_cancellation=handler_cancellation)
    rollout = registry.open("r1")
    agent = asyncio.create_task(post(url))
    await waiting.wait()

    futures[0].cancel()
    registry.close("r1")
    status, _ = await agent

    assert status == 499
    assert outcomes(recorder) == ["cancelled"]
    assert rollout.error is None


async def test_a_handlers_own_deadline_is_an_upstream_timeout(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A wait_for that gives up cancels the future, and is still a failure."""

    async def impatient(request: web.Request) -> web.StreamResponse:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        await asyncio.wait_for(exchange_from(request).watch(future), 0.01)
        return web.json_response({})

    url = await serve(app_of(impatient, registry))
    rollout = registry.open("r1")

    status, _ = await post(url)

    assert status == 500
    assert rollout.error is not None
    assert rollout.error.failure.error_type is ErrorType.UPSTREAM_TIMEOUT
    assert outcomes(recorder) == ["handler_failed"]


async def test_a_retried_upstream_call_leaves_no_error(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A failed upstream call that the handler made good is not a failure."""

    async def retries(request: web.Request) -> web.StreamResponse:
        exchange = exchange_from(request)
        with contextlib.suppress(TimeoutError), exchange.upstream_call():
            raise TimeoutError
        with exchange.upstream_call():
            await asyncio.sleep(0)
        return web.json_response({})

    url = await serve(app_of(retries, registry))
    rollout = registry.open("r1")

    await post(url)

    assert outcomes(recorder) == ["ok"]
    assert rollout.error is None
    waits = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    assert [attribute(span, "error.type") for span in waits] == [
        "upstream_timeout",
        None,
    ]


async def test_a_late_failure_has_a_span_of_its_own(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A future that fails after its exchange ended is a failure span below the root."""
    futures: list[asyncio.Future[None]] = []

    async def hasty(request: web.Request) -> web.StreamResponse:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        futures.append(exchange_from(request).watch(future))
        return web.json_response({})

    url = await serve(app_of(hasty, registry))
    rollout = registry.open("r1")
    await post(url)

    futures[0].set_exception(ConnectionRefusedError(SECRET))
    await asyncio.sleep(0)
    recorder.flush()

    (late,) = [span for span in recorder.spans() if span.name == "failure"]
    assert outcomes(recorder) == ["ok"]
    assert late.parent is not None
    assert late.parent.span_id == rollout.ref.span_id
    assert (late.events[0].attributes or {})["intercept.failure.phase"] == "late"
    assert rollout.error is not None
    assert rollout.error.failure.error_type is ErrorType.UPSTREAM_CONNECTION


async def test_the_agents_trace_context_becomes_a_link(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """An agent's traceparent, even unsampled, neither names nor hides the span."""
    url = await serve(app_of(ok, registry))
    rollout = registry.open("r1")
    agent = f"00-{'ab' * 16}-{'cd' * 8}-00"

    await post(
        url,
        headers={
            "traceparent": agent,
            "tracestate": f"x={SECRET}",
            "baggage": f"k={SECRET}",
        },
    )

    (span,) = exchange_spans(recorder)
    (link,) = span.links
    assert span.context is not None
    assert f"{span.context.trace_id:032x}" == rollout.trace_id
    assert f"{link.context.trace_id:032x}" == "ab" * 16
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_an_unknown_rollout_passes_and_counts_as_rejected(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A request for a rollout that is not open is answered and counted; no span."""

    async def asks(request: web.Request) -> web.StreamResponse:
        with pytest.raises(NotIntercepted):
            exchange_from(request)
        return web.json_response({"passed": True})

    url = await serve(app_of(asks, registry))

    status, body = await post(url)

    assert (status, body) == (200, b'{"passed": true}')
    assert exchange_spans(recorder) == []
    rejected = [
        point.value
        for point in recorder.metrics()
        if point.name == "intercept.exchanges"
        and point.attributes["intercept.exchange.outcome"] == ExchangeOutcome.REJECTED
        and point.value
    ]
    assert rejected == [1]


async def test_an_exception_outside_any_rollout_is_redacted_too(
    registry: RolloutRegistry, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """On a rollout route nothing escapes, even when the rollout is not open."""
    caplog.set_level(logging.DEBUG)
    url = await serve(app_of(raises, registry))

    status, body = await post(url)

    assert status == 500
    assert SECRET not in body.decode() + logged(caplog)


async def test_other_routes_are_left_alone(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A route without a rollout id has no exchange, and its errors stay aiohttp's."""
    app = app_of(ok, registry)
    app.router.add_post("/other", raises)
    url = await serve(app)
    registry.open("r1")

    status, body = await post(url, "/other")

    assert status == 500
    assert body.startswith(b"500 Internal Server Error")
    assert exchange_spans(recorder) == []


async def test_a_resolver_function_names_the_rollout(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """A callable takes the rollout id from wherever the app keeps it."""
    app = web.Application()
    app.router.add_post("/v1/messages", ok)
    instrument_app(
        app, registry, rollout_id=lambda request: request.headers.get("x-id")
    )
    url = await serve(app)
    registry.open("r1")

    await post(url, "/v1/messages", headers={"x-id": "r1"})
    await post(url, "/v1/messages")

    (span,) = exchange_spans(recorder)
    assert attribute(span, "intercept.exchange.dialect") == "messages"


async def test_a_resolver_that_raises_changes_nothing_for_the_agent(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A broken resolver leaves the request unobserved and answered, and says so."""

    def broken(request: web.Request) -> str:
        raise KeyError(SECRET)

    app = web.Application()
    app.router.add_post(ROUTE, ok)
    instrument_app(app, registry, rollout_id=broken)
    url = await serve(app)

    status, _ = await post(url)

    assert status == 200
    assert "rollout_id function" in logged(caplog)
    assert SECRET not in logged(caplog)
    assert exchange_spans(recorder) == []


async def test_instrumenting_twice_makes_one_span(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """The second call for the same registry is a no-op."""
    app = app_of(ok, registry)
    instrument_app(app, registry)
    url = await serve(app)
    registry.open("r1")

    await post(url)

    assert outcomes(recorder) == ["ok"]


async def test_a_second_registry_is_refused(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """One app cannot belong to two registries."""
    app = app_of(ok, registry)

    with pytest.raises(ConfigurationError, match="one registry per app"):
        instrument_app(app, RolloutRegistry(recorder.telemetry))


async def test_a_second_resolver_is_refused(registry: RolloutRegistry) -> None:
    """A second way to find the rollout id is not silently ignored."""
    app = app_of(ok, registry)

    with pytest.raises(ConfigurationError, match="another rollout_id"):
        instrument_app(app, registry, rollout_id="id")


async def test_a_frozen_app_is_refused_with_advice(
    registry: RolloutRegistry, serve: Serve
) -> None:
    """After the runner's setup, the error says when to call it."""
    app = web.Application()
    await serve(app)

    with pytest.raises(ConfigurationError, match="before AppRunner"):
        instrument_app(app, registry)


@pytest.mark.parametrize("instrumented", ["root", "sub", "both"])
async def test_sub_apps_have_one_span_per_request(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    instrumented: str,
) -> None:
    """Root, sub-app or both: one exchange per request, with the full route."""
    sub = web.Application()
    sub.router.add_post(ROUTE, ok)
    root = web.Application()
    if instrumented in {"sub", "both"}:
        instrument_app(sub, registry)
    root.add_subapp("/api", sub)
    if instrumented in {"root", "both"}:
        instrument_app(root, registry)
    url = await serve(root)
    registry.open("r1")

    status, _ = await post(url, "/api" + CHAT)

    (span,) = exchange_spans(recorder)
    assert status == 200
    assert attribute(span, "http.route") == "/api" + ROUTE
    assert attribute(span, "intercept.exchange.outcome") == "ok"


async def test_a_sub_app_below_a_changing_middleware_sees_the_real_answer(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """What an outer middleware makes of the answer is what the exchange reports."""

    @web.middleware
    async def replaces(
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        await asyncio.wait_for(handler(request), 30)
        return web.json_response({"replaced": True}, status=503)

    sub = web.Application()
    sub.router.add_post(ROUTE, ok)
    instrument_app(sub, registry)
    root = web.Application(middlewares=[replaces])
    root.add_subapp("/api", sub)
    url = await serve(root)
    registry.open("r1")

    status, body = await post(url, "/api" + CHAT)

    assert (status, body) == (503, b'{"replaced": true}')
    assert outcomes(recorder) == ["upstream_failed"]


async def leave_the_context(request: web.Request) -> web.StreamResponse:
    """Answer, and leave another context behind."""
    otel_context.attach(otel_context.Context())
    return await ok(request)


@pytest.mark.parametrize("handler", [ok, leave_the_context])
async def test_the_access_log_names_the_route_only(
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
    handler: Handler,
) -> None:
    """Query, path, referer and user agent of a rollout request stay out of the log."""
    caplog.set_level(logging.INFO, logger="aiohttp.access")
    url = await serve(app_of(handler, registry))
    registry.open("r1")

    await post(
        url,
        CHAT + f"?token={SECRET}",
        headers={"User-Agent": SECRET, "Referer": SECRET},
    )

    (record,) = [r for r in caplog.records if r.name == "aiohttp.access"]
    assert record.getMessage() == f"POST {ROUTE} 200"
    assert SECRET not in str(vars(record))


async def test_one_connection_serves_many_exchanges(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """Requests on a kept-alive connection are exchanges of their own, in order."""
    url = await serve(app_of(ok, registry))
    registry.open("r1")

    async with aiohttp.ClientSession() as session:
        for _ in range(3):
            async with session.post(url + CHAT, json={}) as response:
                await response.read()

    indexes = [
        attribute(span, "intercept.exchange.index") for span in exchange_spans(recorder)
    ]
    assert indexes == [0, 1, 2]


async def test_shutdown_makes_running_exchanges_cancelled(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A handler that the app's shutdown cancels is no failure."""
    entered = asyncio.Event()

    async def hangs(request: web.Request) -> web.StreamResponse:
        entered.set()
        await asyncio.sleep(3600)
        return web.Response()

    runner = web.AppRunner(app_of(hangs, registry), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    rollout = registry.open("r1")
    agent = asyncio.create_task(post(f"http://{host}:{port}"))
    await entered.wait()

    await runner.cleanup()
    with pytest.raises(aiohttp.ClientError):
        await agent

    assert outcomes(recorder) == ["cancelled"]
    assert rollout.error is None


async def test_telemetry_shutdown_ends_what_is_open(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """At shutdown open rollouts end as aborted, running exchanges as cancelled."""
    release = asyncio.Event()
    entered = asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        entered.set()
        await release.wait()
        return web.json_response({})

    url = await serve(app_of(waits, registry))
    rollout = registry.open("r1")
    agent = asyncio.create_task(post(url))
    await entered.wait()

    balance = recorder.telemetry.shutdown()
    release.set()
    status, _ = await agent

    assert status == 200
    assert balance.open == 0
    assert rollout.outcome == "aborted"
    assert outcomes(recorder) == ["cancelled"]


async def test_a_failing_signal_still_ends_the_exchange(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Where no answer at all can be sent, none is, and aiohttp logs no text of it."""

    async def breaks(request: web.Request, response: web.StreamResponse) -> None:
        raise RuntimeError(SECRET)

    app = app_of(ok, registry)
    app.on_response_prepare.append(breaks)
    url = await serve(app)
    rollout = registry.open("r1")

    with pytest.raises(aiohttp.ClientError):
        await post(url)

    assert outcomes(recorder) == ["handler_failed"]
    assert rollout.error is not None
    assert SECRET not in logged(caplog)


async def test_an_answer_that_is_cut_off_is_prepared_once(
    registry: RolloutRegistry, serve: Serve
) -> None:
    """An app's signal sees the answer that has begun, and no other that never goes."""
    seen = []

    async def note(request: web.Request, response: web.StreamResponse) -> None:
        seen.append(response.status)

    async def breaks(request: web.Request) -> web.StreamResponse:
        await web.StreamResponse().prepare(request)
        raise RuntimeError(SECRET)

    app = app_of(breaks, registry)
    app.on_response_prepare.append(note)
    url = await serve(app)
    registry.open("r1")

    with pytest.raises(aiohttp.ClientError):
        await post(url)

    assert seen == [200]


async def test_a_disconnect_that_cancels_the_handler_is_no_error(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """With aiohttp's handler_cancellation a lost agent is agent_gone all the same."""
    entered, over = asyncio.Event(), asyncio.Event()

    async def waits(request: web.Request) -> web.StreamResponse:
        entered.set()
        try:
            await asyncio.sleep(3600)
        finally:
            over.set()
        return web.json_response({})

    app = app_of(waits, registry)
    host, port = (await serve(app, handler_cancellation=True))[7:].split(":")
    rollout = registry.open("r1")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await entered.wait()

    writer.close()
    await over.wait()
    await until(lambda: outcomes(recorder))

    assert outcomes(recorder) == ["agent_gone"]
    assert rollout.error is None


async def test_an_agent_that_leaves_with_the_terminal_is_nothing_to_warn_of(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    serve: Serve,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Older OpenAI SDKs close every stream so, and the handler meets an error."""
    left, over = asyncio.Event(), asyncio.Event()

    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\ndata: [DONE]\n\n')
        await left.wait()
        try:
            await response.write_eof()
        finally:
            over.set()
        return response

    host, port = (await serve(app_of(streams, registry)))[7:].split(":")
    registry.open("r1")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"DONE")
    writer.transport.abort()
    await settle()
    left.set()
    await over.wait()
    await until(lambda: outcomes(recorder))

    assert outcomes(recorder) == ["ok"]
    assert [it for it in caplog.records if it.levelno > logging.INFO] == []


async def test_an_end_that_cannot_be_written_is_cut(
    recorder: TelemetryRecorder, registry: RolloutRegistry, serve: Serve
) -> None:
    """An agent that left before the terminal event is noticed when the body ends."""
    left, over = asyncio.Event(), asyncio.Event()

    async def streams(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"choices": []}\n\n')
        await left.wait()
        over.set()
        return response

    host, port = (await serve(app_of(streams, registry)))[7:].split(":")
    rollout = registry.open("r1")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST {CHAT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readuntil(b"choices")
    writer.transport.abort()
    await settle()
    left.set()
    await over.wait()
    await until(lambda: outcomes(recorder))

    assert outcomes(recorder) == ["cut"]
    assert rollout.error is not None
    assert rollout.error.failure.phase is Phase.EOF
    assert rollout.error.failure.error_type is ErrorType.AGENT_DISCONNECTED
