"""The relay passes requests and answers on as they are, and observes them."""

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from opentelemetry.trace import SpanKind

from otel_intercept import ConfigurationError, RolloutRegistry
from otel_intercept.server import make_relay_app, relay_runner
from otel_intercept.testing import TelemetryRecorder
from tests.conftest import logged
from tests.relayed import (
    DONE,
    EVENT,
    Script,
    answers,
    begin_stream,
    listening,
    refuses,
    relaying,
    streams,
)
from tests.served import (
    CHAT,
    ROUTES,
    SECRET,
    attribute,
    chat_body,
    exchange_spans,
    outcomes,
    settle,
)

ODD_JSON = '{ "model" :"m",\t"messages":[ ], "ü": "\\u00fc",  "n":1.0 }\n'.encode()


def says(body: bytes, **headers: str) -> Script:
    """Make a script that answers with just these bytes."""

    async def script(request: web.Request) -> web.StreamResponse:
        made = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(body=body, headers=made)

    return script


@pytest.mark.parametrize("data", [ODD_JSON, b"no json", b"[1]", b"\x00\xff", b"{"])
async def test_bodies_pass_unchanged(registry: RolloutRegistry, data: bytes) -> None:
    """Whatever the bytes are, they arrive as they were sent, in both directions."""
    async with relaying(registry, says(data[::-1], Content_Type="x/y")) as relay:
        reply = await relay.call(data=data)

    (received,) = relay.upstream.received
    assert received.body == data
    assert received.headers["Content-Length"] == str(len(data))
    assert (reply.status, reply.body) == (200, data[::-1])
    assert reply.headers["Content-Type"] == "x/y"
    assert reply.headers["Content-Length"] == str(len(data))


async def test_a_large_request_passes_unchanged(registry: RolloutRegistry) -> None:
    """Megabytes are passed on without a warning, and a body of none as none."""
    data = b"x" * 3_000_000
    async with relaying(registry, answers, client_max_size=1 << 22) as relay:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{relay.url}/rollout/r1/v1/{CHAT}", data=parts_of(data)),
        ):
            pass
        await relay.call(method="GET", data=b"")

    sent, empty = relay.upstream.received
    assert sent.body == data
    assert empty.body == b""
    assert "Content-Length" not in empty.headers


async def parts_of(data: bytes) -> AsyncIterator[bytes]:
    """Yield data in parts."""
    for start in range(0, len(data), 100_000):
        yield data[start : start + 100_000]


async def test_paths_and_queries_pass_unchanged(registry: RolloutRegistry) -> None:
    """The rest of the path and the query reach the upstream as they were written."""
    path = "/rollout/r%201/v1/chat%2Fx/a+b;c?q=%20a+b&q=2&%C3%BC=x"
    async with relaying(registry, answers) as relay:
        reader, writer = await asyncio.open_connection(*relay.url[7:].split(":"))
        writer.write(f"GET {path} HTTP/1.0\r\nHost: x\r\n\r\n".encode())
        await reader.read()
        writer.close()

    (received,) = relay.upstream.received
    assert received.path == "/v1/chat%2Fx/a+b;c?q=%20a+b&q=2&%C3%BC=x"
    assert received.method == "GET"


@pytest.mark.parametrize(
    ("upstream", "expected"),
    [
        ("", "/v1/models"),
        ("/", "/v1/models"),
        ("/v1", "/v1/models"),
        ("/v1/", "/v1/models"),
        ("/api/v1", "/api/v1/models"),
        ("/anthropic", "/anthropic/v1/models"),
    ],
)
async def test_the_upstream_may_be_given_with_or_without_its_version(
    registry: RolloutRegistry, upstream: str, expected: str
) -> None:
    """Both customs of writing a base URL lead to the same place."""
    paths = []

    async def note(request: web.Request) -> web.StreamResponse:
        paths.append(request.path)
        return web.Response()

    app = web.Application()
    app.router.add_get("/{path:.*}", note)
    async with listening(web.AppRunner(app)) as url:
        relay_app = make_relay_app(registry, upstream=url + upstream)
        async with (
            listening(relay_runner(relay_app)) as relay_url,
            aiohttp.ClientSession() as session,
            session.get(f"{relay_url}/rollout/r1/v1/models"),
        ):
            pass

    assert paths == [expected]


