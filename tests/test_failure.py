"""The descriptor: which link of a chain decides, whose side it is, what is kept."""

import asyncio
import errno
import gc
import json
import pickle
import ssl
import types
import weakref
from dataclasses import fields
from http import HTTPStatus

import aiohttp
import httpcore
import httpx
import pytest

from otel_intercept import failure as failures
from otel_intercept.errors import StreamInterrupted
from otel_intercept.failure import Failure, describe, is_cancellation
from otel_intercept.semconv import ErrorType, Origin, Phase
from tests.exceptions import KEY, described, json_error, linked

WRITING = (Phase.PREPARE, Phase.KEEPALIVE, Phase.CHUNK, Phase.EOF)
READING = (Phase.RESPONSE_FUTURE, Phase.UPSTREAM_CALL, Phase.LATE)


def test_nothing_known_gives_the_default() -> None:
    """An exception of which nothing is known has the type that the caller says."""
    exc = ValueError("x")

    plain = described(exc)
    own = describe(exc, phase=Phase.HANDLER, key=KEY, default=ErrorType.HANDLER_ERROR)

    assert plain.error_type is ErrorType.OTHER
    assert plain.exception_type == "ValueError"
    assert own.error_type is ErrorType.HANDLER_ERROR
    assert not own.retryable


def test_a_known_exception_overrides_the_default() -> None:
    """The default is for the unknown only."""
    failure = describe(
        TimeoutError(), phase=Phase.HANDLER, key=KEY, default=ErrorType.HANDLER_ERROR
    )

    assert failure.error_type is ErrorType.UPSTREAM_TIMEOUT


def test_a_wrapper_says_less_than_its_cause() -> None:
    """Classes of which nothing is known are looked through."""
    exc = linked(RuntimeError("a"), KeyError("b"), httpx.ReadTimeout("c"))

    failure = described(exc)

    assert failure.error_type is ErrorType.UPSTREAM_TIMEOUT
    assert failure.exception_type == "RuntimeError"
    assert failure.cause_types == ("KeyError", "httpx.ReadTimeout")


def test_the_outermost_of_equals_decides() -> None:
    """What came of an earlier failure is what the failure is now."""
    exc = linked(httpx.ReadTimeout("now"), ssl.SSLError("before"))

    assert described(exc).error_type is ErrorType.UPSTREAM_TIMEOUT


def test_the_context_counts_where_there_is_no_cause() -> None:
    """An exception raised while another was handled is looked through as well."""
    exc = RuntimeError("a")
    exc.__context__ = httpx.ReadTimeout("b")

    assert described(exc).error_type is ErrorType.UPSTREAM_TIMEOUT


def test_a_suppressed_context_does_not_count() -> None:
    """``from None`` says that what was handled has nothing to do with it."""
    exc = RuntimeError("a")
    exc.__context__ = httpx.ReadTimeout("b")
    exc.__suppress_context__ = True

    failure = described(exc)

    assert failure.error_type is ErrorType.OTHER
    assert failure.cause_types == ()


def test_a_cause_hides_the_context() -> None:
    """An explicit cause is followed, and the context beside it is not."""
    exc = RuntimeError("a")
    exc.__context__ = httpx.ReadTimeout("b")
    exc.__cause__ = KeyError("c")

    assert described(exc).cause_types == ("KeyError",)


def test_members_of_a_group_count() -> None:
    """The most telling member of a group decides, also of a nested one."""
    inner = ExceptionGroup("i", [ConnectionError("a"), httpx.ReadTimeout("b")])
    exc = RuntimeError("c")
    exc.__cause__ = ExceptionGroup("o", [KeyError("d"), inner])

    failure = described(exc)

    assert failure.error_type is ErrorType.UPSTREAM_TIMEOUT
    assert failure.cause_types == (
        "ExceptionGroup",
        "KeyError",
        "ExceptionGroup",
        "ConnectionError",
        "httpx.ReadTimeout",
    )


def test_cycles_end() -> None:
    """Chains and groups that lead back to themselves are read once."""
    one, two = RuntimeError("a"), KeyError("b")
    one.__cause__, two.__cause__ = two, one
    group = ExceptionGroup("g", [one, two])
    one.__context__ = group
    two.__cause__ = group

    assert described(one).cause_types == ("KeyError", "ExceptionGroup")


