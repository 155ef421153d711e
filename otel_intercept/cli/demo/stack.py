"""The stack of engines on this machine: where it listens, and whether it does."""

import socket
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from otel_intercept.cli.output import refuse
from otel_intercept.sdk.target import read_target
from otel_intercept.sdk.variables import Variables

ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
PROTOCOL: Final = "OTEL_EXPORTER_OTLP_PROTOCOL"
STACK_ENDPOINT: Final = "http://127.0.0.1:4318"
STACK_GRPC_ENDPOINT: Final = "http://127.0.0.1:4317"
STACK_URLS: Final = (
    ("Jaeger", "http://127.0.0.1:16686/search?service=otel-intercept-demo"),
    ("Prometheus", "http://127.0.0.1:9090/classic/graph"),
    ("Alerts", "http://127.0.0.1:9093/api/v2/alerts"),
)
"""Where the stack shows what it has, on its usual ports."""

_CONNECT_S: Final = 2.0
_PORTS: Final = {"http": 80, "https": 443}


def with_stack(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables, with the stack's endpoint if they name none."""
    named = environ.get(ENDPOINT, "").strip()
    grpc = environ.get(PROTOCOL, "").strip() == "grpc"
    return {**environ, ENDPOINT: named or _stack_endpoint(grpc=grpc)}


def require_stack(variables: Mapping[str, str]) -> None:
    """Make sure that something listens at the endpoint for traces.

    Raises:
        Refused: Nothing does.
        ConfigurationError: A variable has a bad value.
    """
    target = read_target(Variables(variables), "TRACES")
    url = urlsplit(f"//{target.endpoint}" if target.grpc else target.endpoint)
    address = (url.hostname or "", url.port or _PORTS.get(url.scheme, 4317))
    try:
        socket.create_connection(address, timeout=_CONNECT_S).close()
    except OSError:
        refuse(_nobody(variables))


def _stack_endpoint(*, grpc: bool) -> str:
    return STACK_GRPC_ENDPOINT if grpc else STACK_ENDPOINT


def _nobody(variables: Mapping[str, str]) -> str:
    endpoint = variables.get(ENDPOINT)
    if endpoint in {STACK_ENDPOINT, STACK_GRPC_ENDPOINT}:
        return (
            f"nothing listens at {endpoint}: start the stack with `make stack`, "
            f"or say in {ENDPOINT} where it is"
        )
    return (
        f"nothing listens at the endpoint that {ENDPOINT} names: start the stack with "
        "`make stack`, or correct the variable"
    )
