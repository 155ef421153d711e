"""Check where the environment sends telemetry to, by one tiny request per signal."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from otel_intercept.cli.doctor.findings import Code, Finding
from otel_intercept.cli.output import own_words, printable
from otel_intercept.errors import ConfigurationError
from otel_intercept.sdk.environment import Environment, Outputs, read_environment
from otel_intercept.sdk.probe import Answered, Probed, probe
from otel_intercept.sdk.probe_payloads import probe_payload
from otel_intercept.sdk.target import Signal, Target

_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"
_TELLING: Final = (
    _ENDPOINT,
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
    "OTEL_METRICS_EXPORTER",
    "OTEL_INTERCEPT_FILE",
    "OTEL_SDK_DISABLED",
)

_SAID: Final[Mapping[Answered, str]] = MappingProxyType(
    {
        Answered.ACCEPTED: "accepted",
        Answered.PARTLY_REJECTED: "accepted the request but rejected what was in it",
        Answered.UNAUTHORIZED: "refused the credential",
        Answered.NO_SUCH_PATH: "has no such path, or does not take this signal",
        Answered.TOO_LARGE: "says that the request is too large",
        Answered.BUSY: "is busy or not ready",
        Answered.BAD_REQUEST: "refused the request",
        Answered.SERVER_ERROR: "failed",
        Answered.REDIRECTED: "redirects elsewhere",
        Answered.NO_SUCH_HOST: "the host name is unknown",
        Answered.REFUSED: "nobody listens there, or it cannot be reached",
        Answered.TIMED_OUT: "gave no answer in time",
        Answered.TLS_FAILED: "the TLS handshake failed",
        Answered.SPEAKS_GRPC: "speaks gRPC, but is spoken to in HTTP",
        Answered.SPEAKS_HTTP: "speaks HTTP, but is spoken to in gRPC",
        Answered.NO_OTLP: "gave no answer that is OTLP",
    }
)
_ADD: Final[Mapping[Answered, str]] = MappingProxyType(
    {
        Answered.PARTLY_REJECTED: "look at the collector's limits and filters",
        Answered.UNAUTHORIZED: "set OTEL_EXPORTER_OTLP_HEADERS, such as "
        "authorization=Bearer%20..., to a credential that may write",
        Answered.NO_SUCH_PATH: f"set {_ENDPOINT} to the base URL, without /v1/traces; "
        "a variable of one signal takes the full URL; or switch the signal off with "
        "OTEL_{TRACES,METRICS,LOGS}_EXPORTER=none",
        Answered.TOO_LARGE: "raise the limit of the collector or of the proxy before "
        "it, or lower OTEL_BSP_MAX_EXPORT_BATCH_SIZE",
        Answered.BUSY: "give the collector room; what it does not take is counted as "
        "failed in intercept.records",
        Answered.BAD_REQUEST: "check that the endpoint is an OTLP one, and takes "
        "OTEL_EXPORTER_OTLP_COMPRESSION",
        Answered.SERVER_ERROR: "look at the collector's own log",
        Answered.REDIRECTED: f"set {_ENDPOINT} to where it redirects: exporters do not "
        "follow",
        Answered.NO_SUCH_HOST: f"correct the host in {_ENDPOINT}",
        Answered.REFUSED: f"start a collector there, or set {_ENDPOINT}; --no-export "
        "leaves this check out",
        Answered.TIMED_OUT: "check firewalls and proxies, or raise "
        "OTEL_EXPORTER_OTLP_TIMEOUT (seconds)",
        Answered.TLS_FAILED: "set OTEL_EXPORTER_OTLP_CERTIFICATE to the authority to "
        "trust, or use http:// for a collector without TLS",
        Answered.SPEAKS_GRPC: "set OTEL_EXPORTER_OTLP_PROTOCOL=grpc, or use its HTTP "
        "port (4318 by convention)",
        Answered.SPEAKS_HTTP: "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf, or use "
        "its gRPC port (4317 by convention)",
        Answered.NO_OTLP: f"check scheme, port and protocol of {_ENDPOINT}",
    }
)


class ExportCheck(NamedTuple):
    """What came of one signal.

    Args:
        signal: ``traces``, ``metrics`` or ``logs``; or ``all``.
        endpoint: Scheme, host and port, or empty.
        answer: What the collector answered; None if none was asked.
        status: The HTTP status, if there was one.
        said: The answer in words.
        add: What to do; empty if all is well.
    """

    signal: str
    endpoint: str
    answer: Answered | None
    status: int | None
    said: str
    add: str = ""

    @property
    def finding(self) -> Finding | None:
        """The finding, or None if all is well."""
        if not self.add:
            return None
        where = f" {self.endpoint}" if self.endpoint else ""
        status = "" if self.status is None else f" (HTTP {self.status})"
        what = f"export of {self.signal}{where}: {self.said}{status}"
        return Finding(Code.EXPORT, what, self.add)


def is_told(environ: Mapping[str, str]) -> bool:
    """Tell whether the environment says anything about where telemetry goes."""
    return any(environ.get(name, "").strip() for name in _TELLING)


def check_exports(environ: Mapping[str, str]) -> tuple[ExportCheck, ...]:
    """Send one request per signal to where the environment says. Blocks."""
    try:
        environment = read_environment(environ)
    except ConfigurationError as mistake:
        words = own_words(mistake)
        return (ExportCheck("all", "", None, None, words, "correct the variable"),)
    if environment is None:
        off = "OTEL_SDK_DISABLED switches telemetry off"
        return (ExportCheck("all", "", None, None, off, "unset OTEL_SDK_DISABLED"),)
    return tuple(_checks(environment))


def _checks(environment: Environment) -> Iterator[ExportCheck]:
    name = environment.resource.attributes.get("service.name")
    service = name if isinstance(name, str) else ""
    yield _check("TRACES", environment.traces, service)
    yield _check("METRICS", environment.metrics, service)
    if environment.logs != Outputs():
        yield _check("LOGS", environment.logs, service)


def _check(signal: Signal, outputs: Outputs, service: str) -> ExportCheck:
    word, target = signal.lower(), outputs.target
    if target is None:
        words = "go to a file or the console" if outputs != Outputs() else "are off"
        # Traces are what rollouts are seen by; metrics may well be off.
        is_off = signal == "TRACES" and outputs == Outputs()
        add = "set OTEL_TRACES_EXPORTER=otlp" if is_off else ""
        return ExportCheck(word, "", None, None, words, add)
    try:
        probed = probe(target, signal, probe_payload(signal, service))
    except ConfigurationError:
        probed = Probed(Answered.TLS_FAILED)
    answered, status = probed
    return ExportCheck(
        word,
        _origin(target),
        answered,
        status,
        _SAID[answered],
        _ADD.get(answered, ""),
    )


def _origin(target: Target) -> str:
    # Neither user nor path nor query: each may be a credential.
    url = urlsplit(f"//{target.endpoint}" if target.grpc else target.endpoint)
    host = f"[{url.hostname}]" if ":" in (url.hostname or "") else url.hostname
    port = "" if url.port is None else f":{url.port}"
    scheme = ("grpcs" if target.secure else "grpc") if target.grpc else url.scheme
    return printable(f"{scheme}://{host}{port}")
