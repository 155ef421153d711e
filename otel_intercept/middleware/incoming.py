"""Read what may be told of a request: nothing of it is the agent's text."""

from typing import Final

from aiohttp import hdrs, web
from multidict import istr

from otel_intercept.dialect import dialect_of
from otel_intercept.middleware.connections import Connections
from otel_intercept.middleware.foreign import is_foreign
from otel_intercept.middleware.whole import WholeAnswers
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
        route: The route.
        apps: The apps on the way to it, outermost first.
        app: The one of them whose middleware serves it, if it is one of ours.
        connections: Those of its server.

    Attributes:
        apps_above: The apps that a request has come through before.
        connections: Those of its server.
        is_agent_present: Of its connections.
        foreign: Whether contrib's middleware stands in an app on the way.
        outermost: Whether no middleware of an app above may change the response.
        usual: Whether besides nothing of contrib stands on the way.
        whole_answers: Sends what comes in one piece; None where an app has a say in it.
    """

    __slots__ = (
        "_dialect",
        "_method",
        "_requests",
        "_route",
        "apps_above",
        "connections",
        "foreign",
        "is_agent_present",
        "outermost",
        "usual",
        "whole_answers",
    )

    def __init__(
        self,
        route: web.AbstractRoute,
        apps: tuple[web.Application, ...],
        app: web.Application | None,
        connections: Connections,
    ) -> None:
        resource = route.resource
        self._route = "" if resource is None else resource.canonical
        self._dialect = _dialect_of(self._route)
        self._method = None if route.method == hdrs.METH_ANY else route.method
        # By method, scheme and the header that counts retries, as it should be.
        self._requests: dict[tuple[str, str, str | None], Request] = {}
        self.apps_above = apps if app is None else apps[: apps.index(app)]
        self.connections = connections
        self.is_agent_present = connections.is_agent_present
        self.foreign = any(map(is_foreign, apps))
        self.outermost = not any(other.middlewares for other in self.apps_above)
        self.usual = self.outermost and not self.foreign
        signals = any(other.on_response_prepare for other in apps)
        sends = self.outermost and not signals
        self.whole_answers = WholeAnswers() if sends else None

    def describe(self, request: web.Request) -> Request:
        """Return method, route template, scheme, dialect, retry count and link."""
        headers = request.headers
        if _TRACEPARENT not in headers:
            method = self._method or request.method
            key = (method, request.scheme, headers.get(_RETRY_COUNT))
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
        match = request.match_info
        return self.get(match.route) or self.at(match.route, match.apps)

    def at(self, route: web.AbstractRoute, apps: tuple[web.Application, ...]) -> Place:
        """Return a new place: that of a route, and of the apps on the way to it."""
        place = Place(route, apps, self._app, self._connections)
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
