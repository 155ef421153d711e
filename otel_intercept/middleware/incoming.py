"""Read what may be told of a request: nothing of it is the agent's text."""

from typing import Final

from aiohttp import web

from otel_intercept.dialect import dialect_of
from otel_intercept.record import Request
from otel_intercept.semconv import OTHER
from otel_intercept.trace_context import read_traceparent

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
_MAX_RETRY_COUNT: Final = 99


def describe(request: web.Request) -> Request:
    """Return method, route template, scheme, dialect, retry count and trace link."""
    headers = request.headers
    link = read_traceparent(headers.get("traceparent"))
    return Request(
        method=request.method if request.method in _METHODS else OTHER,
        route=_route_of(request),
        scheme="https" if request.secure else "http",
        dialect=dialect_of(request.path),
        retry_count=_retry_count(headers.get("x-stainless-retry-count")),
        link=(link.trace_id, link.span_id) if link else None,
    )


def _route_of(request: web.Request) -> str:
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else ""


def _retry_count(header: str | None) -> int | None:
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    return min(int(header[:4]), _MAX_RETRY_COUNT)
