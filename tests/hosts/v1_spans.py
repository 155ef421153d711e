"""What tests of the v1 hooks look up in the exported telemetry."""

from collections.abc import Mapping

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind

from otel_intercept.testing import TelemetryRecorder


def facts(span: ReadableSpan) -> Mapping[str, object]:
    """Return a span's attributes."""
    return dict(span.attributes or {})


def exchanges(recorder: TelemetryRecorder) -> list[ReadableSpan]:
    """Return the spans of exchanges, in the order of their start."""
    spans = [span for span in recorder.spans() if span.kind is SpanKind.SERVER]
    return sorted(spans, key=lambda span: span.start_time or 0)


def calls(recorder: TelemetryRecorder) -> list[ReadableSpan]:
    """Return the spans of model calls."""
    return [span for span in recorder.spans() if span.kind is SpanKind.CLIENT]


def roots(recorder: TelemetryRecorder) -> list[ReadableSpan]:
    """Return the spans of rollouts, in the order of their start."""
    spans = [span for span in recorder.spans() if span.name == "rollout"]
    return sorted(spans, key=lambda span: span.start_time or 0)


def outcomes(recorder: TelemetryRecorder) -> list[object]:
    """Return the outcome of each exchange, in the order of their start."""
    return [facts(s)["intercept.exchange.outcome"] for s in exchanges(recorder)]


def rollout_outcome(recorder: TelemetryRecorder) -> object:
    """Return the outcome of the one rollout."""
    (root,) = roots(recorder)
    return facts(root)["intercept.rollout.outcome"]
