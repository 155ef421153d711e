"""What of a request and of an answer passes through the relay: URLs and headers."""

from typing import Final
from urllib.parse import unquote

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from otel_intercept.errors import ConfigurationError
from otel_intercept.semconv import Dialect

_HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_OWN_TO_REQUESTS: Final = frozenset({"host", "content-length", "expect"})
# The agent's trace is linked to, not continued: what it names stays with the relay.
_TRACE_CONTEXT: Final = frozenset({"traceparent", "tracestate", "baggage"})
_CREDENTIALS: Final = frozenset({"authorization", "x-api-key"})
_RETRY_AFTER: Final = ("retry-after", "retry-after-ms")
_MAX_DIGITS: Final = 12


def upstream_base(upstream: str) -> str:
    """Check the operator's URL, and give what ``/v1/…`` is appended to.

    A trailing ``/v1`` may be given or left out.

    Raises:
        ConfigurationError: It is no http(s) URL with a host, or has more than a path.
    """
    try:
        url = URL(upstream)
        usable = url.scheme in {"http", "https"} and bool(url.host)
    except ValueError:
        usable = False
        url = URL()
    if not usable or url.user or url.password or url.query_string or url.fragment:
        raise ConfigurationError(
            "upstream must be an http or https URL with a host and maybe a path, "
            "without user, query and fragment"
        )
    return str(url).rstrip("/").removesuffix("/v1")


def target_url(base: str, request: web.Request) -> URL | None:
    """Give the upstream's URL for a relayed request, path and query as they came.

    Returns:
        None for a path with dot segments, which could leave ``/v1/``.
    """
    path = request.rel_url.raw_path.split("/", 4)[4]
    if any(unquote(segment) in {".", ".."} for segment in path.split("/")):
        return None
    query = request.rel_url.raw_query_string
    return URL(f"{base}/v1/{path}" + (f"?{query}" if query else ""), encoded=True)


def request_headers(
    headers: CIMultiDictProxy[str], dialect: Dialect, upstream_key: str | None
) -> CIMultiDict[str]:
    """Give the headers for the upstream.

    Args:
        headers: The agent's.
        dialect: Decides where the upstream expects its key.
        upstream_key: Replaces the agent's credential, if given.
    """
    removed = _OWN_TO_REQUESTS | _TRACE_CONTEXT
    if upstream_key is not None:
        removed |= _CREDENTIALS
    passed = _end_to_end(headers, removed)
    # A compressed stream could not be observed.
    passed[hdrs.ACCEPT_ENCODING] = "identity"
    if upstream_key is not None:
        if dialect is Dialect.MESSAGES or "anthropic-version" in headers:
            passed["x-api-key"] = upstream_key
        else:
            passed[hdrs.AUTHORIZATION] = f"Bearer {upstream_key}"
    return passed


def response_headers(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    """Give the headers for the agent."""
    return _end_to_end(headers, frozenset({"content-length"}))


def retry_headers(headers: CIMultiDictProxy[str]) -> dict[str, str]:
    """Give the upstream's word on when and whether to retry, if it is no other text."""
    kept = {
        name: headers[name]
        for name in _RETRY_AFTER
        if _is_number(headers.get(name, ""))
    }
    if headers.get("x-should-retry") in {"true", "false"}:
        kept["x-should-retry"] = headers["x-should-retry"]
    return kept


def _end_to_end(
    headers: CIMultiDictProxy[str], removed: frozenset[str]
) -> CIMultiDict[str]:
    listed = ",".join(headers.getall(hdrs.CONNECTION, [])).lower().split(",")
    dropped = _HOP_BY_HOP | removed | {name.strip() for name in listed}
    return CIMultiDict(
        (name, value) for name, value in headers.items() if name.lower() not in dropped
    )


def _is_number(value: str) -> bool:
    digits = value.replace(".", "", 1)
    return len(value) <= _MAX_DIGITS and digits.isascii() and digits.isdigit()
