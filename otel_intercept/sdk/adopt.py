"""Use the providers that the application has made global already."""

import logging
import os
from collections.abc import Mapping
from typing import Final

from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import get_tracer_provider

from otel_intercept.sdk.environment import is_disabled, read_settings
from otel_intercept.sdk.variables import Variables
from otel_intercept.telemetry import Telemetry

_logger: Final = logging.getLogger("otel_intercept.sdk")


def adopt_global_providers(
    environ: Mapping[str, str] = os.environ,
) -> Telemetry | None:
    """Return telemetry that goes through the global providers, if they are the SDK's.

    For programs that run under ``opentelemetry-instrument``, or set OpenTelemetry up
    themselves: their resource, sampler, processors, readers and exporters are used, and
    no second set is built. When only one of the two providers is the SDK's, that one is
    used, and one INFO line says what is missing. Providers that become global later are
    not seen.

    How to queue, batch and label is read from the variables, as by ``configure``:
    ``OTEL_SDK_DISABLED``, ``OTEL_BSP_SCHEDULE_DELAY``, ``OTEL_BSP_MAX_QUEUE_SIZE``,
    ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``, ``OTEL_INTERCEPT_MODELS`` and
    ``OTEL_INTERCEPT_FINGERPRINT_KEY``. How to sample and export is the providers'.

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
    telemetry = Telemetry(
        tracer_provider=traces,
        meter_provider=metrics,
        settings=read_settings(variables),
    )
    if metrics is None:
        _logger.info("no global meter provider of the SDK: spans leave, metrics do not")
    if traces is None:
        _logger.info(
            "no global tracer provider of the SDK: metrics leave, spans do not"
        )
    return telemetry
