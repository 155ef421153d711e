"""The classifier on errors that real HTTP clients raise at a broken upstream."""

import asyncio
import concurrent.futures
import http.client
import json
import ssl
import urllib.request
from collections.abc import Callable

import aiohttp
import pytest
import tenacity
import trustme

from otel_intercept.failure import Failure, describe, is_cancellation
from otel_intercept.semconv import ErrorType, Origin, Phase
from tests.broken_upstream import (
    UNKNOWN_HOST,
    Answer,
    Call,
    aiohttp_json,
    anthropic_message,
    anthropic_stream,
    bedrock,
    bedrock_error,
    bedrock_error_event,
    bedrock_stream,
    broken_upstream,
    chunked,
    closed_port,
    events,
    httpx_json,
    httpx_stream,
    openai_chat,
    openai_stream,
    patience_s,
    raised_by,
    refusing_tls,
    reply,
    silent_port,
)
from tests.served import settle

KEY = b"a key of at least 16 bytes"

CLIENTS: tuple[Call, ...] = (aiohttp_json, httpx_json, openai_chat, anthropic_message)
STREAMS: tuple[Call, ...] = (httpx_stream, openai_stream, anthropic_stream)
BEDROCK: tuple[Call, ...] = (bedrock, bedrock_stream)

HALF = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)
NO_CHUNK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n"
)


def name_of(value: object) -> str | None:
    """Return a readable id for a test's parameter."""
    return getattr(value, "__name__", None)


each_client = pytest.mark.parametrize("call", CLIENTS, ids=name_of)
each_call = pytest.mark.parametrize("call", [*CLIENTS, *STREAMS, *BEDROCK], ids=name_of)


def described(exc: BaseException) -> Failure:
    """Describe an exception that an upstream call raised."""
    return describe(exc, phase=Phase.UPSTREAM_CALL, key=KEY)


async def failure_of(call: Call, answer: Answer) -> Failure:
    """Describe what a call raises at an upstream that answers so."""
    async with broken_upstream(answer) as base:
        waits = answer.then != "hang"
        return described(await raised_by(call, base, waits=waits))


