"""What HTTP statuses, provider codes and gRPC status names stand for."""

from collections.abc import Mapping
from typing import Final, NamedTuple

from otel_intercept.semconv import ErrorType

_TIMEOUT: Final = ErrorType.UPSTREAM_TIMEOUT
_CONNECTION: Final = ErrorType.UPSTREAM_CONNECTION
_RATE_LIMITED: Final = ErrorType.UPSTREAM_RATE_LIMITED
_OVERLOADED: Final = ErrorType.UPSTREAM_OVERLOADED
_SERVER_ERROR: Final = ErrorType.UPSTREAM_SERVER_ERROR
_AUTH: Final = ErrorType.UPSTREAM_AUTH
_BAD_REQUEST: Final = ErrorType.UPSTREAM_BAD_REQUEST
_CONTEXT_LENGTH: Final = ErrorType.UPSTREAM_CONTEXT_LENGTH
_CONTENT_FILTER: Final = ErrorType.UPSTREAM_CONTENT_FILTER
_BAD_RESPONSE: Final = ErrorType.UPSTREAM_BAD_RESPONSE
_TRUNCATED: Final = ErrorType.UPSTREAM_TRUNCATED

NOT_RETRYABLE: Final = frozenset(
    {_AUTH, _BAD_REQUEST, _CONTEXT_LENGTH, _CONTENT_FILTER, ErrorType.HANDLER_ERROR}
)
"""Types where the same call fails again. The unknown may succeed: so SDKs treat it."""

STATUSES: Final[Mapping[int, ErrorType]] = {
    **dict.fromkeys(range(400, 500), _BAD_REQUEST),
    **dict.fromkeys(range(500, 600), _SERVER_ERROR),
    **dict.fromkeys((401, 403), _AUTH),
    **dict.fromkeys((408, 504), _TIMEOUT),
    429: _RATE_LIMITED,
    **dict.fromkeys((503, 529), _OVERLOADED),
}

RETRYABLE_STATUSES: Final[Mapping[int, bool]] = {409: True, 425: True, 501: False}
"""Where retrying differs from the type: a conflict passes, a 501 does not."""


class Code(NamedTuple):
    """What a provider's ``code`` or ``type`` field says.

    Args:
        name: Our own object for the code: what came over the wire is never kept.
        error_type: What it stands for.
        refines: Whether it says more than an HTTP status does.
        retryable: Whether retrying can help, or None for the type's own answer.
    """

    name: str
    error_type: ErrorType
    refines: bool
    retryable: bool | None


_REFINING: Final = (
    (_CONTEXT_LENGTH, "context_length_exceeded request_too_large"),
    (_CONTEXT_LENGTH, "exceed_context_size_error model_context_window_exceeded"),
    (_CONTENT_FILTER, "content_filter content_policy_violation invalid_prompt"),
    (_CONTENT_FILTER, "moderation_blocked ResponsibleAIPolicyViolation"),
    (_RATE_LIMITED, "rate_limit_exceeded rate_limit_error insufficient_quota"),
    (_RATE_LIMITED, "contract_spend_limit_reached enforced_spend_limit_reached"),
    (_RATE_LIMITED, "ThrottlingException TooManyRequestsException"),
    (_RATE_LIMITED, "ServiceQuotaExceededException"),
    (_OVERLOADED, "overloaded_error slow_down ModelNotReadyException"),
    (_AUTH, "authentication_error invalid_api_key permission_error billing_error"),
    (_AUTH, "AccessDeniedException ExpiredTokenException UnrecognizedClientException"),
    (_TIMEOUT, "timeout_error ModelTimeoutException"),
    (_TRUNCATED, "ModelStreamErrorException"),
    (_SERVER_ERROR, "ModelErrorException"),
)

_PLAIN: Final = (
    (_SERVER_ERROR, "api_error server_error internal_server_error"),
    (_SERVER_ERROR, "InternalServerError InternalServerException"),
    (_OVERLOADED, "service_unavailable ServiceUnavailableException"),
    (_OVERLOADED, "server_is_overloaded service_unavailable_error"),
    (_BAD_REQUEST, "invalid_request_error not_found_error model_not_found"),
    (_BAD_REQUEST, "BadRequestError ValidationException ResourceNotFoundException"),
    (_SERVER_ERROR, "UNKNOWN ABORTED INTERNAL"),
    (_CONNECTION, "UNAVAILABLE CANCELLED"),
    (_TIMEOUT, "DEADLINE_EXCEEDED"),
    (_RATE_LIMITED, "RESOURCE_EXHAUSTED"),
    (_AUTH, "UNAUTHENTICATED PERMISSION_DENIED"),
    (_BAD_REQUEST, "INVALID_ARGUMENT NOT_FOUND ALREADY_EXISTS OUT_OF_RANGE"),
    (_BAD_REQUEST, "FAILED_PRECONDITION UNIMPLEMENTED"),
    (_BAD_RESPONSE, "DATA_LOSS"),
)

_SPENT: Final = {
    "insufficient_quota",
    "contract_spend_limit_reached",
    "enforced_spend_limit_reached",
}

# Bedrock sends its exceptions in lower camel case once the stream has begun; vLLM and
# OpenRouter put the status into the code; another proxy of ours puts its error type.
CODES: Final[Mapping[str, Code]] = {
    **{
        f"{status}": Code(
            f"{status}",
            error_type,
            refines=False,
            retryable=RETRYABLE_STATUSES.get(status),
        )
        for status, error_type in STATUSES.items()
    },
    **{
        error_type.value: Code(
            error_type.value, error_type, refines=True, retryable=None
        )
        for error_type in ErrorType
        if error_type is not ErrorType.OTHER
    },
    **{
        spelling: Code(name, error_type, refines, False if name in _SPENT else None)
        for refines, table in ((True, _REFINING), (False, _PLAIN))
        for error_type, names in table
        for name in names.split()
        for spelling in (name, name[0].lower() + name[1:])
    },
}
"""Codes of OpenAI, Azure, Anthropic, vLLM, llama.cpp and Bedrock; names of gRPC's."""