@pytest.mark.parametrize(
    "upstream",
    [
        *("", "upper", "ftp://up", "http://", "http:///v1", "//up/v1", "http://up:x"),
        *("http://user@up", "http://u:p@up", "http://up/?q", "http://up/#f"),
    ],
)
def test_an_unusable_upstream_is_refused_at_once(
    registry: RolloutRegistry, upstream: str
) -> None:
    """The operator is told what an upstream must be, without an echo of the URL."""
    with pytest.raises(ConfigurationError) as raised:
        make_relay_app(registry, upstream=upstream)

    assert upstream == "" or upstream not in str(raised.value)


def test_settings_that_cannot_work_are_refused(registry: RolloutRegistry) -> None:
    """A rollout that is idle at once, or an unknown mode, is a mistake at once."""
    with pytest.raises(ConfigurationError):
        make_relay_app(registry, upstream="http://up", idle_close_s=0)
    with pytest.raises(ConfigurationError):
        make_relay_app(registry, upstream="http://up", error_bodies="x")  # type: ignore[arg-type]


@pytest.mark.parametrize("tail", ["../x", "a/../../x", "%2e%2e/x", "./x", "a/%2E"])
async def test_dot_segments_are_not_relayed(
    registry: RolloutRegistry, tail: str
) -> None:
    """A path cannot climb out of the upstream's /v1/."""
    async with relaying(registry, answers) as relay:
        reader, writer = await asyncio.open_connection(*relay.url[7:].split(":"))
        request = f"GET /rollout/r1/v1/{tail} HTTP/1.0\r\nHost: x\r\n\r\n"
        writer.write(request.encode())
        answer = await reader.read()
        writer.close()

    assert answer.split()[1] in {b"400", b"404"}
    assert relay.upstream.received == []


