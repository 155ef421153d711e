"""Read what may be told of a request: nothing of it is the agent's text."""

from typing import Final

from aiohttp import web

from otel_intercept.dialect import dialect_of
from otel_intercept.middleware.foreign import is_foreign
from otel_intercept.record import Request
from otel_intercept.semconv import OTHER, Dialect
from otel_intercept.trace_context import read_traceparent

_METHODS: Final = frozenset(
    {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"}
)
_MAX_RETRY_COUNT: Final = 99


class Place:
    """What all requests of one resource have in common, found out once.

    Args:
        request: One of them.
        app: The app whose middleware serves them, if it is one of ours.

    Attributes:
        foreign: Whether contrib's middleware stands in an app on the way.
        outermost: Whether no middleware of an app above may change the response.
    """

    __slots__ = ("_dialect", "_requests", "_route", "foreign", "outermost")

    def __init__(self, request: web.Request, app: web.Application | None) -> None:
        resource = request.match_info.route.resource
        apps = request.match_info.apps
        above = () if app is None else apps[: apps.index(app)]
        self._route = "" if resource is None else resource.canonical
        self._dialect = _dialect_of(self._route)
        # By method, scheme and retry count, so there are few.
        self._requests: dict[tuple[str, str, int | None], Request] = {}
        self.foreign = any(map(is_foreign, apps))
        self.outermost = not any(other.middlewares for other in above)

    def describe(self, request: web.Request) -> Request:
        """Return method, route template, scheme, dialect, retry count and link."""
        headers = request.headers
        retries = headers.get("x-stainless-retry-count")
        parent = headers.get("traceparent")
        if parent is not None or self._dialect is None:
            return self._read(request, retries, parent)
        key = (request.method, request.scheme, _retry_count(retries))
        known = self._requests.get(key)
        if known is None:
            known = self._read(request, retries, None)
            if request.method in _METHODS:
                self._requests[key] = known
        return known

    def _read(
        self, request: web.Request, retries: str | None, parent: str | None
    ) -> Request:
        link = read_traceparent(parent)
        return Request(
            method=request.method if request.method in _METHODS else OTHER,
            route=self._route,
            scheme="https" if request.secure else "http",
            dialect=self._dialect or dialect_of(request.path),
            retry_count=_retry_count(retries),
            link=(link.trace_id, link.span_id) if link else None,
        )


class Places:
    """The places of one server, by resource.

    Args:
        app: The app whose middleware serves them, if it is one of ours.
    """

    __slots__ = ("_app", "_known")

    def __init__(self, app: web.Application | None) -> None:
        self._app = app
        self._known: dict[web.AbstractResource, Place] = {}

    def of(self, request: web.Request) -> Place:
        """Return the place of a request; a new one where no resource matched."""
        resource = request.match_info.route.resource
        if resource is None:
            return Place(request, self._app)
        place = self._known.get(resource)
        if place is None:
            place = self._known[resource] = Place(request, self._app)
        return place


def _dialect_of(route: str) -> Dialect | None:
    """Tell the dialect of a template whose end is fixed, else None."""
    ending = "/".join(route.rsplit("/", 2)[1:])
    return None if not ending or set(ending) & set("{}%") else dialect_of(route)


def _retry_count(header: str | None) -> int | None:
    if header is None or not (header.isascii() and header.isdigit()):
        return None
    return min(int(header[:4]), _MAX_RETRY_COUNT)
