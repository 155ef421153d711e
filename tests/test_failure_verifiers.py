"""The classifier on the errors of both stacks of PrimeIntellect verifiers."""

import importlib
import importlib.util
import sys
import warnings
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import ModuleType

import openai
import pytest

from otel_intercept.failure import Failure, describe
from otel_intercept.semconv import ErrorType, Origin, Phase
from tests.broken_upstream import (
    Answer,
    broken_upstream,
    closed_port,
    openai_chat,
    raised_by,
    reply,
)

KEY = b"a key of at least 16 bytes"
HALF = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
)
MESSAGE = {"role": "assistant", "content": ""}
CHOICE = {"index": 0, "finish_reason": "stop", "message": MESSAGE}
COMPLETION = {"id": "c", "object": "chat.completion", "created": 1, "model": "m"}


def _v1_errors() -> ModuleType:
    """Load the one file of the v1 stack that is needed: all of it needs 500 MB more."""
    name = "verifiers.v1.errors"
    if name not in sys.modules:
        package = importlib.util.find_spec("verifiers")
        assert package is not None
        assert package.origin is not None
        path = Path(package.origin).parent / "v1" / "errors.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    CLIENT = importlib.import_module(
        "verifiers.legacy.clients.openai_chat_completions_client"
    )
    SERVER = importlib.import_module("verifiers.legacy.utils.interception_utils")
    LEGACY = importlib.import_module("verifiers.legacy.errors")
    TYPES = importlib.import_module("verifiers.legacy.types")
    V1 = _v1_errors()


def described(exc: BaseException, phase: Phase = Phase.RESPONSE_FUTURE) -> Failure:
    """Describe what a model call raised."""
    return describe(exc, phase=phase, key=KEY)


async def legacy_chat(base: str) -> object:
    """Complete a chat with the client of the legacy stack."""
    async with openai.AsyncOpenAI(
        base_url=f"{base}/v1", api_key="k", max_retries=0
    ) as sdk:
        client = CLIENT.OpenAIChatCompletionsClient(sdk)
        prompt = [TYPES.UserMessage(content="q")]
        return await client.get_response(prompt=prompt, model="m", sampling_args={})


def v1_chat(base: str) -> Awaitable[object]:
    """Complete a chat as the v1 stack does: each error goes through ``model_error``."""

    async def call() -> object:
        try:
            return await openai_chat(base)
        except openai.OpenAIError as exc:
            raise V1.model_error(exc) from exc

    return call()


@pytest.mark.parametrize(
    ("answer", "error_type", "status", "cause"),
    [
        (
            reply(500, {}),
            ErrorType.UPSTREAM_SERVER_ERROR,
            500,
            "openai.InternalServerError",
        ),
        (
            reply(429, {}),
            ErrorType.UPSTREAM_RATE_LIMITED,
            429,
            "openai.RateLimitError",
        ),
        (reply(400, {}), ErrorType.UPSTREAM_BAD_REQUEST, 400, "openai.BadRequestError"),
        (
            Answer(HALF),
            ErrorType.UPSTREAM_TRUNCATED,
            None,
            "openai.APIConnectionError",
        ),
        (
            reply(200, b"{no"),
            ErrorType.UPSTREAM_BAD_RESPONSE,
            None,
            "pydantic_core._pydantic_core.ValidationError",
        ),
    ],
    ids=["500", "429", "400", "half", "no_json"],
)
async def test_a_model_error_stands_for_its_cause(
    answer: Answer, error_type: ErrorType, status: int | None, cause: str
) -> None:
    """The empty ModelError around every failure does not hide what failed."""
    async with broken_upstream(answer) as base:
        failure = described(await raised_by(legacy_chat, base))

    assert failure.error_type is error_type
    assert failure.status_code == status
    assert failure.exception_type == "verifiers.legacy.errors.ModelError"
    assert failure.cause_types[0] == cause


