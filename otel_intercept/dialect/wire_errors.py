"""Write failures in the error shapes that the OpenAI and Anthropic SDKs raise on.

Every text is a constant. What varies is the error type, which comes from a closed set,
and the trace id. The fingerprint and the exception type stay in telemetry.
"""

import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

from otel_intercept.failure import Failure
from otel_intercept.semconv import Dialect, ErrorType


class _Wording(NamedTuple):
    message: str
    openai_type: str
    openai_code: str
    anthropic_type: str


def _server_error(message: str, error_type: ErrorType) -> _Wording:
    return _Wording(message, "server_error", error_type.value, "api_error")


# Agents look for some of these codes and phrases, to shorten a prompt for example.
_WORDINGS: Final[Mapping[ErrorType, _Wording]] = MappingProxyType(
    {
        ErrorType.UPSTREAM_TIMEOUT: _Wording(
            "The model call timed out.",
            "server_error",
            "upstream_timeout",
            "timeout_error",
        ),
        ErrorType.UPSTREAM_CONNECTION: _server_error(
            "The connection to the upstream failed.", ErrorType.UPSTREAM_CONNECTION
        ),
        ErrorType.UPSTREAM_RATE_LIMITED: _Wording(
            "The upstream's rate limit was reached.",
            "rate_limit_error",
            "rate_limit_exceeded",
            "rate_limit_error",
        ),
        ErrorType.UPSTREAM_OVERLOADED: _Wording(
            "The upstream is overloaded.",
            "service_unavailable_error",
            "server_is_overloaded",
            "overloaded_error",
        ),
        ErrorType.UPSTREAM_SERVER_ERROR: _Wording(
            "The upstream had an internal error.",
            "server_error",
            "server_error",
            "api_error",
        ),
        ErrorType.UPSTREAM_AUTH: _Wording(
            "The upstream refused the proxy's credentials.",
            "authentication_error",
            "upstream_auth",
            "authentication_error",
        ),
        ErrorType.UPSTREAM_BAD_REQUEST: _Wording(
            "The upstream refused the request as invalid.",
            "invalid_request_error",
            "upstream_bad_request",
            "invalid_request_error",
        ),
        ErrorType.UPSTREAM_CONTEXT_LENGTH: _Wording(
            "The prompt is too long: it exceeds the model's context length.",
            "invalid_request_error",
            "context_length_exceeded",
            "invalid_request_error",
        ),
        ErrorType.UPSTREAM_CONTENT_FILTER: _Wording(
            "The upstream's content filter stopped the request.",
            "invalid_request_error",
            "content_filter",
            "invalid_request_error",
        ),
        ErrorType.UPSTREAM_BAD_RESPONSE: _server_error(
            "The upstream's response could not be read.",
            ErrorType.UPSTREAM_BAD_RESPONSE,
        ),
        ErrorType.UPSTREAM_EMPTY: _server_error(
            "The upstream returned no completion.", ErrorType.UPSTREAM_EMPTY
        ),
        ErrorType.UPSTREAM_ERROR_FRAME: _server_error(
            "The upstream reported an error inside its stream.",
            ErrorType.UPSTREAM_ERROR_FRAME,
        ),
        ErrorType.UPSTREAM_TRUNCATED: _server_error(
            "The upstream's response ended early.", ErrorType.UPSTREAM_TRUNCATED
        ),
        ErrorType.AGENT_DISCONNECTED: _server_error(
            "The agent left before the answer was complete.",
            ErrorType.AGENT_DISCONNECTED,
        ),
        ErrorType.HANDLER_ERROR: _server_error(
            "The proxy failed to handle the request.", ErrorType.HANDLER_ERROR
        ),
        ErrorType.OTHER: _server_error("The model call failed.", ErrorType.OTHER),
    }
)


def error_body(
    dialect: Dialect,
    failure: Failure | None,
    *,
    trace_id: str | None,
    error_type: ErrorType | None = None,
) -> dict[str, object]:
    """Give the JSON body of an error answer, in the dialect's shape.

    Args:
        dialect: Anthropic's shape for messages, OpenAI's for everything else.
        failure: What happened; only its error type is used.
        trace_id: 32 hex digits for the agent's log, or None to leave it out.
        error_type: What happened where there is no ``failure``; ``_OTHER`` without it.
    """
    error = _error_object(dialect, failure, trace_id, error_type)
    if dialect is Dialect.MESSAGES:
        return {"type": "error", "error": error}
    return {"error": error}


def error_frame(
    dialect: Dialect,
    failure: Failure | None,
    *,
    trace_id: str | None,
    error_type: ErrorType | None = None,
) -> bytes:
    """Give the event that makes an SDK of the dialect raise inside a 200 event stream.

    Takes what ``error_body`` takes. Write it only between two events.
    """
    if dialect is Dialect.MESSAGES:
        body = error_body(dialect, failure, trace_id=trace_id, error_type=error_type)
        return b"event: error\ndata: " + _dump(body) + b"\n\n"
    error = _error_object(dialect, failure, trace_id, error_type)
    if dialect is Dialect.RESPONSES:
        # The documented event is flat, but the SDK raises only on a nested ``error``.
        event = {
            "type": "error",
            "sequence_number": 0,
            "code": error["code"],
            "message": error["message"],
            "param": None,
            "error": error,
        }
        return b"event: error\ndata: " + _dump(event) + b"\n\n"
    return b"data: " + _dump({"error": error}) + b"\n\n"


def error_message(error_type: ErrorType) -> str:
    """Give the sentence that tells an agent of a failure; a constant for each type."""
    return _WORDINGS[error_type].message


def error_headers(failure: Failure | None) -> dict[str, str]:
    """Give the headers that stop SDKs from repeating a call that cannot succeed."""
    if failure is None or failure.retryable:
        return {}
    return {"x-should-retry": "false"}


def _error_object(
    dialect: Dialect,
    failure: Failure | None,
    trace_id: str | None,
    error_type: ErrorType | None,
) -> dict[str, object]:
    named = failure.error_type if failure else error_type or ErrorType.OTHER
    wording = _WORDINGS[named]
    error: dict[str, object] = {"message": wording.message}
    if dialect is Dialect.MESSAGES:
        error["type"] = wording.anthropic_type
    else:
        error["type"] = wording.openai_type
        error["param"] = None
        error["code"] = wording.openai_code
    error["error_type"] = named.value
    if trace_id is not None:
        error["trace_id"] = trace_id
    return error


def _dump(value: dict[str, object]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