async def test_chunks_pass_one_by_one(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Each chunk reaches the agent before the upstream has made the next one."""
    go_on = asyncio.Event()

    async def stepwise(request: web.Request) -> web.StreamResponse:
        response = await begin_stream(request)
        for _ in range(3):
            await response.write(EVENT)
            await go_on.wait()
            go_on.clear()
        await response.write(DONE)
        return response

    got = b""
    async with (
        relaying(registry, stepwise) as relay,
        aiohttp.ClientSession() as session,
        session.post(f"{relay.url}/rollout/r1/v1/{CHAT}", json={}) as response,
    ):
        for _ in range(3):
            got += await response.content.readexactly(len(EVENT))
            go_on.set()
        got += await response.content.read()

    assert response.headers["Content-Type"] == "text/event-stream"
    assert got == EVENT * 3 + DONE
    (span,) = exchange_spans(recorder)
    assert attribute(span, "intercept.exchange.outcome") == "ok"
    assert attribute(span, "intercept.stream.chunks") == 3


async def test_a_slow_agent_slows_the_upstream(registry: RolloutRegistry) -> None:
    """The relay holds a bounded part of a stream that nobody reads."""
    size = 100_000
    written = 0

    async def pours(request: web.Request) -> web.StreamResponse:
        nonlocal written
        response = await begin_stream(request)
        for _ in range(640):
            await response.write(b"x" * size)
            written += size
        return response

    async with relaying(registry, pours) as relay:
        reader, writer = await asyncio.open_connection(*relay.url[7:].split(":"))
        writer.write(
            f"POST /rollout/r1/v1/{CHAT} HTTP/1.1\r\nHost: x\r\n"
            "Content-Length: 2\r\n\r\n{}".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        held = -1
        while held != written:
            held = written
            await settle(40)

        # Loopback sockets hold some megabytes each; the rest must wait.
        assert 0 < held < 32_000_000
        total = 0
        while data := await reader.read(1 << 20):
            total += len(data)
            if total > 64_000_000:
                break
        writer.close()


async def test_hop_by_hop_headers_stay_where_they_are(
    registry: RolloutRegistry,
) -> None:
    """What belongs to one connection, or to the agent's trace, is not passed on."""
    sent = {
        "Connection": "keep-alive, X-Hop",
        "Keep-Alive": "timeout=5",
        "X-Hop": "1",
        "TE": "trailers",
        "Proxy-Authorization": "Basic x",
        "Accept-Encoding": "gzip, br",
        "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
        "tracestate": "a=b",
        "baggage": "c=d",
        "Authorization": "Bearer agent",
        "X-Other": "kept",
        "Cookie": "a=b",
        "User-Agent": "agent/1",
        "Content-Type": "application/json; charset=utf-8",
    }
    script = says(
        b"{}", Keep_Alive="timeout=9", Connection="X-Back", X_Back="1", X_Kept="yes"
    )
    async with relaying(registry, script) as relay:
        reply = await relay.call(headers=sent)

    headers = relay.upstream.received[0].headers
    dropped = {"keep-alive", "x-hop", "te", "proxy-authorization", "traceparent"}
    assert not {name.lower() for name in headers} & {*dropped, "tracestate", "baggage"}
    assert headers["Accept-Encoding"] == "identity"
    assert headers["Authorization"] == "Bearer agent"
    assert (headers["X-Other"], headers["Cookie"]) == ("kept", "a=b")
    assert headers["User-Agent"] == "agent/1"
    assert headers["Content-Type"] == "application/json; charset=utf-8"
    assert headers["Host"] in relay.upstream.url
    assert reply.headers["X-Kept"] == "yes"
    assert not {"X-Back", "Keep-Alive"} & set(reply.headers)


@pytest.mark.parametrize(
    ("path", "headers", "name", "value"),
    [
        (CHAT, {}, "Authorization", "Bearer theirs"),
        ("responses", {"x-api-key": "agent"}, "Authorization", "Bearer theirs"),
        ("messages", {"Authorization": "Bearer agent"}, "x-api-key", "theirs"),
        ("models", {"anthropic-version": "2023-06-01"}, "x-api-key", "theirs"),
    ],
)
async def test_the_upstream_key_replaces_the_agents(
    registry: RolloutRegistry,
    path: str,
    headers: dict[str, str],
    name: str,
    value: str,
) -> None:
    """The operator's key goes where the dialect expects it, and the agent's nowhere."""
    async with relaying(registry, answers, upstream_key="theirs") as relay:
        await relay.call(f"/rollout/r1/v1/{path}", headers=headers)

    got = relay.upstream.received[0].headers
    assert got[name] == value
    assert "agent" not in str(dict(got)).replace("User-Agent", "")
    assert ("Authorization" in got) != ("x-api-key" in got)


@pytest.mark.parametrize("own_runner", [True, False])
async def test_compressed_requests(registry: RolloutRegistry, own_runner: bool) -> None:
    """Its own runner passes them unchanged; any other decompresses them, honestly."""
    data = gzip.compress(b'{"model": "m"}')
    async with relaying(registry, answers, own_runner=own_runner) as relay:
        await relay.call(data=data, headers={"Content-Encoding": "gzip"})

    (received,) = relay.upstream.received
    if own_runner:
        assert received.body == data
        assert received.headers["Content-Encoding"] == "gzip"
    else:
        assert received.body == b'{"model": "m"}'
        assert "Content-Encoding" not in received.headers


async def test_compressed_answers_pass_unchanged(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An upstream that compresses all the same is passed on, if not described."""
    data = gzip.compress(json.dumps(chat_body()).encode())
    headers = {"Content_Encoding": "gzip", "Content_Type": "application/json"}
    async with relaying(registry, says(data, **headers)) as relay:
        reply = await relay.call()

    assert reply.body == data
    assert reply.headers["Content-Encoding"] == "gzip"
    assert outcomes(recorder) == ["ok"]


async def test_requests_and_answers_are_described(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The span has model, settings and usage, and nothing of what was said."""
    body = {"model": "m", "temperature": 0.5, "messages": [{"content": SECRET}]}
    async with relaying(registry, answers) as relay:
        await relay.call(data=json.dumps(body).encode())

    (wait,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    assert wait.name == "chat m"
    assert attribute(wait, "gen_ai.request.temperature") == 0.5
    assert attribute(wait, "gen_ai.usage.input_tokens") == 3
    assert SECRET.encode() not in recorder.exported_bytes()


async def test_a_large_answer_is_passed_on_without_being_parsed(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """Beyond a MiB an answer is not kept for its description."""
    body = json.dumps(chat_body("x" * 2_000_000)).encode()
    async with relaying(registry, says(body, Content_Type="application/json")) as relay:
        reply = await relay.call()

    assert reply.body == body
    (wait,) = [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]
    assert attribute(wait, "gen_ai.usage.input_tokens") is None


@pytest.mark.parametrize("route", ROUTES)
async def test_the_route_names_the_span(
    recorder: TelemetryRecorder, registry: RolloutRegistry, route: str
) -> None:
    """Model routes are told apart by their templates, never by a path."""
    async with relaying(registry, answers) as relay:
        await relay.call(f"/rollout/{SECRET[:4]}/v1/{route}?key={SECRET}")
        await relay.call(f"/rollout/{SECRET[:4]}/v1/other/{SECRET}", method="GET")

    names = {span.name for span in exchange_spans(recorder)}
    assert names == {
        f"POST /rollout/{{rollout_id}}/v1/{route}",
        "GET /rollout/{rollout_id}/v1/{tail}",
    }
    assert SECRET.encode() not in recorder.exported_bytes()


@pytest.mark.parametrize("method", ["HEAD", "GET", "DELETE", "OPTIONS"])
async def test_other_methods_are_relayed(
    registry: RolloutRegistry, method: str
) -> None:
    """Every method passes, and a HEAD keeps its length without a body."""
    script = says(b'{"a": 1}', Content_Type="application/json")
    async with relaying(registry, script) as relay:
        reply = await relay.call("/rollout/r1/v1/models", b"", method=method)

    assert relay.upstream.received[0].method == method
    assert reply.status == 200
    assert reply.body == (b"" if method == "HEAD" else b'{"a": 1}')
    assert reply.headers["Content-Length"] == "8"


async def test_a_head_request_fails_no_rollout(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """An answer to HEAD announces JSON that never comes, and that is no failure."""
    async with relaying(registry, answers) as relay:
        reply = await relay.call(method="HEAD", data=b"")

    assert reply.status == 200
    assert outcomes(recorder) == ["ok"]


@pytest.mark.parametrize("status", [201, 204, 302, 304])
async def test_statuses_pass(registry: RolloutRegistry, status: int) -> None:
    """A status below 400 is the agent's to follow."""

    async def script(request: web.Request) -> web.StreamResponse:
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    async with (
        relaying(registry, script) as relay,
        aiohttp.ClientSession() as session,
        session.post(
            f"{relay.url}/rollout/r1/v1/{CHAT}", allow_redirects=False
        ) as response,
    ):
        assert response.status == status
        assert response.headers["Location"] == "/elsewhere"
        assert await response.read() == b""

    assert len(relay.upstream.received) == 1


async def test_too_large_a_request_is_refused(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """A body above the limit gives 413, and never becomes a model call."""
    async with relaying(registry, answers, client_max_size=100) as relay:
        reply = await relay.call(data=b"x" * 101)

    assert reply.status == 413
    assert relay.upstream.received == []
    assert outcomes(recorder) == ["rejected"]


async def test_an_agents_trace_is_linked_to(
    recorder: TelemetryRecorder, registry: RolloutRegistry
) -> None:
    """The agent's traceparent becomes a link of the exchange."""
    headers = {"traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01"}
    async with relaying(registry, answers) as relay:
        await relay.call(headers=headers)

    (span,) = exchange_spans(recorder)
    assert [f"{link.context.trace_id:032x}" for link in span.links] == ["ab" * 16]


async def test_the_relay_logs_nothing_of_what_it_relays(
    recorder: TelemetryRecorder,
    registry: RolloutRegistry,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Prompt, credential, query, answer and error stay out of logs and telemetry."""
    caplog.set_level(logging.DEBUG)
    error = {"error": {"message": SECRET, "type": SECRET, "code": SECRET}}
    data = json.dumps({"model": SECRET * 9, "messages": [SECRET]}).encode()
    for script in (answers, streams, refuses(500, error, {"X-Secret": SECRET})):
        async with relaying(registry, script, upstream_key=SECRET) as relay:
            reply = await relay.call(
                f"/rollout/r1/v1/{CHAT}?key={SECRET}",
                data,
                headers={"Authorization": f"Bearer {SECRET}"},
            )
            assert SECRET not in reply.body.decode() + str(reply.headers)

    assert SECRET not in logged(caplog)
    assert SECRET.encode() not in recorder.exported_bytes()