async def test_a_prompt_that_is_too_long() -> None:
    """What verifiers has told apart by the message stays told apart."""
    error = {"error": {"message": "This model's maximum context length is 5 tokens."}}

    async with broken_upstream(reply(400, error)) as base:
        legacy = described(await raised_by(legacy_chat, base))
        v1 = described(await raised_by(v1_chat, base))

    for failure in (legacy, v1):
        assert failure.error_type is ErrorType.UPSTREAM_CONTEXT_LENGTH
        assert failure.status_code == 400
        assert not failure.retryable


@pytest.mark.parametrize(
    ("choices", "error_type"),
    [
        ([CHOICE], ErrorType.UPSTREAM_EMPTY),
        ([CHOICE, CHOICE], ErrorType.UPSTREAM_BAD_RESPONSE),
    ],
    ids=["empty", "two_choices"],
)
async def test_a_completion_that_is_of_no_use(
    choices: list[object], error_type: ErrorType
) -> None:
    """An empty completion is told apart from one that is invalid."""
    async with broken_upstream(reply(200, {**COMPLETION, "choices": choices})) as base:
        failure = described(await raised_by(legacy_chat, base))

    assert failure.error_type is error_type
    assert failure.retryable


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (401, ErrorType.UPSTREAM_AUTH),
        (429, ErrorType.UPSTREAM_RATE_LIMITED),
        (500, ErrorType.UPSTREAM_SERVER_ERROR),
        (503, ErrorType.UPSTREAM_OVERLOADED),
    ],
)
async def test_a_provider_error_with_a_cause(
    status: int, error_type: ErrorType
) -> None:
    """A ProviderError of v1 agrees with the SDK's error below it."""
    async with broken_upstream(reply(status, {})) as base:
        failure = described(await raised_by(v1_chat, base))

    assert failure.error_type is error_type
    assert failure.status_code == status
    assert failure.exception_type == "verifiers.v1.errors.ProviderError"


async def test_a_provider_error_with_a_status_that_nobody_sent() -> None:
    """The 503 that v1 puts on a refused connection neither decides nor is reported."""
    failure = described(await raised_by(v1_chat, f"http://127.0.0.1:{closed_port()}"))

    assert failure.error_type is ErrorType.UPSTREAM_CONNECTION
    assert failure.status_code is None


@pytest.mark.parametrize(
    ("status", "error_type"),
    [
        (400, ErrorType.UPSTREAM_BAD_REQUEST),
        (429, ErrorType.UPSTREAM_RATE_LIMITED),
        (502, ErrorType.UPSTREAM_SERVER_ERROR),
        (504, ErrorType.UPSTREAM_TIMEOUT),
    ],
)
def test_a_provider_error_alone(status: int, error_type: ErrorType) -> None:
    """Without a cause the status of a ProviderError is all there is."""
    failure = described(V1.ProviderError("secret", status_code=status))

    assert failure.error_type is error_type
    assert failure.status_code == status


def legacy(name: str) -> Callable[[], BaseException]:
    """Return a class of the legacy stack."""
    found: Callable[[], BaseException] = getattr(LEGACY, name)
    return found


def v1(name: str) -> Callable[[], BaseException]:
    """Return a class of the v1 stack."""
    found: Callable[[], BaseException] = getattr(V1, name)
    return found


