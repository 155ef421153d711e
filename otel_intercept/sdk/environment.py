"""Read the standard OTel variables, and our own, into one validated object."""

import dataclasses
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final, Literal

from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    ExemplarFilter,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.sampling import (
    ALWAYS_OFF,
    ALWAYS_ON,
    Sampler,
    TraceIdRatioBased,
)

from otel_intercept.errors import ConfigurationError
from otel_intercept.sdk.target import Target, read_target
from otel_intercept.sdk.variables import Variables
from otel_intercept.settings import MAX_EXPORT_BATCH_SIZE, Settings

DEFAULT_SERVICE_NAME: Final = "otel_intercept"
FINGERPRINT_KEY: Final = "OTEL_INTERCEPT_FINGERPRINT_KEY"

_OTLP: Final = "otlp"
_EXPORTERS: Final = (_OTLP, "console", "otlp_json_file")
_SAMPLERS: Final = ("always_on", "always_off", "traceidratio")
_MAX_QUEUE: Final = 10_000_000
_DAY_MS: Final = 86_400_000
_FILE: Final = "OTEL_INTERCEPT_FILE"
_RECORDER: Final = "OTEL_INTERCEPT_RECORDER"
_RECORDERS: Final[Mapping[str, Literal["thread", "process"]]] = {
    "thread": "thread",
    "process": "process",
}
_FAILURE_LOGS: Final = "OTEL_INTERCEPT_FAILURE_LOGS"
_MIN_KEY_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Outputs:
    """What one signal is sent to.

    Args:
        target: Where OTLP goes, or None for no OTLP.
        console: Whether it is also printed.
        file: Which file it is also written to, or None.
    """

    target: Target | None = None
    console: bool = False
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Environment:
    """Everything that the environment says about telemetry.

    Args:
        resource: Who the telemetry is from.
        settings: How to sample, queue, batch and label.
        traces: Where spans go.
        metrics: Where metrics go.
        logs: Where the log records of failures go.
        metric_interval_s: Seconds between two metric exports.
    """

    resource: Resource
    settings: Settings
    traces: Outputs
    metrics: Outputs
    logs: Outputs
    metric_interval_s: float


def read_environment(
    environ: Mapping[str, str], *, service_name: str | None = None
) -> Environment | None:
    """Read the variables; None when ``OTEL_SDK_DISABLED`` is true.

    Args:
        environ: The variables. Nothing else is read.
        service_name: The service name when the variables give none.

    Raises:
        ConfigurationError: A value is not allowed. The message has the variable's name
            and what is allowed, not the value.
    """
    variables = Variables(environ)
    if is_disabled(variables):
        return None
    file = variables.text(_FILE)
    path = None if file is None else Path(file)
    traces = _exporters(variables, "OTEL_TRACES_EXPORTER", path)
    metrics = _exporters(variables, "OTEL_METRICS_EXPORTER", path)
    if path is not None:
        traces |= {"otlp_json_file"}
    return Environment(
        resource=_resource(variables, service_name),
        settings=dataclasses.replace(
            read_settings(variables),
            sampler=_sampler(variables),
            exemplar_filter=_exemplar_filter(variables),
        ),
        traces=Outputs(
            target=read_target(variables, "TRACES") if _OTLP in traces else None,
            console="console" in traces,
            file=path if "otlp_json_file" in traces else None,
        ),
        metrics=Outputs(
            target=read_target(variables, "METRICS") if _OTLP in metrics else None,
            console="console" in metrics,
            file=_file_of("metrics", path) if "otlp_json_file" in metrics else None,
        ),
        logs=_logs(variables, path),
        metric_interval_s=_milliseconds(
            variables, "OTEL_METRIC_EXPORT_INTERVAL", 60_000
        ),
    )


def is_disabled(variables: Variables) -> bool:
    """Tell whether the operator has switched all telemetry off."""
    return variables.flag("OTEL_SDK_DISABLED")


def _exporters(variables: Variables, name: str, path: Path | None) -> set[str]:
    asked = {word.lower() for word in variables.words(name)} or {_OTLP}
    if asked == {"none"}:
        return set()
    if not asked <= {*_EXPORTERS}:
        raise ConfigurationError(
            f"{name} must be none, or a list of: {', '.join(_EXPORTERS)}"
        )
    if "otlp_json_file" in asked and path is None:
        raise ConfigurationError(f"{name} has otlp_json_file, which needs {_FILE}")
    return asked