def test_long_chains_are_cut() -> None:
    """Eight links below the first are read, and the ninth is not."""
    eight = linked(*(RuntimeError("a") for _ in range(8)), httpx.ReadTimeout("b"))
    nine = linked(*(RuntimeError("a") for _ in range(9)), httpx.ReadTimeout("b"))

    assert described(eight).error_type is ErrorType.UPSTREAM_TIMEOUT
    assert described(nine).error_type is ErrorType.OTHER
    assert len(described(nine).cause_types) == 8


def test_large_groups_are_cut() -> None:
    """Eight members of a group are read, and the ninth is not."""
    eight = ExceptionGroup("g", [*(KeyError() for _ in range(7)), TimeoutError()])
    nine = ExceptionGroup("g", [*(KeyError() for _ in range(8)), TimeoutError()])

    assert described(eight).error_type is ErrorType.UPSTREAM_TIMEOUT
    assert described(nine).error_type is ErrorType.OTHER


def test_groups_of_groups_are_cut() -> None:
    """However much a tree of groups holds, no more than 16 links of it are read."""
    leaves = [RuntimeError("a") for _ in range(4096)]
    groups: list[Exception] = list(leaves)
    while len(groups) > 1:
        groups = [
            ExceptionGroup("g", groups[start : start + 8])
            for start in range(0, len(groups), 8)
        ]

    assert len(described(groups[0]).cause_types) == 8


@pytest.mark.parametrize(
    ("depth", "error_type"),
    [(3, ErrorType.UPSTREAM_TRUNCATED), (99, ErrorType.UPSTREAM_CONNECTION)],
)
def test_long_tracebacks_are_cut(depth: int, error_type: ErrorType) -> None:
    """The function that an error was raised in is looked for in 64 frames."""

    def _receive_response_body() -> None:
        raise httpcore.ReadError

    def descend(frames: int) -> None:
        if frames:
            descend(frames - 1)
        else:
            _receive_response_body()

    with pytest.raises(httpcore.ReadError) as caught:
        descend(depth)

    assert described(caught.value).error_type is error_type


def test_an_error_of_ours_is_described_by_what_it_holds() -> None:
    """Raising the error from a state again does not make it another failure."""
    failure = failures.from_status(429, phase=Phase.HANDLER, key=KEY)

    assert described(StreamInterrupted(failure)) is failure


def test_describing_keeps_no_reference() -> None:
    """Once described, an exception and its class can be forgotten."""
    own = types.new_class("Own", (Exception,))
    exc = own("x")
    described(exc)

    gone = weakref.ref(own)
    del exc, own
    gc.collect()

    assert gone() is None


def test_what_is_no_exception_is_the_default() -> None:
    """Describing never raises, not even on a caller's mistake."""
    nothing: BaseException = json.loads("null")

    failure = describe(nothing, phase=Phase.LATE, key=KEY)

    assert failure.error_type is ErrorType.OTHER
    assert failure.exception_type is None


@pytest.mark.parametrize("phase", WRITING)
@pytest.mark.parametrize(
    "exc",
    [
        ConnectionResetError(104, "reset"),
        BrokenPipeError(32, "pipe"),
        ConnectionAbortedError(),
        TimeoutError(errno.ETIMEDOUT, "no ack"),
        OSError(errno.EHOSTUNREACH, "no route"),
        aiohttp.ClientConnectionResetError("Cannot write to closing transport"),
        ssl.SSLError("closed"),
        linked(RuntimeError("write"), ConnectionResetError()),
    ],
    ids=repr,
)
def test_a_connection_lost_while_writing_is_the_agents(
    exc: BaseException, phase: Phase
) -> None:
    """In the phases that write to the agent, a lost connection is the agent's."""
    failure = described(exc, phase)

    assert failure.error_type is ErrorType.AGENT_DISCONNECTED
    assert failure.origin is Origin.AGENT
    assert failure.retryable


@pytest.mark.parametrize("phase", WRITING)
@pytest.mark.parametrize(
    "exc",
    [
        linked(httpx.ReadError("r"), ConnectionResetError()),
        ConnectionRefusedError(),
        aiohttp.ServerDisconnectedError(),
    ],
    ids=repr,
)
def test_an_upstream_lost_while_writing_is_the_upstreams(
    exc: BaseException, phase: Phase
) -> None:
    """An error that only a client can raise is the upstream's in every phase."""
    failure = described(exc, phase)

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION
    assert failure.origin is Origin.UPSTREAM


