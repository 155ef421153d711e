"""What is known of exception classes, by full dotted name, library by library."""

import errno
from collections.abc import Mapping
from functools import partial
from typing import Final, TypeAlias

from otel_intercept.semconv import ErrorType, Phase
from otel_intercept.taxonomy.known import READING, WRITING, Known, Weight

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
_ERROR_FRAME: Final = ErrorType.UPSTREAM_ERROR_FRAME
_TRUNCATED: Final = ErrorType.UPSTREAM_TRUNCATED
_AGENT: Final = ErrorType.AGENT_DISCONNECTED
_HANDLER: Final = ErrorType.HANDLER_ERROR

_SDK_STATUS: Final = ("status_code",)
_OPENAI_CODES: Final = (("code",), ("type",), ("body", "error", "code"))
_ANTHROPIC_CODES: Final = (
    ("body", "error", "details", "error_code"),
    ("body", "error", "type"),
)
_BOTO_STATUS: Final = ("response", "ResponseMetadata", "HTTPStatusCode")
_BOTO_CODES: Final = (("response", "Error", "Code"),)
_GRPC_CODES: Final = (("_code", "_name_"), ("_state", "code", "_name_"))

READABLE: Final = frozenset(
    {"grpc.StatusCode", "grpc._channel._RPCState", "httpx.Response", "httpx2.Response"}
)
"""Classes, other than exceptions, that a path may lead through."""

QUOTABLE: Final = frozenset(
    {
        "aiohttp.client_exceptions",
        "asyncio.exceptions",
        "builtins",
        "httpcore",
        "httpcore2",
        "httpx",
        "httpx2",
        "json.decoder",
        "socket",
        "ssl",
    }
)
"""Modules whose errors say fixed sentences, and none of what an upstream sent."""

_UNREACHABLE: Final = frozenset(
    {errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH}
)
_IN_BODY: Final = frozenset({"_receive_response_body"})

_likely: Final = partial(Known, weight=Weight.LIKELY)
_hint: Final = partial(Known, weight=Weight.HINT)
_proven: Final = partial(Known, weight=Weight.PROVEN)
_unparsable: Final = _likely(_BAD_RESPONSE, phases=READING)

_Row: TypeAlias = tuple[str, str, Known]
"""Modules, class names, and what is known of each of them in each of those."""

_STANDARD: Final[tuple[_Row, ...]] = (
    ("builtins", "TimeoutError", _likely(_TIMEOUT, agent=WRITING)),
    ("builtins", "ConnectionError", _likely(_CONNECTION, agent=WRITING)),
    ("builtins", "ConnectionRefusedError", _likely(_CONNECTION)),
    ("builtins", "OSError", _likely(_CONNECTION, agent=WRITING, errnos=_UNREACHABLE)),
    ("builtins", "UnicodeDecodeError", _unparsable),
    ("json.decoder", "JSONDecodeError", _unparsable),
    ("pydantic_core._pydantic_core", "ValidationError", _unparsable),
    ("asyncio.exceptions", "IncompleteReadError", Known(_TRUNCATED)),
    ("asyncio.exceptions", "LimitOverrunError", _unparsable),
    ("socket", "gaierror herror", Known(_CONNECTION)),
    ("ssl", "SSLError", Known(_CONNECTION, agent=WRITING)),
    ("ssl", "SSLCertVerificationError", Known(_CONNECTION, retryable=False)),
    ("http.client", "RemoteDisconnected", Known(_CONNECTION)),
    ("http.client", "IncompleteRead", Known(_TRUNCATED)),
    ("http.client", "HTTPException BadStatusLine", Known(_BAD_RESPONSE)),
    ("urllib.error", "HTTPError", Known(_BAD_RESPONSE, status=("code",))),
    ("urllib.error", "URLError", _hint(_CONNECTION, wraps_argument=True)),
)

_AIOHTTP: Final = "aiohttp.client_exceptions"
_AIOHTTP_WIRE: Final = "aiohttp.http_exceptions"
_CERTIFICATE: Final = "ClientConnectorCertificateError ServerFingerprintMismatch"
_REDIRECT: Final = "RedirectClientError InvalidUrlRedirectClientError"

