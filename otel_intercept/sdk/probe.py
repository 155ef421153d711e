"""Send one request to a collector as the exporters would, and tell what came of it.

The exporters know success and failure; an operator has to know which failure. Nothing
of what the collector says is kept: an answer is sorted by its status alone.
"""

import gzip
import socket
import ssl
import zlib
from enum import StrEnum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import grpc
import requests
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)
from requests.utils import get_environ_proxies

from otel_intercept.sdk.exporters import open_channel, open_session
from otel_intercept.sdk.http_session import PartRejected, Redirected
from otel_intercept.sdk.target import Signal, Target


class Answered(StrEnum):
    """What a collector made of a request."""

    ACCEPTED = "accepted"
    PARTLY_REJECTED = "partly_rejected"
    UNAUTHORIZED = "unauthorized"
    NO_SUCH_PATH = "no_such_path"
    TOO_LARGE = "too_large"
    BUSY = "busy"
    BAD_REQUEST = "bad_request"
    SERVER_ERROR = "server_error"
    REDIRECTED = "redirected"
    NO_SUCH_HOST = "no_such_host"
    REFUSED = "connection_refused"
    TIMED_OUT = "timed_out"
    TLS_FAILED = "tls_failed"
    SPEAKS_GRPC = "speaks_grpc"
    SPEAKS_HTTP = "speaks_http"
    NO_OTLP = "no_otlp_answer"


class Probed(NamedTuple):
    """One answer.

    Args:
        answered: What it came to.
        status: The HTTP status, if there was one.
    """

    answered: Answered
    status: int | None = None


_CONNECT_S: Final = 5.0
_SNIFF_S: Final = 2.0
_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_SETTINGS: Final = 4
_GET: Final = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_METHODS: Final[dict[Signal, str]] = {
    "TRACES": "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "METRICS": "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
    "LOGS": "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
}
_BY_STATUS: Final = {
    401: Answered.UNAUTHORIZED,
    403: Answered.UNAUTHORIZED,
    404: Answered.NO_SUCH_PATH,
    405: Answered.NO_SUCH_PATH,
    413: Answered.TOO_LARGE,
    429: Answered.BUSY,
    502: Answered.BUSY,
    503: Answered.BUSY,
    504: Answered.BUSY,
}
_BY_CODE: Final = {
    grpc.StatusCode.UNAUTHENTICATED: Answered.UNAUTHORIZED,
    grpc.StatusCode.PERMISSION_DENIED: Answered.UNAUTHORIZED,
    grpc.StatusCode.UNIMPLEMENTED: Answered.NO_SUCH_PATH,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Answered.BUSY,
    grpc.StatusCode.DEADLINE_EXCEEDED: Answered.TIMED_OUT,
    grpc.StatusCode.INVALID_ARGUMENT: Answered.BAD_REQUEST,
    # Said by a server, and by the client where there is none that speaks gRPC.
    grpc.StatusCode.UNAVAILABLE: Answered.BUSY,
}
_MAY_SPEAK_HTTP: Final = frozenset(
    {Answered.BUSY, Answered.TIMED_OUT, Answered.SERVER_ERROR}
)


def probe(target: Target, signal: Signal, payload: bytes) -> Probed:
    """Send one export request; blocks for at most the target's timeout and some more.

    Nothing is retried.

    Args:
        target: Where to and how.
        signal: Which signal the request is of.
        payload: The serialised export request.

    Raises:
        ConfigurationError: A TLS credential cannot be used.
    """
    host, port = _address(target)
    proxied = not target.grpc and bool(get_environ_proxies(target.endpoint))
    if not proxied:
        unreachable = _connects(host, port, min(target.timeout_s, _CONNECT_S))
        if unreachable is not None:
            return Probed(unreachable)
    if target.grpc:
        probed = _probe_grpc(target, signal, payload)
        if probed.answered in _MAY_SPEAK_HTTP and _speaks_http(target, host, port):
            return Probed(Answered.SPEAKS_HTTP)
        if probed.answered is Answered.BUSY and not _is_there(target, host, port):
            unheard = Answered.TLS_FAILED if target.secure else Answered.NO_OTLP
            return Probed(unheard)
        return probed
    probed = _probe_http(target, payload)
    silent = probed.answered in {Answered.NO_OTLP, Answered.TIMED_OUT}
    if silent and not proxied and _speaks_http2(target, host, port):
        return Probed(Answered.SPEAKS_GRPC)
    return probed


def _address(target: Target) -> tuple[str, int]:
    url = urlsplit(f"//{target.endpoint}" if target.grpc else target.endpoint)
    return url.hostname or "", url.port or (443 if target.secure else 80)


