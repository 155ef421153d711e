"""Use the providers that the application has made global already."""

import logging
import os
from collections.abc import Mapping
from typing import Final

from opentelemetry._logs import get_logger_provider
from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_tracer_provider

from otel_intercept.sdk.environment import (
    has_failure_logs,
    is_disabled,
    read_settings,
)
from otel_intercept.sdk.variables import Variables
from otel_intercept.telemetry import Telemetry

_logger: Final = logging.getLogger("otel_intercept.sdk")


def adopt_global_providers(
    environ: Mapping[str, str] = os.environ,
) -> Telemetry | None:
    """Return telemetry that goes through the global providers, if they are the SDK's.

    For programs that run under ``opentelemetry-instrument``, or set OpenTelemetry up
    themselves: their resource, sampler, processors, readers and exporters are used, and
    no second set is built. Where a signal has no global provider of the SDK, the others
    are used, and one INFO line says what is missing. Providers that become global later
    are not seen.

    How to queue, batch and label is read from the variables, as by ``configure``:
    ``OTEL_SDK_DISABLED``, ``OTEL_BSP_SCHEDULE_DELAY``, ``OTEL_BSP_MAX_QUEUE_SIZE``,
    ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``, ``OTEL_INTERCEPT_MODELS``,
    ``OTEL_INTERCEPT_FINGERPRINT_KEY`` and ``OTEL_INTERCEPT_FAILURE_LOGS``, which sends
    failures through the global logger provider as well. How to sample and export is for
    the providers.

    The caller shuts the telemetry down, before the providers. Loggers of exporters are
    not filtered, since they are not ours: see ``otel_intercept.logs.redact_exports``.

    Args:
        environ: The variables. The SDK reads further ones from ``os.environ``.

    Returns:
        The telemetry; a disabled one when ``OTEL_SDK_DISABLED`` is true; None when
        neither the global tracer provider nor the meter provider is the SDK's.

    Raises:
        ConfigurationError: A variable has a value that is not allowed. The message has
            its name and what is allowed, not the value.
    """
    variables = Variables(environ)
    if is_disabled(variables):
        return Telemetry()
    tracer_provider, meter_provider = get_tracer_provider(), get_meter_provider()
    traces = tracer_provider if isinstance(tracer_provider, TracerProvider) else None
    metrics = meter_provider if isinstance(meter_provider, MeterProvider) else None
    if traces is None and metrics is None:
        return None
    wants_logs = has_failure_logs(variables)
    logger_provider = get_logger_provider() if wants_logs else None
    logs = logger_provider if isinstance(logger_provider, LoggerProvider) else None
    telemetry = Telemetry(
        tracer_provider=traces,
        meter_provider=metrics,
        logger_provider=logs,
        settings=read_settings(variables),
    )
    adopted: dict[str, object] = {"traces": traces, "metrics": metrics}
    if wants_logs:
        adopted["logs"] = logs
    missing = [signal for signal, provider in adopted.items() if provider is None]
    if missing:
        _logger.info(
            "not exported, for want of a global provider of the SDK: %s",
            ", ".join(missing),
        )
    return telemetry
