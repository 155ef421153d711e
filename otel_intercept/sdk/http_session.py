"""The HTTP session of the OTLP exporters: tells the truth, and no secrets, on failure.

The exporters write whatever their session raises, and the collector's reason phrase, to
the log. So no text from outside leaves the session: not the URL, which may hold a
token, and not what the collector says.
"""

import io
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final, NamedTuple

import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)
from requests import exceptions
from urllib3.exceptions import ReadTimeoutError

_CONTENT_TYPE: Final = "application/x-protobuf"
_PROTOCOL_HEADERS: Final = frozenset(
    {
        "accept", "accept-encoding", "connection", "content-encoding",
        "content-length", "content-type", "host", "user-agent",
    }
)  # fmt: skip


class Redirected(requests.RequestException):
    """The collector sends the request elsewhere."""


class PartRejected(requests.RequestException):
    """The collector took the request, but not all of it."""


# The kinds that the exporter retries come first: it looks at the class only.
_KINDS: Final[tuple[tuple[type[exceptions.RequestException], str], ...]] = (
    (exceptions.Timeout, "no answer in time"),
    (exceptions.SSLError, "the TLS handshake failed"),
    (exceptions.ProxyError, "the proxy could not be reached"),
    (exceptions.ConnectionError, "the connection failed"),
    (Redirected, "the collector redirects elsewhere"),
    (PartRejected, "the collector rejected a part"),
)
_UNKNOWN: Final = "the request could not be made"
_MOST_ANSWER: Final = 65_536
"""Bytes of an answer that are read: a collector that says more is left alone."""


class Prepared(NamedTuple):
    """What the POSTs to one URL have in common: all but the body."""

    request: requests.PreparedRequest
    settings: Mapping[str, object]


class ExportSession(requests.Session):
    """A session for one OTLP endpoint.

    Raises only errors with constant texts, without a cause or context. A redirect is an
    error, and so is an answer by which the collector rejects a part of the request: the
    exporters take both for success.

    Args:
        headers: The headers to send. Others, such as those that the exporter takes
            from ``os.environ``, are not sent.
    """

    def __init__(self, headers: tuple[tuple[str, str], ...]) -> None:
        super().__init__()
        self._own_headers = dict(headers)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Prepare a request with the session's own headers."""
        error: requests.RequestException
        try:
            prepared = super().prepare_request(request)
        except Exception as exc:  # noqa: BLE001 - its text holds the URL or a header
            error = _textless(exc)
        else:
            self._replace_headers(prepared)
            return prepared
        raise error

    def send(
        self, request: requests.PreparedRequest, **kwargs: object
    ) -> requests.Response:
        """Send a request; raise unless it was taken whole."""
        error: requests.RequestException
        # Or else ``REQUESTS_CA_BUNDLE`` would win over the certificate asked for.
        if self.verify is not True:
            kwargs["verify"] = self.verify
        kwargs["stream"] = True
        try:
            response = super().send(request, **kwargs)
            _read_beginning(response)
        except Exception as exc:  # noqa: BLE001 - its text holds the URL
            error = _textless(exc)
        else:
            response.reason = _standard_reason(response.status_code)
            if 300 <= response.status_code < 400:
                raise Redirected("the collector redirects elsewhere")
            if response.status_code < 300 and _rejected(response):
                raise PartRejected("the collector rejected a part")
            return response
        raise error

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Follow no redirect: requests would read all of the answer before."""

    def prepare_post(self, url: str, headers: Mapping[str, str]) -> Prepared:
        """Prepare all of a POST that does not change: three quarters of its cost."""
        prepared = self.prepare_request(
            requests.Request("POST", url, headers, data=b"-")
        )
        settings = self.merge_environment_settings(
            prepared.url or url, {}, stream=False, verify=None, cert=None
        )
        return Prepared(prepared, settings)

    def send_post(
        self, post: Prepared, body: bytes, timeout_s: float
    ) -> requests.Response:
        """Send a prepared POST with a body; raise unless it was taken whole."""
        request = post.request.copy()
        request.body = body
        request.headers["content-length"] = str(len(body))
        return self.send(
            request, timeout=timeout_s, allow_redirects=False, **post.settings
        )

    def _replace_headers(self, prepared: requests.PreparedRequest) -> None:
        allowed = _PROTOCOL_HEADERS | self._own_headers.keys()
        has_credentials = "@" in (prepared.url or "").split("?")[0]
        for name in list(prepared.headers):
            wanted = name.lower() in allowed or (
                has_credentials and name.lower() == "authorization"
            )
            if not wanted:
                del prepared.headers[name]
        prepared.headers.update(self._own_headers)


def kind_of(exc: Exception) -> str:
    """Return the constant words for a kind of failed request."""
    return next((text for kind, text in _KINDS if isinstance(exc, kind)), _UNKNOWN)


def _textless(exc: Exception) -> requests.RequestException:
    if isinstance(exc, ReadTimeoutError):
        exc = exceptions.Timeout()
    for kind, text in _KINDS:
        if isinstance(exc, kind):
            return kind(text)
    return requests.RequestException(_UNKNOWN)


def _read_beginning(response: requests.Response) -> None:
    """Read no more of an answer than is of use, and let go of the connection."""
    beginning = response.raw.read(_MOST_ANSWER, decode_content=True)
    if len(beginning) >= _MOST_ANSWER:
        response.close()
    response.raw = io.BytesIO(beginning)


def _standard_reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "unknown status"


def _rejected(response: requests.Response) -> bool:
    if response.headers.get("content-type", "").split(";")[0] != _CONTENT_TYPE:
        return False
    path = (response.request.url or "").split("?")[0]
    try:
        if path.endswith("/metrics"):
            metrics = ExportMetricsServiceResponse.FromString(response.content)
            rejected = metrics.partial_success.rejected_data_points
        else:
            # Logs have their count in the same field as traces.
            traces = ExportTraceServiceResponse.FromString(response.content)
            rejected = traces.partial_success.rejected_spans
    except DecodeError:
        rejected = 0
    return rejected > 0
