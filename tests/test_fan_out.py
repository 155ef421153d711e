"""Several exporters get the same telemetry, and none can spoil it for the others."""

from collections.abc import Callable, Sequence

import pytest
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricsData,
)
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from otel_intercept.sdk.fan_out import FanOutMetricExporter, FanOutSpanExporter


def take() -> bool:
    """Take what is given."""
    return True


def refuse() -> bool:
    """Refuse what is given."""
    return False


def fail() -> bool:
    """Raise what any exporter may raise."""
    raise RuntimeError("sk-canary-0451")


class Spans(SpanExporter):
    """A span exporter that does one thing whatever is asked, and counts."""

    def __init__(self, action: Callable[[], bool]) -> None:
        self._action = action
        self.calls: list[str] = []

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Count, and do the thing."""
        self.calls.append("export")
        return SpanExportResult.SUCCESS if self._action() else SpanExportResult.FAILURE

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Count, and do the thing."""
        self.calls.append("flush")
        return self._action()

    def shutdown(self) -> None:
        """Count, and do the thing."""
        self.calls.append("shutdown")
        self._action()


class Metrics(MetricExporter):
    """A metric exporter that does one thing whatever is asked, and counts."""

    def __init__(self, action: Callable[[], bool]) -> None:
        super().__init__()
        self._action = action
        self.calls: list[str] = []

    def export(
        self, metrics_data: MetricsData, timeout_millis: float = 10_000, **_: object
    ) -> MetricExportResult:
        """Count, and do the thing."""
        self.calls.append("export")
        if self._action():
            return MetricExportResult.SUCCESS
        return MetricExportResult.FAILURE

    def force_flush(self, timeout_millis: float = 10_000) -> bool:
        """Count, and do the thing."""
        self.calls.append("flush")
        return self._action()

    def shutdown(self, timeout_millis: float = 30_000, **_: object) -> None:
        """Count, and do the thing."""
        self.calls.append("shutdown")
        self._action()


@pytest.mark.parametrize(
    ("actions", "taken"),
    [
        ((take, take), True),
        ((refuse, take), False),
        ((take, refuse), False),
        ((fail, take), False),
        ((fail, fail), False),
    ],
)
def test_all_exporters_are_asked_and_all_must_agree(
    actions: tuple[Callable[[], bool], ...],
    taken: bool,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One that refuses or raises makes a failure and keeps nothing from the others."""
    spans = [Spans(action) for action in actions]
    metrics = [Metrics(action) for action in actions]
    all_spans, all_metrics = FanOutSpanExporter(spans), FanOutMetricExporter(metrics)

    exported = all_spans.export([])
    metrics_exported = all_metrics.export(MetricsData([]))
    flushed = (all_spans.force_flush(), all_metrics.force_flush())
    all_spans.shutdown()
    all_metrics.shutdown()

    assert (exported is SpanExportResult.SUCCESS) is taken
    assert (metrics_exported is MetricExportResult.SUCCESS) is taken
    assert flushed == (taken, taken)
    calls = [each.calls for each in spans] + [each.calls for each in metrics]
    assert calls == [["export", "flush", "shutdown"]] * 4
    assert "canary" not in caplog.text


def test_a_single_exporter_is_not_wrapped() -> None:
    """One exporter stands for itself, and none for nothing."""
    spans, metrics = Spans(take), Metrics(take)

    assert FanOutSpanExporter.of([spans]) is spans
    assert FanOutMetricExporter.of([metrics]) is metrics
    assert FanOutSpanExporter.of([]) is None
    assert FanOutMetricExporter.of([]) is None