_AIOHTTP_ROWS: Final[tuple[_Row, ...]] = (
    (_AIOHTTP, "ClientResponseError", Known(_BAD_RESPONSE, status=("status",))),
    (
        _AIOHTTP,
        "ClientHttpProxyError",
        Known(_CONNECTION, status=("status",), fixed=True),
    ),
    (_AIOHTTP, "ServerTimeoutError", Known(_TIMEOUT)),
    (_AIOHTTP, "ClientConnectionError", Known(_CONNECTION)),
    (
        _AIOHTTP,
        "ClientConnectionResetError",
        Known(_CONNECTION, agent=WRITING | {Phase.HANDLER}),
    ),
    (_AIOHTTP, _CERTIFICATE, Known(_CONNECTION, retryable=False)),
    (_AIOHTTP, "ClientPayloadError", _likely(_TRUNCATED)),
    (_AIOHTTP, "InvalidURL NonHttpUrlClientError", Known(_BAD_REQUEST)),
    (_AIOHTTP, f"{_REDIRECT} NonHttpUrlRedirectClientError", Known(_BAD_RESPONSE)),
    (_AIOHTTP, "ClientError", _hint(_CONNECTION)),
    # aiohttp reports an unreadable answer as a status of 400 that nobody had sent.
    (_AIOHTTP_WIRE, "HttpProcessingError", _proven(_BAD_RESPONSE)),
    (_AIOHTTP_WIRE, "TransferEncodingError ContentLengthError", _proven(_TRUNCATED)),
    # The agent's body is broken, and the handler has let that escape.
    ("aiohttp.web_protocol", "RequestPayloadError", _proven(_HANDLER)),
)

_HTTPX: Final = "httpx httpx2"
_HTTPCORE: Final = "httpcore httpcore2"
_BOTH: Final = f"{_HTTPX} {_HTTPCORE}"

_HTTPX_ROWS: Final[tuple[_Row, ...]] = (
    (
        _HTTPX,
        "HTTPStatusError",
        Known(_BAD_RESPONSE, status=("response", "status_code")),
    ),
    (_HTTPX, "HTTPError NetworkError RemoteProtocolError", _likely(_CONNECTION)),
    (_HTTPX, "DecodingError TooManyRedirects SSEError", Known(_BAD_RESPONSE)),
    (_HTTPX, "InvalidURL", Known(_BAD_REQUEST)),
    (_HTTPX, "StreamError", Known(_HANDLER)),
    (_BOTH, "TimeoutException", Known(_TIMEOUT)),
    (_HTTPX, "ConnectError ProxyError", _likely(_CONNECTION)),
    (_BOTH, "LocalProtocolError UnsupportedProtocol", Known(_BAD_REQUEST)),
    (
        _HTTPCORE,
        "NetworkError ProxyError RemoteProtocolError",
        _likely(_CONNECTION, truncated_in=_IN_BODY, wraps_argument=True),
    ),
    (
        "h11._util",
        "RemoteProtocolError",
        _proven(_BAD_RESPONSE, truncated_in=frozenset({"read_eof"})),
    ),
)

# botocore's event streams raise the errors of urllib3 as they are.
_URLLIB3: Final = "urllib3.exceptions"
_URLLIB3_ROWS: Final[tuple[_Row, ...]] = (
    (_URLLIB3, "TimeoutError", Known(_TIMEOUT)),
    (_URLLIB3, "DecodeError", Known(_BAD_RESPONSE)),
    (_URLLIB3, "NewConnectionError HTTPError", _likely(_CONNECTION)),
    (
        _URLLIB3,
        "ProtocolError",
        _likely(_CONNECTION, truncated_in=frozenset({"_error_catcher"})),
    ),
)

_SDK_CLASSES: Final = (
    (_BAD_REQUEST, "BadRequestError NotFoundError ConflictError ContentTooLargeError"),
    (_BAD_REQUEST, "UnprocessableEntityError PaymentRequiredError"),
    (_AUTH, "AuthenticationError PermissionDeniedError"),
    (_RATE_LIMITED, "RateLimitError"),
    (_OVERLOADED, "OverloadedError ServiceUnavailableError"),
    (_TIMEOUT, "RequestTimeoutError GatewayTimeoutError"),
    (_SERVER_ERROR, "InternalServerError"),
    # Raised as such for an error event in a stream, which had begun with a 200.
    (_ERROR_FRAME, "APIStatusError"),
)

_SDK_ROWS: Final[tuple[_Row, ...]] = (
    *(
        (sdk, names, Known(error_type, status=_SDK_STATUS, codes=codes))
        for sdk, codes in (("openai", _OPENAI_CODES), ("anthropic", _ANTHROPIC_CODES))
        for error_type, names in _SDK_CLASSES
    ),
    ("openai anthropic", "APITimeoutError", Known(_TIMEOUT)),
    ("openai anthropic", "APIConnectionError", _likely(_CONNECTION)),
    (
        "openai anthropic",
        "APIResponseValidationError",
        Known(_BAD_RESPONSE, status=_SDK_STATUS, fixed=True),
    ),
    ("openai", "APIError", _likely(_ERROR_FRAME, codes=_OPENAI_CODES)),
    ("openai", "OAuthError", Known(_AUTH, status=_SDK_STATUS, fixed=True)),
    ("openai._exceptions", "SubjectTokenProviderError", Known(_AUTH)),
    ("openai", "ContentFilterFinishReasonError", Known(_CONTENT_FILTER)),
    ("openai", "LengthFinishReasonError", Known(_BAD_RESPONSE, retryable=False)),
    ("openai", "WebSocketConnectionClosedError", Known(_CONNECTION)),
    ("anthropic", "CredentialsError", Known(_AUTH)),
)

