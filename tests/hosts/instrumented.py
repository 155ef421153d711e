"""A pytest plugin for verifiers' own tests: they run with the instrumentor active."""

import pytest

from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor
from otel_intercept.testing import TelemetryRecorder

RECORDER = TelemetryRecorder()
VerifiersInstrumentor().instrument(telemetry=RECORDER.telemetry)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell how many rollouts were seen, so that it shows that it was active."""
    started = sum(span.name == "rollout.started" for span in RECORDER.spans())
    terminalreporter.write_line(f"rollouts seen: {started}")