def _connects(host: str, port: int, timeout_s: float) -> Answered | None:
    try:
        with socket.create_connection((host, port), timeout_s):
            return None
    except socket.gaierror:
        return Answered.NO_SUCH_HOST
    except TimeoutError:
        return Answered.TIMED_OUT
    except (OSError, UnicodeError):
        return Answered.REFUSED


def _probe_http(target: Target, payload: bytes) -> Probed:
    headers = {"content-type": "application/x-protobuf"}
    if target.compression == "gzip":
        payload = gzip.compress(payload)
    elif target.compression == "deflate":
        payload = zlib.compress(payload)
    if target.compression != "none":
        headers["content-encoding"] = target.compression
    with open_session(target) as session:
        try:
            response = session.post(
                target.endpoint,
                data=payload,
                headers=headers,
                timeout=target.timeout_s,
                allow_redirects=False,
            )
        except requests.RequestException as exc:
            return Probed(_kind_of(exc))
        return Probed(_by_status(response.status_code), response.status_code)


def _kind_of(exc: requests.RequestException) -> Answered:
    match exc:
        case PartRejected():
            return Answered.PARTLY_REJECTED
        case Redirected():
            return Answered.REDIRECTED
        case requests.exceptions.SSLError():
            return Answered.TLS_FAILED
        case requests.Timeout():
            return Answered.TIMED_OUT
        case _:
            return Answered.NO_OTLP


def _by_status(status: int) -> Answered:
    known = _BY_STATUS.get(status)
    if known is not None:
        return known
    if status < 300:
        return Answered.ACCEPTED
    return Answered.BAD_REQUEST if status < 500 else Answered.SERVER_ERROR


def _probe_grpc(target: Target, signal: Signal, payload: bytes) -> Probed:
    with open_channel(target) as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            _METHODS[signal], _unchanged, _unchanged
        )
        future = call.future(
            payload, timeout=target.timeout_s, metadata=target.headers or None
        )
        # Waits for the end, and raises nothing, whereas ``result`` would.
        code = future.code()
        if code is grpc.StatusCode.OK:
            return Probed(_accepted(signal, future.result()))
    return Probed(_BY_CODE.get(code, Answered.SERVER_ERROR))


def _unchanged(message: bytes) -> bytes:
    return message


def _accepted(signal: Signal, body: bytes) -> Answered:
    try:
        rejected = _rejected(signal, body)
    except DecodeError:
        return Answered.NO_OTLP
    return Answered.PARTLY_REJECTED if rejected > 0 else Answered.ACCEPTED


def _rejected(signal: Signal, body: bytes) -> int:
    match signal:
        case "TRACES":
            traces = ExportTraceServiceResponse.FromString(body)
            return traces.partial_success.rejected_spans
        case "METRICS":
            metrics = ExportMetricsServiceResponse.FromString(body)
            return metrics.partial_success.rejected_data_points
        case "LOGS":
            logs = ExportLogsServiceResponse.FromString(body)
            return logs.partial_success.rejected_log_records


def _is_there(target: Target, host: str, port: int) -> bool:
    """Tell whether a gRPC server can be spoken to: plainly, or after a handshake."""
    if not target.secure:
        return _speaks_http2(target, host, port)
    try:
        context = ssl.create_default_context(cafile=target.certificate)
        context.set_alpn_protocols(["h2"])
        if target.client_certificate is not None:
            context.load_cert_chain(target.client_certificate, target.client_key)
        with (
            socket.create_connection((host, port), _SNIFF_S) as connection,
            context.wrap_socket(connection, server_hostname=host),
        ):
            return True
    except (OSError, ValueError):
        return False


def _speaks_http2(target: Target, host: str, port: int) -> bool:
    """Tell whether a server answers an HTTP/2 preface, as gRPC servers do."""
    answer = b"" if target.secure else _first_bytes(host, port, _PREFACE)
    return len(answer) > 3 and answer[3] == _SETTINGS and not answer.startswith(b"HTTP")


def _speaks_http(target: Target, host: str, port: int) -> bool:
    if target.secure:
        return False
    return _first_bytes(host, port, _GET).startswith(b"HTTP/1.")


def _first_bytes(host: str, port: int, sent: bytes) -> bytes:
    try:
        with socket.create_connection((host, port), _SNIFF_S) as connection:
            connection.sendall(sent)
            connection.settimeout(_SNIFF_S)
            return connection.recv(16)
    except (OSError, UnicodeError):
        return b""
