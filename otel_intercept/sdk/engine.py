"""What a helper process runs: the black box, and the pipeline behind it."""

import dataclasses
import os
import time
from typing import Final

from opentelemetry.sdk.resources import Resource

from otel_intercept.errors import ConfigurationError
from otel_intercept.process.orders import Configure, Fates
from otel_intercept.sdk.black_box import BlackBox
from otel_intercept.sdk.environment import read_environment
from otel_intercept.sdk.export_logs import ExportLogs
from otel_intercept.sdk.mirror import MirrorRecorder
from otel_intercept.sdk.parts import build_parts
from otel_intercept.translate.pipeline import Pipeline


class Engine:
    """Exports the records of one server as that server's environment says.

    Args:
        configure: What the server says of its environment.

    Raises:
        ConfigurationError: A file or a TLS credential cannot be used.
    """

    def __init__(self, configure: Configure) -> None:
        # Not seen in /proc, unlike what a process is started with.
        os.environ.update(configure.process)
        environment = read_environment(configure.environ)
        if environment is None:
            raise ConfigurationError("telemetry is disabled")
        self._logs = ExportLogs()
        # Before the exporters are made, and for what they have made.
        self._logs.install()
        parts = build_parts(environment)
        self._logs.install()
        settings = dataclasses.replace(environment.settings, recorder="thread")
        self._recorder = MirrorRecorder(
            settings.queue_size, spans=parts.spans is not None
        )
        self._box = BlackBox(self._recorder)
        # Takes a frame about records; False if it is about something else.
        self.take: Final = self._box.take
        self._pipeline = Pipeline(
            self._recorder,
            settings,
            span_exporter=parts.spans,
            metrics=parts.metrics,
            log_exporter=parts.logs,
            resource=Resource(configure.resource),
        )
        self._pipeline.start()

    @property
    def fates(self) -> Fates:
        """What became of the records so far."""
        own = self._recorder.own_balance()
        return Fates(own.exported, own.failed, own.dropped, self._pipeline.held_back)

    def allow_attribute_keys(self, keys: tuple[str, ...]) -> None:
        """Let operator attributes through the guard."""
        self._pipeline.allow_attribute_keys(keys)

    def flush(self, timeout_s: float) -> bool:
        """Export all that came. True when it was confirmed in time."""
        return self._pipeline.flush(timeout_s)

    def server_died(self) -> None:
        """End what is open there, with what is known of it."""
        self._box.end_all(time.time_ns())

    def shutdown(self, timeout_s: float) -> None:
        """Export what can be in time, and settle the rest."""
        self._pipeline.shutdown(timeout_s)
        # An export that was given up still runs, and may still log.
        if self._pipeline.idle:
            self._logs.remove()
