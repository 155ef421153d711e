"""What the command line of doctor asks for, checked."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from yarl import URL

from otel_intercept.cli.output import refuse

ID: Final = "{rollout_id}"

_FACTORY: Final = re.compile(r"[^\W\d][\w.]*:[^\W\d][\w.]*")
_HEADER: Final = re.compile(r"([A-Za-z0-9-]+)\s*[:=]\s*([\x20-\x7e]*)")
_OPENING: Final = re.compile(r"(?:(GET|POST|PUT|PATCH|DELETE) )?(/\S*)")
_SECRET: Final = re.compile(r"auth|cookie|key|secret|token", re.IGNORECASE)


class Opening(NamedTuple):
    """A request that opens or closes a rollout.

    Args:
        method: The HTTP method.
        path: The path, with ``{rollout_id}``.
    """

    method: str
    path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DoctorOptions:
    """What the command line says.

    Args:
        target: ``module:factory``, or the base URL of a running server.
        rollout_id: For a factory what ``instrument_app`` should be given; for a server
            the id of a rollout that is open.
        route: The template of the route that agents call, or None to find it.
        upstream_env: Variables that the app reads its upstream's URL from.
        headers: Further headers of the agent; values may hold ``{rollout_id}``.
        header_env: Further headers, and the variables that hold their values.
        open_url: How the app is asked to open a rollout, or None.
        close_url: How it is asked to close one, or None.
        listen: Port of doctor's OTLP receiver for a running server.
        upstream_port: Port of doctor's upstream for a running server.
        file: The running server's ``OTEL_INTERCEPT_FILE``, or None.
        export: Whether to check the export path.
        allow_error_texts: Whether the agent may see the upstream's error texts.
        json: Whether to print JSON.
        timeout_s: Seconds that a request of the agent may take.
    """

    target: str
    rollout_id: str | None = None
    route: str | None = None
    upstream_env: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    header_env: tuple[tuple[str, str], ...] = ()
    open_url: Opening | None = None
    close_url: Opening | None = None
    listen: int = 4318
    upstream_port: int = 4319
    file: Path | None = None
    export: bool = True
    allow_error_texts: bool = False
    json: bool = False
    timeout_s: float = 30.0

    @property
    def is_server(self) -> bool:
        """Whether the target is a running server."""
        return "://" in self.target

    def agent_headers(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the agent's further headers, with the values of their variables.

        Raises:
            Refused: A variable is not set.
        """
        headers = dict(self.headers)
        for name, variable in self.header_env:
            value = environ.get(variable)
            if not value:
                refuse("a variable that --header-env names is not set")
            headers[name] = value
        return headers


def check_target(options: DoctorOptions) -> None:
    """Refuse targets that are neither a factory nor a server on loopback.

    Raises:
        Refused: It is neither.
    """
    if not options.is_server:
        if _FACTORY.fullmatch(options.target) is None:
            refuse(
                "the target must be module:factory, such as mypkg.app:make_app, or the "
                "http URL of a server on loopback"
            )
        return
    try:
        url = URL(options.target)
        plain = url.scheme == "http" and not (url.user or url.password or url.query)
    except ValueError:
        refuse("the target is no URL")
    if not plain:
        refuse("the target must be an http URL without user and query")
    if not _is_loopback(url.host or ""):
        refuse("the target must be on loopback: doctor makes calls fail on purpose")


def header(text: str) -> tuple[str, str] | None:
    """Read ``Name: value``; None if it is none, or if a secret may stand in it."""
    match = _HEADER.fullmatch(text)
    if match is None or (_SECRET.search(match[1]) and ID not in match[2]):
        return None
    return match[1], match[2]


def header_variable(text: str) -> tuple[str, str] | None:
    """Read ``Name=VARIABLE``; None if it is none."""
    match = _HEADER.fullmatch(text)
    if match is None or not match[2].isidentifier():
        return None
    return match[1], match[2]


def opening(text: str, method: str) -> Opening | None:
    """Read ``[METHOD ]/path``; None if it is none.

    Args:
        text: What was typed.
        method: The method if none was typed.
    """
    match = _OPENING.fullmatch(text)
    return None if match is None else Opening(match[1] or method, match[2])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
