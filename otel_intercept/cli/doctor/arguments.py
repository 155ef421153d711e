"""The arguments of ``doctor``, and what its help says."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Final

from otel_intercept.cli.doctor.options import (
    DoctorOptions,
    Opening,
    header,
    header_variable,
    opening,
)

DESCRIPTION: Final = """\
Prove on loopback that a wiring sees what it must see.

Doctor serves the app of your factory in a process of its own, in front of an
upstream that fails on cue, and plays one agent: good calls, and one of each
failure that an upstream can show. What the app's telemetry saw is compared with
what was injected; each difference comes with the line to add.

TARGET is mypkg.app:make_app, or the URL of a server on loopback. A factory may
take registry, telemetry and upstream_url; the app finds the upstream there, or
in OPENAI_BASE_URL and ANTHROPIC_BASE_URL.

Exit code: 0 if all is seen, 1 with findings, 2 if doctor cannot do its work.
"""
EPILOG: Final = """\
The export path of this environment (OTEL_*) is checked as well: one span and
one gauge named otel_intercept.probe are sent. docs/doctor.md explains more.
"""


def add_arguments(
    doctor: argparse.ArgumentParser,
    *,
    port: Callable[[str], int],
    seconds: Callable[[str], float],
) -> None:
    """Add the arguments to the command's parser.

    Args:
        doctor: The parser.
        port: Reads a port.
        seconds: Reads a number of seconds.
    """
    doctor.epilog = EPILOG
    doctor.add_argument("target", metavar="TARGET", help="what to examine")
    doctor.add_argument(
        "--rollout-id",
        metavar="KEY|MODULE:FUNCTION|ID",
        help="of a factory: what instrument_app should be given; of a server: the id "
        "of a rollout that is open",
    )
    doctor.add_argument(
        "--route",
        metavar="TEMPLATE",
        help="the route that agents call, such as "
        "/rollout/{rollout_id}/v1/chat/completions (default: found in the app)",
    )
    doctor.add_argument(
        "--upstream-env",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable that the app reads its upstream's URL from; may be repeated",
    )
    doctor.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME:VALUE",
        help="a header of the agent; {rollout_id} is replaced",
    )
    doctor.add_argument(
        "--header-env",
        action="append",
        default=[],
        type=_header_variable,
        metavar="NAME=VARIABLE",
        help="a header whose value stands in a variable, for secrets",
    )
    doctor.add_argument(
        "--open-url",
        type=_open,
        metavar="[METHOD ]PATH",
        help="how to ask the app to open a rollout (default method: POST)",
    )
    doctor.add_argument(
        "--close-url",
        type=_close,
        metavar="[METHOD ]PATH",
        help="how to ask it to close one (default method: DELETE)",
    )
    doctor.add_argument(
        "--listen",
        type=port,
        default=4318,
        metavar="PORT",
        help="where a running server's telemetry is taken in (default: 4318)",
    )
    doctor.add_argument(
        "--upstream-port",
        type=port,
        default=4319,
        metavar="PORT",
        help="where a running server finds its upstream (default: 4319)",
    )
    doctor.add_argument(
        "--file",
        type=Path,
        metavar="PATH",
        help="read a running server's telemetry from its OTEL_INTERCEPT_FILE instead",
    )
    doctor.add_argument(
        "--timeout",
        type=seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long the agent waits for an answer (default: 30)",
    )
    doctor.add_argument(
        "--no-export", action="store_true", help="do not check the export path"
    )
    doctor.add_argument(
        "--allow-error-texts",
        action="store_true",
        help="agents may read the upstream's error texts",
    )
    doctor.add_argument(
        "--json", action="store_true", help="print JSON, for other programs"
    )


def options_of(arguments: argparse.Namespace) -> DoctorOptions:
    """Return what was asked for."""
    return DoctorOptions(
        target=arguments.target,
        rollout_id=arguments.rollout_id,
        route=arguments.route,
        upstream_env=tuple(arguments.upstream_env),
        headers=tuple(arguments.header),
        header_env=tuple(arguments.header_env),
        open_url=arguments.open_url,
        close_url=arguments.close_url,
        listen=arguments.listen,
        upstream_port=arguments.upstream_port,
        file=arguments.file,
        export=not arguments.no_export,
        allow_error_texts=arguments.allow_error_texts,
        json=arguments.json,
        timeout_s=arguments.timeout,
    )


def _header(text: str) -> tuple[str, str]:
    read = header(text)
    if read is None:
        raise argparse.ArgumentTypeError(
            "must be NAME:VALUE without a secret; for secrets there is --header-env"
        )
    return read


def _header_variable(text: str) -> tuple[str, str]:
    read = header_variable(text)
    if read is None:
        raise argparse.ArgumentTypeError("must be NAME=VARIABLE")
    return read


def _open(text: str) -> Opening:
    return _opening(text, "POST")


def _close(text: str) -> Opening:
    return _opening(text, "DELETE")


def _opening(text: str, method: str) -> Opening:
    read = opening(text, method)
    if read is None:
        raise argparse.ArgumentTypeError("must be a path, with or without a method")
    return read
