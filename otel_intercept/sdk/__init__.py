"""Set telemetry up from the standard OTel environment variables, and wind it down."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from otel_intercept.sdk.adopt import adopt_global_providers
from otel_intercept.sdk.environment import read_environment
from otel_intercept.sdk.otlp_reader import EventLine, SpanLine, read_spans
from otel_intercept.telemetry import Telemetry

__all__ = [
    "EventLine",
    "SpanLine",
    "adopt_global_providers",
    "configure",
    "read_spans",
]


@contextmanager
def configure(
    environ: Mapping[str, str] = os.environ, *, service_name: str | None = None
) -> Iterator[Telemetry]:
    """Set telemetry up from environment variables, for the length of a block.

    Honours ``OTEL_SDK_DISABLED``, ``OTEL_SERVICE_NAME``, ``OTEL_RESOURCE_ATTRIBUTES``,
    ``OTEL_{TRACES,METRICS}_EXPORTER`` (``otlp``, ``console``, ``otlp_json_file``, a
    list of them, or ``none``), ``OTEL_EXPORTER_OTLP_{,TRACES_,METRICS_}`` + ``ENDPOINT
    PROTOCOL HEADERS TIMEOUT COMPRESSION CERTIFICATE CLIENT_KEY CLIENT_CERTIFICATE
    INSECURE``, ``OTEL_TRACES_SAMPLER`` and its ``_ARG``, ``OTEL_BSP_SCHEDULE_DELAY``,
    ``OTEL_BSP_MAX_QUEUE_SIZE``, ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``,
    ``OTEL_METRIC_EXPORT_INTERVAL`` and ``OTEL_METRICS_EXEMPLAR_FILTER``; of our own,
    ``OTEL_INTERCEPT_FILE`` (also writes spans to this file), ``OTEL_INTERCEPT_MODELS``,
    ``OTEL_INTERCEPT_FINGERPRINT_KEY``, ``OTEL_INTERCEPT_RECORDER`` (``thread``, or
    ``process``: a helper process exports, and outlives this one for a moment) and
    ``OTEL_INTERCEPT_FAILURE_LOGS`` (``true`` also sends failures as log
    records; only then ``OTEL_LOGS_EXPORTER`` and ``OTEL_EXPORTER_OTLP_LOGS_*`` are
    read, as those of the other signals).

    While it lasts, the loggers of the exporters write constant messages only. When it
    ends, telemetry is shut down within 5 seconds; this blocks, also on an event loop,
    so end open work before. No provider is made global. Metrics are cumulative, so that
    a lost export loses no count.

    Args:
        environ: The variables. When another mapping is given, nothing of ours reads
            ``os.environ``; requests still takes its proxies from there, and the SDK's
            meters fall silent if ``OTEL_SDK_DISABLED`` is true there.
        service_name: The ``service.name`` when the variables give none.

    Yields:
        The telemetry; a disabled one when the variables leave nothing to export.

    Raises:
        ConfigurationError: A variable has a value that is not allowed. The message has
            its name and what is allowed, not the value.
    """
    environment = read_environment(environ, service_name=service_name)
    if environment is None:
        yield Telemetry()
        return
    # Imported late, so that a process that has a helper loads no exporter.
    if environment.settings.recorder == "process":
        from otel_intercept.sdk.elsewhere import exporting_elsewhere

        exports = exporting_elsewhere(environment, environ)
    else:
        from otel_intercept.sdk.parts import exporting_here

        exports = exporting_here(environment)
    with exports as telemetry:
        yield telemetry
