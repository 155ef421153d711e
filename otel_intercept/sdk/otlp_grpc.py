"""Send encoded spans or metrics over OTLP/gRPC."""

from collections.abc import Mapping
from typing import Final

import grpc
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceResponse,
)

from otel_intercept.sdk.retry_info import retry_delay_s
from otel_intercept.sdk.retrying import Attempt, Content, Retries
from otel_intercept.sdk.target import Target
from otel_intercept.translate.outlets import EncodedSpanExporter

_PACKAGE: Final = "/opentelemetry.proto.collector"
_METHODS: Final[Mapping[Content, str]] = {
    "spans": f"{_PACKAGE}.trace.v1.TraceService/Export",
    "metrics": f"{_PACKAGE}.metrics.v1.MetricsService/Export",
}
_AGAIN: Final = frozenset(
    {
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DATA_LOSS,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
    }
)
_DETAILS: Final = "grpc-status-details-bin"


class OtlpGrpcExporter(EncodedSpanExporter):
    """Calls one collector with each request, and repeats it as OTLP says.

    Args:
        channel: What to call over; closed by ``shutdown``.
        target: Which headers to send, and for how long to try.
        what: What is in the requests: which service to call.
    """

    def __init__(
        self, channel: grpc.Channel, target: Target, what: Content = "spans"
    ) -> None:
        self._channel = channel
        self._headers = target.headers or None
        self._export: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
            _METHODS[what], _unchanged, _unchanged
        )
        self._retries = Retries(target.timeout_s, what)

    def export_encoded(self, request: bytes) -> bool:
        """Send the request; True when it was taken whole. Never raises."""
        return self._retries.send(lambda timeout_s: self._call(request, timeout_s))

    def shutdown(self) -> None:
        """Stop trying, cancel what is on its way, and close the channel. Idempotent."""
        self._retries.stop()
        self._channel.close()

    def _call(self, request: bytes, timeout_s: float) -> Attempt:
        try:
            call = self._export.future(
                request, timeout=timeout_s, metadata=self._headers
            )
        except ValueError:
            return Attempt(taken=False, facts="the channel is closed")
        # Waits for the end, and raises nothing, whereas ``result`` would.
        code = call.code()
        if code is grpc.StatusCode.OK:
            return _answered(call.result())
        after_s = _retry_delay_s(call)
        # A quota that is used up comes back only where the collector says when.
        exhausted = code is grpc.StatusCode.RESOURCE_EXHAUSTED and after_s is not None
        return Attempt(
            taken=False,
            facts=f"gRPC {code.name}",
            again=code in _AGAIN or exhausted,
            after_s=after_s,
        )


def _unchanged(message: bytes) -> bytes:
    return message


def _answered(answer: bytes) -> Attempt:
    try:
        # Metrics have their count in the same field as traces.
        response = ExportTraceServiceResponse.FromString(answer)
    except DecodeError:
        return Attempt(taken=False, facts="no OTLP answer")
    if response.partial_success.rejected_spans > 0:
        return Attempt(taken=False, facts="a part was rejected")
    return Attempt(taken=True)


def _retry_delay_s(call: grpc.Call) -> float | None:
    for key, value in call.trailing_metadata() or ():
        if key == _DETAILS and isinstance(value, bytes):
            return retry_delay_s(value)
    return None
