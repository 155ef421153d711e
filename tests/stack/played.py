"""Play the demo's rollouts as a process of its own, and tell what was injected."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from otel_intercept.cli.demo.plan import Planned, plan
from otel_intercept.sdk import read_spans
from otel_intercept.semconv import RolloutOutcome


class Played(NamedTuple):
    """The demo's rollouts, after they were played.

    Args:
        service: The ``service.name`` under which they are everywhere.
        planned: The rollouts.
        file: Every span that left the process, as OTLP JSON lines.
        output: What the demo printed.
    """

    service: str
    planned: tuple[Planned, ...]
    file: Path
    output: str

    @property
    def injected(self) -> dict[str, float]:
        """How many failures of each class were injected."""
        return dict(
            Counter(
                turn.error_type.value
                for item in self.planned
                for turn in item.scenario.turns
                if turn.error_type is not None
            )
        )

    @property
    def span_ids(self) -> set[tuple[str, str]]:
        """Trace id and span id of every span that the process made."""
        return {(span.trace_id, span.span_id) for span in read_spans(self.file)}

    def ids_of(self, outcome: RolloutOutcome) -> set[str]:
        """Return the ids of the rollouts that had to end so."""
        return {
            item.rollout_id for item in self.planned if item.scenario.outcome is outcome
        }


class Demo:
    """A demo that plays in a process of its own.

    Args:
        directory: Where its file goes.
        service: Its ``service.name``.
        rollouts: How many rollouts; at least one of each kind.
        environment: Where to send, and other variables.
    """

    def __init__(
        self, directory: Path, service: str, *, rollouts: int, **environment: str
    ) -> None:
        self._service = service
        self._rollouts = rollouts
        self._file = directory / f"{service}.jsonl"
        self._process = subprocess.Popen(
            [
                sys.executable, "-m", "otel_intercept", "demo",
                "--rollouts", f"{rollouts}", "--seed", "7", "--file", str(self._file),
            ],
            env=_clean()
            | {
                "OTEL_SERVICE_NAME": service,
                "OTEL_METRIC_EXPORT_INTERVAL": "1000",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "30",
                **environment,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip

    def wait(self) -> Played:
        """Wait for its end; it must have been as planned."""
        try:
            output, _ = self._process.communicate(timeout=120)
        finally:
            self._process.kill()
        assert self._process.returncode == 0, output
        planned = plan(self._rollouts, seed=7, stream_failure="done")
        return Played(self._service, planned, self._file, output)


def _clean() -> dict[str, str]:
    return {
        name: value for name, value in os.environ.items() if not name.startswith("OTEL")
    }
