"""Send encoded spans or metrics over OTLP/HTTP."""

import zlib
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

import requests

from otel_intercept.sdk.http_session import ExportSession, Prepared, kind_of
from otel_intercept.sdk.retrying import Attempt, Content, Retries
from otel_intercept.sdk.target import Target
from otel_intercept.translate.outlets import EncodedSpanExporter
from otel_intercept.translate.scope import SCOPE

_AGAIN: Final = frozenset(
    {
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.BAD_GATEWAY,
        HTTPStatus.SERVICE_UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT,
    }
)
_FAST: Final = 1
"""Higher levels take several times as long, for spans that are hardly smaller."""

_GZIP: Final = 16 + zlib.MAX_WBITS
_COMPRESS: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "none": lambda body: body,
    "gzip": lambda body: zlib.compress(body, _FAST, wbits=_GZIP),
    "deflate": lambda body: zlib.compress(body, _FAST),
}


class OtlpHttpExporter(EncodedSpanExporter):
    """Posts each request to one endpoint, and repeats it as OTLP says.

    Args:
        session: What to post with; closed by ``shutdown``.
        target: Where to, how to compress, and for how long to try.
        what: What is in the requests, for the log.
    """

    def __init__(
        self, session: ExportSession, target: Target, what: Content = "spans"
    ) -> None:
        self._session = session
        self._endpoint = target.endpoint
        self._compress = _COMPRESS[target.compression]
        self._headers = {
            "content-type": "application/x-protobuf",
            "user-agent": f"{SCOPE.name}/{SCOPE.version}",
        }
        if target.compression != "none":
            self._headers["content-encoding"] = target.compression
        self._prepared: Prepared | None = None
        self._retries = Retries(target.timeout_s, what)

    def export_encoded(self, request: bytes) -> bool:
        """Post the request; True when it was taken whole. Never raises."""
        body = self._compress(request)
        return self._retries.send(lambda timeout_s: self._post(body, timeout_s))

    def shutdown(self) -> None:
        """Stop trying and close the connections. Idempotent."""
        self._retries.stop()
        self._session.close()

    def _post(self, body: bytes, timeout_s: float) -> Attempt:
        try:
            if self._prepared is None:
                self._prepared = self._session.prepare_post(
                    self._endpoint, self._headers
                )
            response = self._session.send_post(self._prepared, body, timeout_s)
        except requests.RequestException as exc:
            again = isinstance(exc, requests.ConnectionError | requests.Timeout)
            is_tls = isinstance(exc, requests.exceptions.SSLError)
            return Attempt(taken=False, facts=kind_of(exc), again=again and not is_tls)
        status = response.status_code
        if status < 300:
            return Attempt(taken=True)
        return Attempt(
            taken=False,
            facts=f"HTTP {status}, {response.reason}",
            again=status in _AGAIN,
            after_s=_seconds_of(response.headers.get("retry-after")),
        )


def _seconds_of(retry_after: str | None) -> float | None:
    """Read a ``Retry-After``: whole seconds or a date; None for anything else."""
    if retry_after is None:
        return None
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
        # Without an offset it is UTC, as every HTTP date.
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return max((date - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError, OverflowError):
        return None
