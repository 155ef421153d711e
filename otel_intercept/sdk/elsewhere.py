"""Have telemetry exported by a helper process, without loading an exporter here."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from otel_intercept.errors import ConfigurationError
from otel_intercept.process.orders import Configure
from otel_intercept.sdk.environment import FINGERPRINT_KEY, Environment, Outputs
from otel_intercept.telemetry import Telemetry

_PREFIX: Final = "OTEL_"
# What requests and gRPC take from the environment of the process that they run in.
_PROCESS: Final = frozenset(
    {
        "all_proxy", "curl_ca_bundle", "grpc_default_ssl_roots_file_path",
        "grpc_proxy", "http_proxy", "https_proxy", "no_grpc_proxy", "no_proxy",
        "requests_ca_bundle", "ssl_cert_dir", "ssl_cert_file",
    }
)  # fmt: skip


@contextmanager
def exporting_elsewhere(
    environment: Environment, environ: Mapping[str, str]
) -> Iterator[Telemetry]:
    """Give telemetry that a helper process exports, and wind it down.

    Args:
        environment: What ``environ`` says.
        environ: The variables, which the helper reads again.

    Raises:
        ConfigurationError: There is no such process on this system, it cannot do what
            is asked, or it cannot start.
    """
    outputs = environment.traces, environment.metrics, environment.logs
    if outputs == (Outputs(),) * len(outputs):
        yield Telemetry()
        return
    if os.name != "posix":
        raise ConfigurationError(
            "a helper process needs a POSIX system: use OTEL_INTERCEPT_RECORDER=thread"
        )
    if any(output.console for output in outputs):
        raise ConfigurationError(
            "a helper process has no console: use OTEL_INTERCEPT_RECORDER=thread, or "
            "an exporter other than console"
        )
    # Not before it is known that this system has what it needs.
    from otel_intercept.process.recorder import ProcessRecorder

    recorder = ProcessRecorder(
        environment.settings,
        _configuration(environment, environ),
        spans=environment.traces != Outputs(),
    )
    telemetry = Telemetry.through(recorder, environment.settings)
    try:
        yield telemetry
    finally:
        telemetry.shutdown()


def _configuration(environment: Environment, environ: Mapping[str, str]) -> Configure:
    resource: dict[str, str | bool | int | float | tuple[str, ...]] = {
        key: value
        for key, value in environment.resource.attributes.items()
        if isinstance(value, (str, bool, int, float))
    }
    return Configure(
        # The helper makes no fingerprint, so it needs no key.
        environ={
            name: value
            for name, value in environ.items()
            if name.startswith(_PREFIX) and name != FINGERPRINT_KEY
        },
        process={
            name: value
            for name, value in os.environ.items()
            if name.lower() in _PROCESS
        },
        resource=resource,
    )
