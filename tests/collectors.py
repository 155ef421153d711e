"""Collectors on loopback that behave in every way a collector can."""

import gzip
import socket
import ssl
import threading
import time
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Final, Self

import grpc
import trustme
from google.protobuf.message import Message
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span

_PROTOBUF: Final = "application/x-protobuf"
_ANSWERS: Final[dict[str, Message]] = {
    "logs": ExportLogsServiceResponse(),
    "metrics": ExportMetricsServiceResponse(),
    "traces": ExportTraceServiceResponse(),
}
_SERVICES: Final = {
    "LogsService": "logs",
    "MetricsService": "metrics",
    "TraceService": "traces",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """How a collector answers.

    Args:
        status: The HTTP status.
        reason: The reason phrase; None for the standard one.
        body: The body; None for a proper OTLP answer.
        headers: Further headers.
        delay_s: Seconds before the answer.
        hang: Whether to give no answer until the collector is closed.
        garbage: Bytes to send in place of an HTTP answer.
        code: The gRPC status; OK for a proper answer.
        details: The gRPC status message.
        trailers: Binary metadata behind the gRPC status.
    """

    status: int = 200
    reason: str | None = None
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()
    delay_s: float = 0.0
    hang: bool = False
    garbage: bytes | None = None
    code: grpc.StatusCode = grpc.StatusCode.OK
    details: str = ""
    trailers: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class Received:
    """One request as it arrived.

    Args:
        signal: ``traces``, ``metrics`` or ``logs``.
        target: The HTTP request target with its query, or the gRPC method.
        headers: Names in lower case.
        raw: Request line, headers and body as sent; for gRPC the message alone.
        body: The body without compression.
    """

    signal: str
    target: str
    headers: dict[str, str]
    raw: bytes
    body: bytes


@dataclass
class Collector(ABC):
    """What an HTTP and a gRPC collector share: the answer, and what arrived.

    Use one as a context manager. ``answer`` may be changed while it runs. With an
    ``authority``, the collector speaks TLS and asks for certificates of that authority.
    """

    answer: Answer = field(default_factory=Answer)
    received: list[Received] = field(default_factory=list)
    port: int = 0
    closing: threading.Event = field(default_factory=threading.Event)
    authority: trustme.CA | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.closing.set()
        self.stop()

    @abstractmethod
    def start(self) -> None:
        """Listen on a free port of loopback."""

    @abstractmethod
    def stop(self) -> None:
        """Stop listening, and let go of who waits for an answer."""

    @property
    def url(self) -> str:
        """The base URL to give as ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        scheme = "https" if self.authority else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    def raw(self) -> bytes:
        """Return every byte that arrived, as sent and without compression."""
        return b"\0".join(part for got in self.received for part in (got.raw, got.body))

    def spans(self) -> list[Span]:
        """Return every span that arrived, accepted or not."""
        return list(self._spans())

    def metrics(self) -> list[Metric]:
        """Return every metric that arrived, accepted or not."""
        return list(self._metrics())

    def logs(self) -> list[LogRecord]:
        """Return every log record that arrived, accepted or not."""
        return list(self._logs())

    def count(self, signal: str) -> int:
        """Return how many requests of a signal arrived."""
        return sum(got.signal == signal for got in self.received)

    def wait_for(self, signal: str, number: int = 1, timeout_s: float = 30.0) -> bool:
        """Wait until so many requests of a signal have arrived."""
        deadline = time.monotonic() + timeout_s
        while self.count(signal) < number and time.monotonic() < deadline:
            time.sleep(0.01)
        return self.count(signal) >= number

    def _spans(self) -> Iterator[Span]:
        for got in self.received:
            if got.signal == "traces":
                request = ExportTraceServiceRequest.FromString(got.body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        yield from scope.spans

    def _logs(self) -> Iterator[LogRecord]:
        for got in self.received:
            if got.signal == "logs":
                request = ExportLogsServiceRequest.FromString(got.body)
                for resource in request.resource_logs:
                    for scope in resource.scope_logs:
                        yield from scope.log_records

    def _metrics(self) -> Iterator[Metric]:
        for got in self.received:
            if got.signal == "metrics":
                request = ExportMetricsServiceRequest.FromString(got.body)
                for resource in request.resource_metrics:
                    for scope in resource.scope_metrics:
                        yield from scope.metrics


class HttpCollector(Collector):
    """An OTLP/HTTP collector."""

    def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = _Server(self)
        if self.authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.verify_mode = ssl.CERT_REQUIRED
            self.authority.configure_trust(context)
            self.authority.issue_cert("127.0.0.1").configure_cert(context)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True
            )
        self.port = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.01,), daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and let go of who waits for an answer."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, collector: Collector) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.collector = collector

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: exporters that give up close their connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        collector = self.server.collector
        answer = collector.answer
        path = self.path.split("?")[0]
        signal = next((each for each in _ANSWERS if path.endswith(each)), "traces")
        payload = self.rfile.read(int(self.headers.get("content-length", "0")))
        head = f"{self.requestline}\r\n{self.headers}".encode()
        collector.received.append(
            Received(
                signal=signal,
                target=self.path,
                headers={name.lower(): text for name, text in self.headers.items()},
                raw=head + payload,
                body=_decompress(payload, self.headers.get("content-encoding", "")),
            )
        )
        self._wait(answer)
        if answer.garbage is not None:
            self.wfile.write(answer.garbage)
            self.close_connection = True
            return
        body = answer.body
        if body is None:
            body = _ANSWERS[signal].SerializeToString()
        self.send_response(answer.status, answer.reason)
        self.send_header("content-type", _PROTOBUF)
        self.send_header("content-length", str(len(body)))
        for name, text in answer.headers:
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - inherited
        """Stay silent."""

    def _wait(self, answer: Answer) -> None:
        if answer.hang:
            self.server.collector.closing.wait()
        elif answer.delay_s:
            self.server.collector.closing.wait(answer.delay_s)


def _decompress(payload: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(payload)
    if encoding == "deflate":
        return zlib.decompress(payload)
    return payload


class GrpcCollector(Collector):
    """An OTLP/gRPC collector; messages are kept as bytes."""

    def start(self) -> None:
        """Listen on a free port of loopback."""
        self._server = grpc.server(
            ThreadPoolExecutor(max_workers=4), handlers=[_GrpcHandler(self)]
        )
        if self.authority is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            own = self.authority.issue_cert("127.0.0.1")
            credentials = grpc.ssl_server_credentials(
                [(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())],
                self.authority.cert_pem.bytes(),
                require_client_auth=True,
            )
            self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self._server.start()

    def stop(self) -> None:
        """Stop listening, and let go of who waits for an answer."""
        self._server.stop(grace=None).wait()


class _GrpcHandler(grpc.GenericRpcHandler):
    def __init__(self, collector: Collector) -> None:
        self._collector = collector

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> "grpc.RpcMethodHandler[bytes, bytes]":
        method = handler_call_details.method

        def export(message: bytes, context: grpc.ServicerContext) -> bytes:
            return self._export(method, message, context)

        return grpc.unary_unary_rpc_method_handler(export)

    def _export(
        self,
        method: str,
        message: bytes,
        context: grpc.ServicerContext,
    ) -> bytes:
        answer = self._collector.answer
        self._collector.received.append(
            Received(
                signal=_SERVICES[method.split("/")[1].rpartition(".")[2]],
                target=method,
                headers={
                    name: str(text) for name, text in context.invocation_metadata()
                },
                raw=message,
                body=message,
            )
        )
        if answer.hang:
            self._collector.closing.wait()
        elif answer.delay_s:
            self._collector.closing.wait(answer.delay_s)
        if answer.trailers:
            context.set_trailing_metadata(answer.trailers)
        if answer.code is not grpc.StatusCode.OK:
            context.abort(answer.code, answer.details)
        return answer.body or b""


def closed_port() -> int:
    """Return a port of loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
