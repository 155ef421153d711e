"""The classifier on errors that real gRPC calls raise."""

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import TypeAlias

import grpc
import grpc.aio
import pytest

from otel_intercept.failure import Failure, describe
from otel_intercept.semconv import ErrorType, Origin, Phase
from tests.broken_upstream import closed_port

KEY = b"a key of at least 16 bytes"
ENDED = {
    grpc.StatusCode.CANCELLED: ErrorType.UPSTREAM_CONNECTION,
    grpc.StatusCode.UNKNOWN: ErrorType.UPSTREAM_SERVER_ERROR,
    grpc.StatusCode.INVALID_ARGUMENT: ErrorType.UPSTREAM_BAD_REQUEST,
    grpc.StatusCode.DEADLINE_EXCEEDED: ErrorType.UPSTREAM_TIMEOUT,
    grpc.StatusCode.NOT_FOUND: ErrorType.UPSTREAM_BAD_REQUEST,
    grpc.StatusCode.ALREADY_EXISTS: ErrorType.UPSTREAM_BAD_REQUEST,
    grpc.StatusCode.PERMISSION_DENIED: ErrorType.UPSTREAM_AUTH,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorType.UPSTREAM_RATE_LIMITED,
    grpc.StatusCode.FAILED_PRECONDITION: ErrorType.UPSTREAM_BAD_REQUEST,
    grpc.StatusCode.ABORTED: ErrorType.UPSTREAM_SERVER_ERROR,
    grpc.StatusCode.OUT_OF_RANGE: ErrorType.UPSTREAM_BAD_REQUEST,
    grpc.StatusCode.UNIMPLEMENTED: ErrorType.UPSTREAM_BAD_REQUEST,
    grpc.StatusCode.INTERNAL: ErrorType.UPSTREAM_SERVER_ERROR,
    grpc.StatusCode.UNAVAILABLE: ErrorType.UPSTREAM_CONNECTION,
    grpc.StatusCode.DATA_LOSS: ErrorType.UPSTREAM_BAD_RESPONSE,
    grpc.StatusCode.UNAUTHENTICATED: ErrorType.UPSTREAM_AUTH,
}
NOT_RETRYABLE = {ErrorType.UPSTREAM_AUTH, ErrorType.UPSTREAM_BAD_REQUEST}

each_code = pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]
)


Context: TypeAlias = "grpc.aio.ServicerContext[bytes, bytes]"


async def _abort(request: bytes, context: Context) -> bytes:
    if request == b"hang":
        await asyncio.Event().wait()
    await context.abort(grpc.StatusCode[request.decode()], "text with a secret")
    raise AssertionError("abort returns never")


async def _abort_stream(request: bytes, context: Context) -> AsyncIterator[bytes]:
    yield b"first"
    await _abort(request, context)


@pytest.fixture
async def target() -> AsyncIterator[str]:
    """Serve calls that end with the status named by their request."""
    server = grpc.aio.server()
    methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "Call": grpc.unary_unary_rpc_method_handler(_abort),
        "Stream": grpc.unary_stream_rpc_method_handler(_abort_stream),
    }
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("test.Upstream", methods),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


def described(exc: BaseException) -> Failure:
    """Describe an exception that an upstream call raised."""
    return describe(exc, phase=Phase.UPSTREAM_CALL, key=KEY)


async def raised_by_aio(target: str, request: bytes, within_s: float = 5) -> Failure:
    """Describe what an asyncio call raises."""
    async with grpc.aio.insecure_channel(target) as channel:
        call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]
        call = channel.unary_unary("/test.Upstream/Call")
        with pytest.raises(grpc.RpcError) as caught:
            await call(request, timeout=within_s)
    return described(caught.value)


def raised_by_blocking(target: str, request: bytes, *, stream: bool) -> Failure:
    """Describe what a blocking call raises."""
    with grpc.insecure_channel(target) as channel:
        several: grpc.UnaryStreamMultiCallable[bytes, bytes]
        several = channel.unary_stream("/test.Upstream/Stream")
        one: grpc.UnaryUnaryMultiCallable[bytes, bytes]
        one = channel.unary_unary("/test.Upstream/Call")
        with pytest.raises(grpc.RpcError) as caught:
            list(several(request, timeout=5) if stream else one(request, timeout=5))
    return described(caught.value)


@each_code
async def test_codes_of_asyncio_calls(target: str, code: grpc.StatusCode) -> None:
    """Each status of an asyncio call has its type, and is no HTTP status."""
    failure = await raised_by_aio(target, code.name.encode())

    assert failure.error_type is ENDED[code]
    assert failure.retryable is (ENDED[code] not in NOT_RETRYABLE)
    assert failure.origin is Origin.UPSTREAM
    assert failure.exception_type == "grpc.aio._call.AioRpcError"
    assert failure.status_code is None


@each_code
@pytest.mark.parametrize("stream", [False, True], ids=["unary", "stream"])
async def test_codes_of_blocking_calls(
    target: str, code: grpc.StatusCode, *, stream: bool
) -> None:
    """Each status of a blocking call has its type, in a stream as well."""
    blocking = functools.partial(raised_by_blocking, stream=stream)

    failure = await asyncio.to_thread(blocking, target, code.name.encode())

    assert failure.error_type is ENDED[code]
    assert failure.exception_type is not None
    assert failure.exception_type.startswith("grpc._channel._")


async def test_a_deadline(target: str) -> None:
    """A call that takes too long is a timeout."""
    failure = await raised_by_aio(target, b"hang", within_s=0.1)

    assert failure.error_type is ErrorType.UPSTREAM_TIMEOUT
    assert failure.retryable


async def test_a_port_that_nobody_listens_on() -> None:
    """A server that is not there is a connection failure."""
    failure = await raised_by_aio(f"127.0.0.1:{closed_port()}", b"x")

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION


async def test_a_channel_that_does_not_get_ready() -> None:
    """Waiting for a channel in vain is a timeout."""

    def wait() -> None:
        with grpc.insecure_channel(f"127.0.0.1:{closed_port()}") as channel:
            grpc.channel_ready_future(channel).result(timeout=0.1)

    with pytest.raises(grpc.FutureTimeoutError) as caught:
        await asyncio.to_thread(wait)

    assert described(caught.value).error_type is ErrorType.UPSTREAM_TIMEOUT
