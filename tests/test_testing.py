"""The public test helper shows what would leave, through the real pipeline."""

import math

import pytest
from opentelemetry.sdk.metrics.export import HistogramDataPoint
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from otel_intercept import RolloutRegistry
from otel_intercept.semconv import RolloutOutcome
from otel_intercept.settings import Settings
from otel_intercept.testing import TelemetryRecorder
from tests.samples import ended, exchange, record_exchanges


async def test_a_rollout_can_be_followed_from_open_to_close() -> None:
    """Spans, metrics and bytes of a real rollout can be looked at, in one line each."""
    recorder = TelemetryRecorder()
    registry = RolloutRegistry(recorder.telemetry)

    async with registry.rollout("r-17", attributes={"team": "blue"}):
        pass

    assert [span.name for span in recorder.spans()] == ["rollout.started", "rollout"]
    assert recorder.value("intercept.rollouts") == 1
    assert (
        recorder.value(
            "intercept.rollouts",
            {"intercept.rollout.outcome": RolloutOutcome.COMPLETED},
        )
        == 1
    )
    assert recorder.value("no.such.instrument") == 0
    assert b"r-17" in recorder.exported_bytes()


def test_looking_flushes_and_looking_twice_exports_once() -> None:
    """No flush is needed before a look, and a span is exported only once."""
    recorder = TelemetryRecorder()
    record_exchanges(recorder.telemetry, 2)

    first, second = recorder.spans(), recorder.spans()

    assert len(first) == 2
    assert first == second
    assert recorder.telemetry.balance().exported == 2


def test_points_have_a_number_and_the_whole_point() -> None:
    """A histogram's value is its count, and its sum is on the point."""
    recorder = TelemetryRecorder()
    record_exchanges(recorder.telemetry, 4)

    (duration,) = [
        point
        for point in recorder.metrics()
        if point.name == "intercept.exchange.duration"
    ]

    assert duration.value == 4
    assert isinstance(duration.point, HistogramDataPoint)
    assert duration.point.sum == pytest.approx(12.0)
    assert duration.attributes["gen_ai.request.model"] == "gpt-5"


def test_the_bytes_are_the_otlp_requests_of_all_flushes() -> None:
    """What was exported in an earlier flush is still among the bytes."""
    recorder = TelemetryRecorder()
    record_exchanges(recorder.telemetry, 1)
    first = recorder.exported_bytes()
    recorder.telemetry.begin(True)
    recorder.telemetry.put(exchange(model="later-model"))

    second = recorder.exported_bytes()

    assert b"later-model" not in first
    assert b"later-model" in second
    assert b"gpt-5" in second
    assert b"intercept.exchanges" in first


def test_settings_and_sampler_are_used_without_a_thread() -> None:
    """The caller's settings count, except that nothing happens in the background."""
    settings = Settings(fingerprint_key=b"k" * 16, schedule_delay_s=0.01)

    recorder = TelemetryRecorder(settings, sampler=ALWAYS_OFF)

    assert recorder.telemetry.settings.fingerprint_key == b"k" * 16
    assert recorder.telemetry.settings.recorder == "inline"
    assert not recorder.telemetry.sample(1)


def test_after_shutdown_everything_can_still_be_looked_at() -> None:
    """The last spans and metrics of a shutdown are there, and a flush says no."""
    recorder = TelemetryRecorder()
    recorder.telemetry.begin(True)
    recorder.telemetry.add_shutdown_callback(lambda: recorder.telemetry.put(ended()))

    balance = recorder.telemetry.shutdown()

    assert balance.exported == 1
    assert [span.name for span in recorder.spans()] == ["rollout"]
    assert recorder.value("intercept.rollouts") == 1
    assert (
        recorder.value("intercept.records", {"intercept.record.fate": "exported"}) >= 1
    )
    assert not recorder.flush()


def test_values_are_finite() -> None:
    """Every series has a number that a test can compare."""
    recorder = TelemetryRecorder()
    record_exchanges(recorder.telemetry, 1)

    assert all(math.isfinite(point.value) for point in recorder.metrics())
