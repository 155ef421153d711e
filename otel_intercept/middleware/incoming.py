"""Read what may be told of a request: nothing of it is the agent's text."""

from typing import Final

from aiohttp import web
from multidict import istr

from otel_intercept.dialect import dialect_of
from otel_intercept.middleware.connections import Connections
from otel_intercept.middleware.foreign import is_foreign
from otel_intercept.record import Request
from otel_intercept.semconv import OTHER, Dialect
from otel_intercept.trace_context import read_traceparent

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
_SCHEMES: Final = frozenset({"http", "https"})
# Names that need no folding to be looked up.
_RETRY_COUNT: Final = istr("x-stainless-retry-count")
_TRACEPARENT: Final = istr("traceparent")
_MAX_RETRY_COUNT: Final = 99


class Place:
    """What all requests of one route have in common, found out once.

    Args:
        request: One of them.
        app: The app whose middleware serves them, if it is one of ours.
        connections: Those of its server.

    Attributes:
        apps_above: The apps that a request has come through before.
        connections: Those of its server.
        foreign: Whether contrib's middleware stands in an app on the way.
        outermost: Whether no middleware of an app above may change the response.
    """

    __slots__ = (
        "_dialect",
        "_requests",
        "_route",
        "apps_above",
        "connections",
        "foreign",
        "outermost",
    )

    def __init__(
        self,
        request: web.Request,
        app: web.Application | None,
        connections: Connections,
    ) -> None:
        resource = request.match_info.route.resource
        apps = request.match_info.apps
        self._route = "" if resource is None else resource.canonical
        self._dialect = _dialect_of(self._route)
        # By method, scheme and the header that counts retries, as it should be.
        self._requests: dict[tuple[str, str, str | None], Request] = {}
        self.apps_above = () if app is None else apps[: apps.index(app)]
        self.connections = connections
        self.foreign = any(map(is_foreign, apps))
        self.outermost = not any(other.middlewares for other in self.apps_above)

    def describe(self, request: web.Request) -> Request:
        """Return method, route template, scheme, dialect, retry count and link."""
        headers = request.headers
        if _TRACEPARENT not in headers:
            key = (request.method, request.scheme, headers.get(_RETRY_COUNT))
            known = self._requests.get(key)
            if known is not None:
                return known
        return self._read(request)

    def _read(self, request: web.Request) -> Request:
        header = request.headers.get(_RETRY_COUNT)
        retry_count = _retry_count(header)
        link = read_traceparent(request.headers.get(_TRACEPARENT))
        method = request.method if request.method in _METHODS else OTHER
        description = Request(
            method=method,
            route=self._route,
            scheme="https" if request.secure else "http",
            dialect=self._dialect or dialect_of(request.path),
            retry_count=retry_count,
            link=(link.trace_id, link.span_id) if link else None,
        )
        # Only what is one of few: the agent may send anything, even the scheme, where a
        # middleware takes it from a header.
        usual = header is None or header == str(retry_count)
        known = method != OTHER and request.scheme in _SCHEMES
        if usual and known and link is None and self._dialect is not None:
            self._requests[request.method, request.scheme, header] = description
        return description


class Places(dict[web.AbstractRoute, Place]):
    """The places of one server, by route.

    Args:
        app: The app whose middleware serves them, if it is one of ours.
        connections: Those of its server.
    """

    __slots__ = ("_app", "_connections")

    def __init__(self, app: web.Application | None, connections: Connections) -> None:
        super().__init__()
        self._app = app
        self._connections = connections

    def of(self, request: web.Request) -> Place:
        """Return the place of a request; a new one where no resource matched."""
        route = request.match_info.route
        place = self.get(route)
        if place is None:
            place = Place(request, self._app, self._connections)
            if route.resource is not None:
                self[route] = place
        return place


def _dialect_of(route: str) -> Dialect | None:
    """Tell the dialect of a template whose end is fixed, else None."""
    ending = "/".join(route.rsplit("/", 2)[1:])
    return None if not ending or set(ending) & set("{}%") else dialect_of(route)


def _retry_count(header: str | None) -> int | None:
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    return min(int(header[:4]), _MAX_RETRY_COUNT)