@each_client
@pytest.mark.parametrize(
    ("status", "error_type", "retryable"),
    [
        (400, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (401, ErrorType.UPSTREAM_AUTH, False),
        (402, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (403, ErrorType.UPSTREAM_AUTH, False),
        (404, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (408, ErrorType.UPSTREAM_TIMEOUT, True),
        (409, ErrorType.UPSTREAM_BAD_REQUEST, True),
        (413, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (422, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (429, ErrorType.UPSTREAM_RATE_LIMITED, True),
        (500, ErrorType.UPSTREAM_SERVER_ERROR, True),
        (501, ErrorType.UPSTREAM_SERVER_ERROR, False),
        (502, ErrorType.UPSTREAM_SERVER_ERROR, True),
        (503, ErrorType.UPSTREAM_OVERLOADED, True),
        (504, ErrorType.UPSTREAM_TIMEOUT, True),
        (529, ErrorType.UPSTREAM_OVERLOADED, True),
    ],
)
async def test_a_status_decides_the_type(
    call: Call, status: int, error_type: ErrorType, *, retryable: bool
) -> None:
    """Every client's error for a status has the type of that status."""
    failure = await failure_of(call, reply(status, {"error": {"message": "no"}}))

    assert failure.error_type is error_type
    assert failure.status_code == status
    assert failure.retryable is retryable
    assert failure.origin is Origin.UPSTREAM


@each_client
@pytest.mark.parametrize("status", [400, 500])
async def test_a_body_that_is_no_json_changes_nothing(call: Call, status: int) -> None:
    """The status decides, whatever is in the body."""
    failure = await failure_of(call, reply(status, b"<html>", "text/html"))

    assert failure.status_code == status


@each_call
async def test_a_refused_connection(call: Call) -> None:
    """A port on which nobody listens is a connection failure."""
    failure = described(await raised_by(call, f"http://127.0.0.1:{closed_port()}"))

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION
    assert failure.retryable
    assert failure.status_code is None


@pytest.mark.parametrize("call", [*CLIENTS, *STREAMS], ids=name_of)
async def test_an_unknown_host(call: Call) -> None:
    """A host that does not resolve is a connection failure."""
    failure = described(await raised_by(call, UNKNOWN_HOST))

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION
    assert failure.cause_types[-1] == "socket.gaierror"


@each_call
async def test_a_connection_that_takes_too_long(call: Call) -> None:
    """A peer that accepts and never shakes hands is a timeout."""
    async with silent_port() as port:
        base = f"https://127.0.0.1:{port}"
        failure = described(await raised_by(call, base, waits=False))

    assert failure.error_type is ErrorType.UPSTREAM_TIMEOUT
    assert failure.retryable


@each_call
async def test_a_peer_that_speaks_no_tls(call: Call) -> None:
    """A failed handshake is a connection failure."""
    async with refusing_tls() as base:
        failure = described(await raised_by(call, base))

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION


@each_call
async def test_a_certificate_that_nobody_trusts(call: Call) -> None:
    """An unknown certificate is a connection failure that retrying will not mend."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(tls)

    async with broken_upstream(Answer(), tls=tls) as base:
        failure = described(await raised_by(call, base))

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION
    assert not failure.retryable


@each_call
@pytest.mark.parametrize(
    ("answer", "error_type"),
    [
        (Answer(), ErrorType.UPSTREAM_CONNECTION),
        (Answer(then="reset"), ErrorType.UPSTREAM_CONNECTION),
        (Answer(then="hang"), ErrorType.UPSTREAM_TIMEOUT),
        (Answer(b"\x00\x01 no http\r\n\r\n"), ErrorType.UPSTREAM_BAD_RESPONSE),
        (Answer(b"HTTP/9.9 x y\r\n\r\n"), ErrorType.UPSTREAM_BAD_RESPONSE),
    ],
    ids=["closed", "reset", "silent", "garbage", "bad_status_line"],
)
async def test_an_answer_that_never_begins(
    call: Call, answer: Answer, error_type: ErrorType
) -> None:
    """Before the status line, silence, an end and garbage are told apart."""
    failure = await failure_of(call, answer)

    assert failure.error_type is error_type
    assert failure.status_code is None


@pytest.mark.parametrize(
    "call", [*CLIENTS, *STREAMS, bedrock, bedrock_stream], ids=name_of
)
@pytest.mark.parametrize(
    "answer",
    [
        chunked(b"data: {}\n\n"),
        chunked(b"data: {}\n\n", "reset"),
        Answer(HALF, "reset"),
    ],
    ids=["closed_in_chunk", "reset_in_chunk", "reset_in_body"],
)
async def test_an_answer_that_breaks_off(call: Call, answer: Answer) -> None:
    """A body that ends before its end is truncated, whether it was closed or reset."""
    failure = await failure_of(call, answer)

    assert failure.error_type is ErrorType.UPSTREAM_TRUNCATED
    assert failure.retryable


@pytest.mark.parametrize("call", [*CLIENTS, *STREAMS, bedrock], ids=name_of)
async def test_a_body_shorter_than_promised(call: Call) -> None:
    """A body that ends before its Content-Length is truncated."""
    failure = await failure_of(call, Answer(HALF))

    assert failure.error_type is ErrorType.UPSTREAM_TRUNCATED


@each_call
async def test_a_body_that_stalls(call: Call) -> None:
    """A body that stops coming is a timeout."""
    failure = await failure_of(call, Answer(HALF, "hang"))

    assert failure.error_type is ErrorType.UPSTREAM_TIMEOUT


@pytest.mark.parametrize("call", [*CLIENTS, *STREAMS], ids=name_of)
@pytest.mark.parametrize(
    "answer",
    [Answer(NO_CHUNK), reply(200, b"no gzip", headers="Content-Encoding: gzip\r\n")],
    ids=["chunk_size", "gzip"],
)
async def test_a_body_that_cannot_be_decoded(call: Call, answer: Answer) -> None:
    """A body that breaks its own encoding is a bad response, not a 400."""
    failure = await failure_of(call, answer)

    assert failure.error_type is ErrorType.UPSTREAM_BAD_RESPONSE
    assert failure.status_code is None


@each_client
async def test_a_body_that_is_no_json(call: Call) -> None:
    """A 200 with broken JSON is a bad response."""
    failure = await failure_of(call, reply(200, b"{no"))

    assert failure.error_type is ErrorType.UPSTREAM_BAD_RESPONSE
    assert failure.exception_type == "json.decoder.JSONDecodeError"


async def test_a_page_in_place_of_json() -> None:
    """An error that carries a good status is a bad response."""
    failure = await failure_of(aiohttp_json, reply(200, b"<html>", "text/html"))

    assert failure.error_type is ErrorType.UPSTREAM_BAD_RESPONSE
    assert failure.status_code == 200


@each_client
async def test_a_redirect_that_leads_nowhere(call: Call) -> None:
    """Redirects without an end are a bad response."""
    failure = await failure_of(call, reply(302, b"", headers="Location: /again\r\n"))

    assert failure.error_type is ErrorType.UPSTREAM_BAD_RESPONSE


@pytest.mark.parametrize("call", [openai_chat, openai_stream], ids=name_of)
@pytest.mark.parametrize(
    ("status", "error", "error_type", "retryable"),
    [
        (
            400,
            {"code": "context_length_exceeded", "type": "invalid_request_error"},
            ErrorType.UPSTREAM_CONTEXT_LENGTH,
            False,
        ),
        (
            400,
            {"code": 400, "type": "exceed_context_size_error"},
            ErrorType.UPSTREAM_CONTEXT_LENGTH,
            False,
        ),
        (400, {"code": "content_filter"}, ErrorType.UPSTREAM_CONTENT_FILTER, False),
        (
            400,
            {"code": "content_policy_violation"},
            ErrorType.UPSTREAM_CONTENT_FILTER,
            False,
        ),
        (400, {"code": "invalid_api_key"}, ErrorType.UPSTREAM_AUTH, False),
        (
            429,
            {"code": "insufficient_quota", "type": "insufficient_quota"},
            ErrorType.UPSTREAM_RATE_LIMITED,
            False,
        ),
        (429, {"code": "rate_limit_exceeded"}, ErrorType.UPSTREAM_RATE_LIMITED, True),
        (500, {"type": "overloaded_error"}, ErrorType.UPSTREAM_OVERLOADED, True),
        (503, {"type": "server_error"}, ErrorType.UPSTREAM_OVERLOADED, True),
        (400, {"code": "made_up", "type": "x"}, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (400, {"code": ["content_filter"]}, ErrorType.UPSTREAM_BAD_REQUEST, False),
    ],
)
async def test_codes_of_openai(
    call: Call,
    status: int,
    error: dict[str, object],
    error_type: ErrorType,
    *,
    retryable: bool,
) -> None:
    """A known code says more than the status; an unknown one says nothing."""
    failure = await failure_of(call, reply(status, {"error": {**error, "message": ""}}))

    assert failure.error_type is error_type
    assert failure.status_code == status
    assert failure.retryable is retryable


@pytest.mark.parametrize("call", [anthropic_message, anthropic_stream], ids=name_of)
@pytest.mark.parametrize(
    ("status", "kind", "error_type"),
    [
        (400, "invalid_request_error", ErrorType.UPSTREAM_BAD_REQUEST),
        (401, "authentication_error", ErrorType.UPSTREAM_AUTH),
        (402, "billing_error", ErrorType.UPSTREAM_AUTH),
        (403, "permission_error", ErrorType.UPSTREAM_AUTH),
        (404, "not_found_error", ErrorType.UPSTREAM_BAD_REQUEST),
        (413, "request_too_large", ErrorType.UPSTREAM_CONTEXT_LENGTH),
        (429, "rate_limit_error", ErrorType.UPSTREAM_RATE_LIMITED),
        (500, "api_error", ErrorType.UPSTREAM_SERVER_ERROR),
        (500, "overloaded_error", ErrorType.UPSTREAM_OVERLOADED),
        (504, "timeout_error", ErrorType.UPSTREAM_TIMEOUT),
        (529, "overloaded_error", ErrorType.UPSTREAM_OVERLOADED),
    ],
)
async def test_codes_of_anthropic(
    call: Call, status: int, kind: str, error_type: ErrorType
) -> None:
    """Anthropic's error types agree with the type of failure."""
    body = {"type": "error", "error": {"type": kind, "message": "no"}}

    failure = await failure_of(call, reply(status, body))

    assert failure.error_type is error_type
    assert failure.status_code == status


async def test_a_spend_limit_of_anthropic_is_not_worth_a_retry() -> None:
    """A 429 that only an administrator can lift is not retryable."""
    details = {"error_code": "enforced_spend_limit_reached"}
    error = {"type": "rate_limit_error", "message": "no", "details": details}

    failure = await failure_of(
        anthropic_message, reply(429, {"type": "error", "error": error})
    )

    assert failure.error_type is ErrorType.UPSTREAM_RATE_LIMITED
    assert not failure.retryable


@pytest.mark.parametrize(
    ("call", "frame", "error_type"),
    [
        (
            openai_stream,
            'data: {"error":{"code":"rate_limit_exceeded","message":"no"}}\n\n',
            ErrorType.UPSTREAM_RATE_LIMITED,
        ),
        (
            openai_stream,
            'data: {"error":{"type":"server_error","message":"no"}}\n\n',
            ErrorType.UPSTREAM_SERVER_ERROR,
        ),
        (
            openai_stream,
            'data: {"error":{"code":"made_up","message":"no"}}\n\n',
            ErrorType.UPSTREAM_ERROR_FRAME,
        ),
        (
            anthropic_stream,
            'event: error\ndata: {"error":{"type":"overloaded_error"}}\n\n',
            ErrorType.UPSTREAM_OVERLOADED,
        ),
        (
            anthropic_stream,
            'event: error\ndata: {"type":"error","error":{"type":"made_up"}}\n\n',
            ErrorType.UPSTREAM_ERROR_FRAME,
        ),
    ],
)
async def test_an_error_in_a_stream(
    call: Call, frame: str, error_type: ErrorType
) -> None:
    """An error event within a 200 is known by its code, else it is an error frame."""
    failure = await failure_of(call, events(frame))

    assert failure.error_type is error_type
    assert failure.origin is Origin.UPSTREAM


@pytest.mark.parametrize(
    ("status", "code", "error_type"),
    [
        (400, "ValidationException", ErrorType.UPSTREAM_BAD_REQUEST),
        (403, "AccessDeniedException", ErrorType.UPSTREAM_AUTH),
        (404, "ResourceNotFoundException", ErrorType.UPSTREAM_BAD_REQUEST),
        (408, "ModelTimeoutException", ErrorType.UPSTREAM_TIMEOUT),
        (424, "ModelErrorException", ErrorType.UPSTREAM_SERVER_ERROR),
        (429, "ThrottlingException", ErrorType.UPSTREAM_RATE_LIMITED),
        (429, "ModelNotReadyException", ErrorType.UPSTREAM_OVERLOADED),
        (500, "InternalServerException", ErrorType.UPSTREAM_SERVER_ERROR),
        (503, "ServiceUnavailableException", ErrorType.UPSTREAM_OVERLOADED),
        (418, "MadeUpException", ErrorType.UPSTREAM_BAD_REQUEST),
    ],
)
async def test_errors_of_aws(status: int, code: str, error_type: ErrorType) -> None:
    """A ClientError of botocore is known by its status and code, not its class."""
    failure = await failure_of(bedrock, bedrock_error(status, code))

    assert failure.error_type is error_type
    assert failure.status_code == status
    assert failure.exception_type == "botocore.exceptions.ClientError"


@pytest.mark.parametrize(
    ("code", "error_type"),
    [
        ("throttlingException", ErrorType.UPSTREAM_RATE_LIMITED),
        ("modelStreamErrorException", ErrorType.UPSTREAM_TRUNCATED),
        ("internalServerException", ErrorType.UPSTREAM_SERVER_ERROR),
        ("validationException", ErrorType.UPSTREAM_BAD_REQUEST),
        ("madeUpException", ErrorType.UPSTREAM_ERROR_FRAME),
    ],
)
async def test_errors_in_a_stream_of_aws(code: str, error_type: ErrorType) -> None:
    """An exception in an AWS event stream is known by its code."""
    failure = await failure_of(bedrock_stream, bedrock_error_event(code))

    assert failure.error_type is error_type
    assert failure.exception_type == "botocore.exceptions.EventStreamError"


async def test_a_wrapper_with_a_library_error_below() -> None:
    """A RuntimeError raised from a client's error is that error."""

    async def wrapped(base: str) -> None:
        try:
            await openai_chat(base)
        except Exception as exc:
            raise RuntimeError("model call failed") from exc

    failure = await failure_of(wrapped, reply(429, {}))

    assert failure.error_type is ErrorType.UPSTREAM_RATE_LIMITED
    assert failure.status_code == 429
    assert failure.exception_type == "RuntimeError"
    assert failure.cause_types == ("openai.RateLimitError",)


async def test_retries_of_tenacity() -> None:
    """A RetryError stands for what the last attempt raised."""

    async def retried(base: str) -> object:
        attempts = tenacity.AsyncRetrying(stop=tenacity.stop_after_attempt(2))
        return await attempts(httpx_json, base)

    failure = await failure_of(retried, reply(503, {}))

    assert failure.error_type is ErrorType.UPSTREAM_OVERLOADED
    assert failure.exception_type == "tenacity.RetryError"


async def test_a_task_group() -> None:
    """A group stands for its most telling member."""

    async def grouped(base: str) -> None:
        async def fail() -> None:
            raise KeyError("secret")

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())
            tasks.create_task(httpx_json(base))

    async def later(base: str) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(httpx_json(base))

    alone = await failure_of(grouped, Answer(then="hang"))
    failure = await failure_of(later, reply(401, {}))

    assert alone.error_type is ErrorType.OTHER
    assert alone.cause_types == ("KeyError",)
    assert failure.error_type is ErrorType.UPSTREAM_AUTH
    assert failure.status_code == 401
    assert failure.cause_types == ("httpx.HTTPStatusError",)


async def test_timeouts_of_asyncio() -> None:
    """A deadline of asyncio or of a thread pool is an upstream timeout."""
    with pytest.raises(TimeoutError) as waited:
        await asyncio.wait_for(asyncio.Event().wait(), 0.01)
    with pytest.raises(TimeoutError) as pooled:
        concurrent.futures.Future[None]().result(timeout=0)

    for caught in (waited, pooled):
        assert described(caught.value).error_type is ErrorType.UPSTREAM_TIMEOUT


async def test_sockets_of_asyncio() -> None:
    """Bare asyncio streams fail with the same types as clients do."""
    with pytest.raises(ConnectionRefusedError) as refused:
        await asyncio.open_connection("127.0.0.1", closed_port())
    async with broken_upstream(Answer(b"half")) as base:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", int(base.rpartition(":")[2])
        )
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(asyncio.IncompleteReadError) as incomplete:
            await reader.readexactly(99)
        writer.close()
        await writer.wait_closed()

    assert described(refused.value).error_type is ErrorType.UPSTREAM_CONNECTION
    assert described(incomplete.value).error_type is ErrorType.UPSTREAM_TRUNCATED


def _urlopen(base: str) -> object:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(base, timeout=patience_s.get()) as response:
        return json.load(response)


def _http_client(base: str) -> object:
    connection = http.client.HTTPConnection(
        base.rpartition("/")[2], timeout=patience_s.get()
    )
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("client", [_urlopen, _http_client], ids=name_of)
@pytest.mark.parametrize(
    ("answer", "error_type"),
    [
        (Answer(), ErrorType.UPSTREAM_CONNECTION),
        (Answer(b"no http\r\n\r\n"), ErrorType.UPSTREAM_BAD_RESPONSE),
        (Answer(then="hang"), ErrorType.UPSTREAM_TIMEOUT),
        (Answer(HALF), ErrorType.UPSTREAM_TRUNCATED),
    ],
    ids=["closed", "garbage", "silent", "half"],
)
async def test_clients_of_the_standard_library(
    client: Callable[[str], object], answer: Answer, error_type: ErrorType
) -> None:
    """The clients of urllib and http are told apart as well as the others."""
    failure = await failure_of(lambda base: asyncio.to_thread(client, base), answer)

    assert failure.error_type is error_type


async def test_statuses_of_urllib() -> None:
    """An HTTPError of urllib has the type of its status."""

    async def call(base: str) -> None:
        try:
            await asyncio.to_thread(_urlopen, base)
        except urllib.error.HTTPError as exc:
            exc.close()
            raise

    failure = await failure_of(call, reply(503, {}))

    assert failure.error_type is ErrorType.UPSTREAM_OVERLOADED
    assert failure.status_code == 503


async def test_a_proxy_on_the_way_that_refuses() -> None:
    """A forward proxy's 403 is a connection failure, not the upstream's refusal."""

    async def call(base: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get("https://127.0.0.1:9", proxy=base),
        ):
            pass

    failure = await failure_of(call, reply(403, {}))

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION
    assert failure.status_code == 403


async def test_a_write_to_an_agent_that_left() -> None:
    """What aiohttp raises at a handler whose agent is gone blames the agent."""
    seen: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    async def handle(request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        response = aiohttp.web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"data: {}\n\n")
                await asyncio.sleep(0.01)
        except ConnectionError as exc:
            seen.set_result(exc)
        return response

    runner = aiohttp.web.ServerRunner(aiohttp.web.Server(handle))
    await runner.setup()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", 0).start()
    _, writer = await asyncio.open_connection(*runner.addresses[0][:2])
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await settle()
    writer.transport.abort()

    exc = await asyncio.wait_for(seen, 30)
    await runner.cleanup()

    for phase in (Phase.CHUNK, Phase.HANDLER):
        failure = describe(exc, phase=phase, key=KEY)
        assert failure.error_type is ErrorType.AGENT_DISCONNECTED
        assert failure.origin is Origin.AGENT


async def test_cancellation_by_asyncio() -> None:
    """A cancelled task, also within a group, is a cancellation and no failure."""
    task = asyncio.ensure_future(asyncio.Event().wait())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    pooled = concurrent.futures.Future[None]()
    pooled.cancel()
    with pytest.raises(concurrent.futures.CancelledError) as refused:
        pooled.result()

    assert is_cancellation(caught.value)
    assert is_cancellation(refused.value)
    assert is_cancellation(BaseExceptionGroup("", [caught.value, refused.value]))
    assert not is_cancellation(BaseExceptionGroup("", [caught.value, ValueError()]))