@pytest.mark.parametrize("phase", [*READING, Phase.HANDLER])
def test_a_connection_lost_elsewhere_is_the_upstreams(phase: Phase) -> None:
    """In the other phases, a lost connection is the upstream's."""
    failure = described(ConnectionResetError(), phase)

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION


@pytest.mark.parametrize("phase", list(Phase))
def test_data_that_cannot_be_parsed(phase: Phase) -> None:
    """Broken JSON is the upstream's only where the upstream's data is read."""
    failure = described(json_error(), phase)

    reading = phase in READING
    assert (failure.error_type is ErrorType.UPSTREAM_BAD_RESPONSE) is reading


@pytest.mark.parametrize("phase", list(Phase))
@pytest.mark.parametrize("error_type", list(ErrorType))
def test_origins(error_type: ErrorType, phase: Phase) -> None:
    """The type tells the side; of the unknown, only the handler's is the proxy's."""
    origin = failures.origin_of(error_type, phase)

    if error_type.startswith("upstream_"):
        assert origin is Origin.UPSTREAM
    elif error_type is ErrorType.AGENT_DISCONNECTED:
        assert origin is Origin.AGENT
    elif error_type is ErrorType.HANDLER_ERROR:
        assert origin is Origin.PROXY
    else:
        proxy = phase is Phase.HANDLER
        assert origin is (Origin.PROXY if proxy else Origin.UPSTREAM)


@pytest.mark.parametrize(
    ("exc", "error_type"),
    [
        (OSError(errno.EHOSTUNREACH, "x"), ErrorType.UPSTREAM_CONNECTION),
        (OSError(errno.ENETUNREACH, "x"), ErrorType.UPSTREAM_CONNECTION),
        (OSError(errno.ENOSPC, "x"), ErrorType.OTHER),
        (OSError("x"), ErrorType.OTHER),
        (OSError(), ErrorType.OTHER),
        (FileNotFoundError(errno.ENOENT, "x"), ErrorType.OTHER),
        (PermissionError(errno.EACCES, "x"), ErrorType.OTHER),
    ],
    ids=repr,
)
def test_errors_of_the_system(exc: OSError, error_type: ErrorType) -> None:
    """Of the system's errors, only those of the network are the upstream's."""
    assert described(exc).error_type is error_type