_BOTO: Final = "botocore.exceptions"
_BOTO_LOGIN: Final = (
    "NoCredentialsError PartialCredentialsError CredentialRetrievalError LoginError"
    " NoAuthTokenError SSOError TokenRetrievalError"
)

_RPC_ROWS: Final[tuple[_Row, ...]] = (
    (
        _BOTO,
        "ClientError",
        Known(_BAD_RESPONSE, status=_BOTO_STATUS, codes=_BOTO_CODES),
    ),
    (
        _BOTO,
        "EventStreamError",
        Known(_ERROR_FRAME, status=_BOTO_STATUS, codes=_BOTO_CODES),
    ),
    (_BOTO, "ConnectTimeoutError ReadTimeoutError", Known(_TIMEOUT)),
    (_BOTO, "ConnectionError HTTPClientError", _likely(_CONNECTION)),
    (_BOTO, "IncompleteReadError ResponseStreamingError", Known(_TRUNCATED)),
    (_BOTO, "ChecksumError FlexibleChecksumError", Known(_BAD_RESPONSE)),
    ("botocore.parsers", "ResponseParserError", Known(_BAD_RESPONSE)),
    ("botocore.eventstream", "ParserError", Known(_BAD_RESPONSE)),
    (_BOTO, _BOTO_LOGIN, Known(_AUTH)),
    (_BOTO, "ParamValidationError ValidationError", Known(_BAD_REQUEST)),
    ("grpc", "RpcError", _likely(_CONNECTION)),
    ("grpc", "FutureTimeoutError", Known(_TIMEOUT)),
    ("grpc.aio._call", "AioRpcError", Known(_CONNECTION, codes=_GRPC_CODES)),
    (
        "grpc._channel",
        "_InactiveRpcError _MultiThreadedRendezvous _SingleThreadedRendezvous",
        Known(_CONNECTION, codes=_GRPC_CODES),
    ),
)

_VF: Final = "verifiers.legacy.errors verifiers.errors"
_VF_SERVER: Final = (
    "verifiers.legacy.utils.interception_utils verifiers.utils.interception_utils"
)
_VF_AGENT: Final = (
    "verifiers.legacy.envs.experimental.cli_agent_env"
    " verifiers.envs.experimental.cli_agent_env"
)
_VF1: Final = "verifiers.v1.errors"

# A dead sandbox, agent process or tunnel is the agent's end of the connection. Below a
# failing tool or task may be an HTTP error, but its call was no model call.
_VERIFIERS: Final[tuple[_Row, ...]] = (
    (_VF, "EmptyModelResponseError", Known(ErrorType.UPSTREAM_EMPTY)),
    (_VF, "InvalidModelResponseError", Known(_BAD_RESPONSE)),
    (_VF, "OverlongPromptError", Known(_CONTEXT_LENGTH)),
    (_VF, "ToolError", Known(_HANDLER)),
    (_VF, "TunnelError SandboxError", Known(_AGENT)),
    (_VF_AGENT, "AgentError", Known(_AGENT)),
    (_VF_SERVER, "StreamInterrupted", _hint(_TRUNCATED)),
    (
        _VF1,
        "ProviderError",
        # With a 502 of its own for answers that it cannot read.
        _hint(
            _SERVER_ERROR,
            status=_SDK_STATUS,
            raised_in={"get_response": _BAD_RESPONSE, "_collect_stream": _TRUNCATED},
        ),
    ),
    (
        _VF1,
        "OverlongPromptError",
        Known(_CONTEXT_LENGTH, status=_SDK_STATUS, fixed=True),
    ),
    (_VF1, "HarnessError SandboxError InterceptionError", Known(_AGENT)),
    (_VF1, "ToolsetError EnvError TaskError", Known(_HANDLER)),
)

_OWN: Final[tuple[_Row, ...]] = (
    (
        "otel_intercept.server.relay.upstream_answer",
        "UpstreamRefused",
        Known(_BAD_RESPONSE, status=("status",), codes=(("code",), ("type",))),
    ),
)

_ROWS: Final = (
    *_STANDARD,
    *_AIOHTTP_ROWS,
    *_HTTPX_ROWS,
    *_URLLIB3_ROWS,
    *_SDK_ROWS,
    *_RPC_ROWS,
    *_VERIFIERS,
    *_OWN,
)

CLASSES: Final[Mapping[str, Known]] = {
    f"{module}.{name}": known
    for modules, names, known in _ROWS
    for module in modules.split()
    for name in names.split()
}
"""What is known of a class, by its module and qualified name."""