def has_failure_logs(variables: Variables) -> bool:
    """Tell whether the operator wants failures as log records."""
    return variables.flag(_FAILURE_LOGS)


def _logs(variables: Variables, path: Path | None) -> Outputs:
    if not has_failure_logs(variables):
        return Outputs()
    logs = _exporters(variables, "OTEL_LOGS_EXPORTER", path)
    return Outputs(
        target=read_target(variables, "LOGS") if _OTLP in logs else None,
        console="console" in logs,
        file=_file_of("logs", path) if "otlp_json_file" in logs else None,
    )


def _file_of(signal: str, path: Path | None) -> Path | None:
    # A file of its own: viewers of trace files take no other lines.
    return None if path is None else path.with_suffix(f".{signal}{path.suffix}")


def read_settings(variables: Variables) -> Settings:
    """Read how to queue, batch and label; not how to sample.

    Raises:
        ConfigurationError: A value is not allowed. The message names the variable.
    """
    return Settings(
        fingerprint_key=_fingerprint_key(variables),
        queue_size=variables.whole(
            "OTEL_BSP_MAX_QUEUE_SIZE", default=65536, low=1, high=_MAX_QUEUE
        ),
        schedule_delay_s=_milliseconds(variables, "OTEL_BSP_SCHEDULE_DELAY", 1000),
        export_batch_size=variables.whole(
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
            default=512,
            low=1,
            high=MAX_EXPORT_BATCH_SIZE,
        ),
        models=frozenset(variables.words("OTEL_INTERCEPT_MODELS")) or None,
        recorder=_RECORDERS[variables.choice(_RECORDER, (*_RECORDERS,), "thread")],
    )


def _fingerprint_key(variables: Variables) -> bytes:
    text = variables.text(FINGERPRINT_KEY)
    if text is None:
        return secrets.token_bytes(32)
    key = text.encode("utf-8", "surrogateescape")
    if len(key) < _MIN_KEY_BYTES:
        raise ConfigurationError(
            f"{FINGERPRINT_KEY} must have at least {_MIN_KEY_BYTES} bytes"
        )
    return key


def _sampler(variables: Variables) -> Sampler:
    # A rollout is always a root here, so the parent-based samplers decide the same.
    allowed = (*_SAMPLERS, *(f"parentbased_{name}" for name in _SAMPLERS))
    name = variables.choice("OTEL_TRACES_SAMPLER", allowed, "parentbased_always_on")
    match name.removeprefix("parentbased_"):
        case "always_off":
            return ALWAYS_OFF
        case "traceidratio":
            ratio = variables.number(
                "OTEL_TRACES_SAMPLER_ARG", default=1.0, low=0.0, high=1.0
            )
            return TraceIdRatioBased(ratio)
        case _:
            return ALWAYS_ON


def _exemplar_filter(variables: Variables) -> ExemplarFilter:
    allowed = ("always_on", "always_off", "trace_based")
    match variables.choice("OTEL_METRICS_EXEMPLAR_FILTER", allowed, "trace_based"):
        case "always_on":
            return AlwaysOnExemplarFilter()
        case "always_off":
            return AlwaysOffExemplarFilter()
        case _:
            return TraceBasedExemplarFilter()


def _resource(variables: Variables, service_name: str | None) -> Resource:
    attributes: dict[str, str] = {
        "service.name": service_name or DEFAULT_SERVICE_NAME,
        "service.instance.id": str(uuid.uuid4()),
        **variables.pairs("OTEL_RESOURCE_ATTRIBUTES"),
        "telemetry.sdk.language": "python",
        "telemetry.sdk.name": "opentelemetry",
        "telemetry.sdk.version": version("opentelemetry-sdk"),
    }
    own_name = variables.text("OTEL_SERVICE_NAME")
    if own_name is not None:
        attributes["service.name"] = own_name
    return Resource(attributes)


def _milliseconds(variables: Variables, name: str, default: float) -> float:
    return (
        variables.number(
            name, default=default, low=1, high=_DAY_MS, unit="milliseconds"
        )
        / 1000
    )