@pytest.mark.parametrize(
    ("status", "error_type", "retryable"),
    [
        (400, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (401, ErrorType.UPSTREAM_AUTH, False),
        (403, ErrorType.UPSTREAM_AUTH, False),
        (404, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (408, ErrorType.UPSTREAM_TIMEOUT, True),
        (409, ErrorType.UPSTREAM_BAD_REQUEST, True),
        (413, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (422, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (429, ErrorType.UPSTREAM_RATE_LIMITED, True),
        (499, ErrorType.UPSTREAM_BAD_REQUEST, False),
        (500, ErrorType.UPSTREAM_SERVER_ERROR, True),
        (501, ErrorType.UPSTREAM_SERVER_ERROR, False),
        (503, ErrorType.UPSTREAM_OVERLOADED, True),
        (504, ErrorType.UPSTREAM_TIMEOUT, True),
        (529, ErrorType.UPSTREAM_OVERLOADED, True),
        (599, ErrorType.UPSTREAM_SERVER_ERROR, True),
        (200, ErrorType.OTHER, True),
        (HTTPStatus.BAD_GATEWAY, ErrorType.UPSTREAM_SERVER_ERROR, True),
    ],
)
def test_a_status_alone(status: int, error_type: ErrorType, *, retryable: bool) -> None:
    """An answer without an exception has the type of its status."""
    failure = failures.from_status(status, phase=Phase.HANDLER, key=KEY)

    assert failure.error_type is error_type
    assert failure.retryable is retryable
    assert failure.status_code == status
    assert type(failure.status_code) is int
    assert failure.exception_type is None


@pytest.mark.parametrize("status", [-1, 0, 99, 600, 4111111111111111])
def test_a_number_that_is_no_status(status: int) -> None:
    """A number outside 100 to 599 is not kept: it could be anything."""
    failure = failures.from_status(status, phase=Phase.HANDLER, key=KEY)

    assert failure.error_type is ErrorType.OTHER
    assert failure.status_code is None


@pytest.mark.parametrize(
    ("kind", "code", "error_type", "retryable"),
    [
        ("overloaded_error", None, ErrorType.UPSTREAM_OVERLOADED, True),
        ("rate_limit_error", None, ErrorType.UPSTREAM_RATE_LIMITED, True),
        ("api_error", None, ErrorType.UPSTREAM_SERVER_ERROR, True),
        ("authentication_error", None, ErrorType.UPSTREAM_AUTH, False),
        ("timeout_error", None, ErrorType.UPSTREAM_TIMEOUT, True),
        (
            "invalid_request_error",
            "context_length_exceeded",
            ErrorType.UPSTREAM_CONTEXT_LENGTH,
            False,
        ),
        (
            "insufficient_quota",
            "insufficient_quota",
            ErrorType.UPSTREAM_RATE_LIMITED,
            False,
        ),
        (None, "content_filter", ErrorType.UPSTREAM_CONTENT_FILTER, False),
        ("error", "server_error", ErrorType.UPSTREAM_SERVER_ERROR, True),
        ("overloaded_error", "server_error", ErrorType.UPSTREAM_OVERLOADED, True),
        ("made_up", "made_up", ErrorType.UPSTREAM_ERROR_FRAME, True),
        ("x" * 100_000, None, ErrorType.UPSTREAM_ERROR_FRAME, True),
        (None, None, ErrorType.UPSTREAM_ERROR_FRAME, True),
    ],
)
def test_an_error_frame(
    kind: str | None, code: str | None, error_type: ErrorType, *, retryable: bool
) -> None:
    """A frame's type comes from its fields through a closed table."""
    failure = failures.from_error_frame(kind, code, key=KEY)

    assert failure.error_type is error_type
    assert failure.retryable is retryable
    assert failure.phase is Phase.CHUNK
    assert failure.origin is Origin.UPSTREAM


def test_a_failure_that_raised_nothing() -> None:
    """What the caller says is kept; the origin follows unless it is said."""
    failure = failures.without_exception(
        ErrorType.UPSTREAM_TRUNCATED, phase=Phase.EOF, status=200, key=KEY
    )
    blamed = failures.without_exception(
        ErrorType.UPSTREAM_EMPTY, phase=Phase.EOF, origin=Origin.PROXY, key=KEY
    )

    assert failure.error_type is ErrorType.UPSTREAM_TRUNCATED
    assert failure.origin is Origin.UPSTREAM
    assert failure.status_code == 200
    assert failure.retryable
    assert failure.cause_types == ()
    assert blamed.origin is Origin.PROXY


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (asyncio.CancelledError("secret"), True),
        (KeyboardInterrupt(), False),
        (TimeoutError(), False),
        (BaseExceptionGroup("g", [asyncio.CancelledError()]), True),
        (
            BaseExceptionGroup(
                "g",
                [
                    asyncio.CancelledError(),
                    BaseExceptionGroup("h", [asyncio.CancelledError(), KeyError()]),
                ],
            ),
            False,
        ),
        (linked(RuntimeError(), asyncio.CancelledError()), False),
    ],
    ids=repr,
)
def test_cancellations(exc: BaseException, *, expected: bool) -> None:
    """Only a cancellation itself, or a group of nothing else, is one."""
    assert is_cancellation(exc) is expected


def test_the_descriptor_pickles() -> None:
    """A failure comes back equal from a pickle, for it travels with the state."""
    failure = described(linked(RuntimeError("x"), TimeoutError()))

    back = pickle.loads(pickle.dumps(failure))  # noqa: S301 - it is our own

    assert back == failure
    assert back.fingerprint == failure.fingerprint


def test_the_fields_are_a_contract() -> None:
    """The descriptor has the fields that the documentation promises."""
    names = [field.name for field in fields(Failure)]

    assert names == [
        "error_type",
        "phase",
        "origin",
        "exception_type",
        "cause_types",
        "status_code",
        "retryable",
        "fingerprint",
    ]
