"""Read where and how one signal is sent over OTLP."""

from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias
from urllib.parse import SplitResult, urlsplit, urlunsplit

from otel_intercept.errors import ConfigurationError
from otel_intercept.sdk.variables import Variables

Signal: TypeAlias = Literal["TRACES", "METRICS", "LOGS"]

_PREFIX: Final = "OTEL_EXPORTER_OTLP_"
_PROTOCOLS: Final = ("grpc", "http/protobuf")
_HTTP_DEFAULT: Final = "http://localhost:4318"
_GRPC_DEFAULT: Final = "http://localhost:4317"


@dataclass(frozen=True, slots=True)
class Target:
    """Where and how one signal is sent. Its ``repr`` has neither URL nor headers.

    Args:
        grpc: Whether to speak gRPC; HTTP with protobuf otherwise.
        endpoint: For HTTP the full URL; for gRPC ``host:port``.
        headers: Sent with every request; names are in lower case.
        timeout_s: Seconds that one export may take, with its retries.
        compression: ``none``, ``gzip`` or, over HTTP, ``deflate``.
        secure: Whether TLS is used.
        certificate: Path of the authority to trust; None for the system's.
        client_key: Path of the key for mutual TLS, or None.
        client_certificate: Path of the certificate for mutual TLS, or None.
    """

    grpc: bool
    endpoint: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    timeout_s: float
    compression: str
    secure: bool
    certificate: str | None
    client_key: str | None
    client_certificate: str | None


def read_target(variables: Variables, signal: Signal) -> Target:
    """Read the target of a signal; its own variables win over the general ones.

    The timeout is in seconds, as in the Python SDK (the specification says
    milliseconds, which would make every ``10`` of a Python deployment useless).

    Raises:
        ConfigurationError: A value is not allowed. The message names the variable.
    """
    names = _Names(variables, signal)
    grpc = variables.choice(names.of("PROTOCOL"), _PROTOCOLS, "http/protobuf") == "grpc"
    compressions = ("none", "gzip") if grpc else ("none", "gzip", "deflate")
    endpoint, secure = _grpc(names) if grpc else _http(names)
    key = variables.file(names.of("CLIENT_KEY"))
    certificate = variables.file(names.of("CLIENT_CERTIFICATE"))
    if key is not None and certificate is None:
        raise ConfigurationError(
            f"{names.of('CLIENT_KEY')} also needs {_PREFIX}CLIENT_CERTIFICATE"
        )
    return Target(
        grpc=grpc,
        endpoint=endpoint,
        headers=variables.headers(names.of("HEADERS")),
        timeout_s=variables.number(
            names.of("TIMEOUT"), default=10.0, low=0.001, high=600.0, unit="seconds"
        ),
        compression=variables.choice(names.of("COMPRESSION"), compressions, "none"),
        secure=secure,
        certificate=variables.file(names.of("CERTIFICATE")),
        client_key=key,
        client_certificate=certificate,
    )


class _Names:
    def __init__(self, variables: Variables, signal: Signal) -> None:
        self.variables = variables
        self.signal = signal

    def of(self, what: str) -> str:
        """Return the variable that counts: the signal's if it is set."""
        general = f"{_PREFIX}{what}"
        return self.variables.first(self.own(what)) or general

    def own(self, what: str) -> str:
        return f"{_PREFIX}{self.signal}_{what}"


def _http(names: _Names) -> tuple[str, bool]:
    name = names.of("ENDPOINT")
    url = _split(name, names.variables.text(name) or _HTTP_DEFAULT)
    if name != names.own("ENDPOINT"):
        path = f"{url.path.rstrip('/')}/v1/{names.signal.lower()}"
        url = url._replace(path=path)
    return urlunsplit(url._replace(fragment="")), url.scheme == "https"


def _grpc(names: _Names) -> tuple[str, bool]:
    name = names.of("ENDPOINT")
    text = names.variables.text(name) or _GRPC_DEFAULT
    has_scheme = "://" in text
    url = _split(name, text if has_scheme else f"https://{text}")
    # The channel's target is logged and shown by gRPC, so it may hold no secret.
    if "@" in url.netloc:
        raise ConfigurationError(f"{name} must not hold a user name for gRPC")
    insecure = names.variables.flag(names.of("INSECURE"))
    secure = url.scheme == "https" if has_scheme else not insecure
    return url.netloc, secure


def _split(name: str, text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        # Reading the port checks it.
        usable = bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        url, usable = urlsplit(""), False
    if not usable or url.scheme not in ("http", "https") or not text.isprintable():
        raise ConfigurationError(f"{name} must be an http or https URL with a host")
    if any(character.isspace() for character in text):
        raise ConfigurationError(f"{name} must not hold blanks")
    return url