@pytest.mark.parametrize(
    ("make", "error_type", "origin"),
    [
        (legacy("ModelError"), ErrorType.OTHER, Origin.UPSTREAM),
        (legacy("InfraError"), ErrorType.OTHER, Origin.UPSTREAM),
        (legacy("OverlongPromptError"), ErrorType.UPSTREAM_CONTEXT_LENGTH, None),
        (legacy("InvalidModelResponseError"), ErrorType.UPSTREAM_BAD_RESPONSE, None),
        (legacy("EmptyModelResponseError"), ErrorType.UPSTREAM_EMPTY, None),
        (legacy("ToolCallError"), ErrorType.HANDLER_ERROR, Origin.PROXY),
        (legacy("TunnelError"), ErrorType.AGENT_DISCONNECTED, Origin.AGENT),
        (legacy("BrowserSandboxError"), ErrorType.AGENT_DISCONNECTED, Origin.AGENT),
        (SERVER.StreamInterrupted, ErrorType.UPSTREAM_TRUNCATED, None),
        (SERVER.InterceptionError, ErrorType.OTHER, Origin.UPSTREAM),
        (v1("RolloutError"), ErrorType.OTHER, Origin.UPSTREAM),
        (v1("OverlongPromptError"), ErrorType.UPSTREAM_CONTEXT_LENGTH, None),
        (v1("HarnessError"), ErrorType.AGENT_DISCONNECTED, Origin.AGENT),
        (v1("SandboxError"), ErrorType.AGENT_DISCONNECTED, Origin.AGENT),
        (v1("InterceptionError"), ErrorType.AGENT_DISCONNECTED, Origin.AGENT),
        (v1("TunnelError"), ErrorType.AGENT_DISCONNECTED, Origin.AGENT),
        (v1("EnvError"), ErrorType.HANDLER_ERROR, Origin.PROXY),
        (v1("TaskError"), ErrorType.HANDLER_ERROR, Origin.PROXY),
        (v1("ToolsetError"), ErrorType.HANDLER_ERROR, Origin.PROXY),
    ],
    ids=str,
)
def test_classes_by_themselves(
    make: Callable[[], BaseException], error_type: ErrorType, origin: Origin | None
) -> None:
    """Classes of one name in the two stacks mean what their own stack means."""
    failure = described(make())

    assert failure.error_type is error_type
    assert failure.origin is (origin or Origin.UPSTREAM)


async def test_a_tool_that_cannot_reach_its_own_service() -> None:
    """An HTTP error below a tool's error is not the model's."""
    async with broken_upstream(reply(503, {})) as base:
        exc = await raised_by(openai_chat, base)
    error = legacy("ToolCallError")()
    error.__cause__ = exc

    failure = described(error)

    assert failure.error_type is ErrorType.HANDLER_ERROR
    assert failure.status_code is None


async def test_a_boundary_of_v1() -> None:
    """What v1's own ``boundary`` raises keeps its class, whatever is below."""
    with pytest.raises(V1.SandboxError) as caught:
        async with V1.boundary(V1.SandboxError, "provision"):
            raise TimeoutError("secret")

    failure = described(caught.value)

    assert failure.error_type is ErrorType.AGENT_DISCONNECTED
    assert failure.cause_types == ("TimeoutError",)


def test_the_old_names_are_the_same_classes() -> None:
    """Classes found under the names before 0.3 are known too."""
    alias = importlib.import_module("verifiers.errors")

    assert alias.EmptyModelResponseError is LEGACY.EmptyModelResponseError


def raised_in(function: str) -> BaseException:
    """Raise a v1 error with verifiers' own 502 in a function of this name."""
    scope: dict[str, object] = {"error": V1.ProviderError("", status_code=502)}
    exec(f"def {function}(): raise error", scope)  # noqa: S102 - a name to be tested
    call = scope[function]
    assert callable(call)
    with pytest.raises(V1.ProviderError) as raised:
        call()
    error: BaseException = raised.value
    return error


@pytest.mark.parametrize(
    ("function", "error_type"),
    [
        ("get_response", ErrorType.UPSTREAM_BAD_RESPONSE),
        ("_collect_stream", ErrorType.UPSTREAM_TRUNCATED),
        ("_request", ErrorType.UPSTREAM_SERVER_ERROR),
    ],
)
def test_a_502_that_v1_made_up_is_told_by_who_raised_it(
    function: str, error_type: ErrorType
) -> None:
    """An answer that v1 cannot read is no server error, though v1 gives it a 502."""
    failure = described(raised_in(function))

    assert failure.error_type is error_type
    assert failure.status_code == 502
