"""The command ``demo``: play, export, read back, compare, report."""

import asyncio
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from otel_intercept import Telemetry
from otel_intercept.cli.demo.loop import SCRIPTED
from otel_intercept.cli.demo.plan import Planned, plan
from otel_intercept.cli.demo.progress import Progress
from otel_intercept.cli.demo.report import Findings, print_intro, print_report
from otel_intercept.cli.demo.run import Show, new_secret, run
from otel_intercept.cli.demo.stack import ENDPOINT, require_stack, with_stack
from otel_intercept.cli.demo.verdict import judge
from otel_intercept.cli.export_file import claim
from otel_intercept.cli.output import (
    EXIT_DIFFERS,
    EXIT_OK,
    console,
    printable,
)
from otel_intercept.cli.report.command import claim_page, page_beside, write_page
from otel_intercept.cli.story import read_all
from otel_intercept.sdk import configure
from otel_intercept.sdk.environment import read_environment
from otel_intercept.server import StreamFailure

_SERVICE_NAME: Final = "otel-intercept-demo"
_TRACES_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
_METRICS_ENDPOINT: Final = "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"
_EXPORT_TIMEOUT_S: Final = "2"
"""A collector that is down must not keep the file waiting until after the end."""

_OVERRULED: Final = frozenset(
    {
        "OTEL_SDK_DISABLED",
        "OTEL_TRACES_SAMPLER",
        "OTEL_TRACES_SAMPLER_ARG",
    }
)
"""What would leave rollouts out of the file, which the comparison needs whole."""


def demo(
    *,
    rollouts: int,
    seed: int,
    path: Path,
    stream_failure: StreamFailure,
    stack: bool = False,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Run the demo; return 0 if everything ended as injected, else 1.

    Args:
        rollouts: How many to play; at least one of each kind is.
        seed: Decides their order and choice.
        path: The file to export to.
        stream_failure: How the InterceptionServer ends a stream that failed.
        stack: Whether to send to the stack on this machine as well, which must be up.
        environ: The environment variables.

    Raises:
        Refused: The file or the page beside it cannot be used, or nothing listens
            where the stack should.
        ConfigurationError: A variable has a bad value.
    """
    started = time.monotonic()
    out = console()
    planned = plan(rollouts, seed=seed, stream_failure=stream_failure)
    variables = _environment(with_stack(environ) if stack else environ, path)
    sent = "otlp" in {variables["OTEL_METRICS_EXPORTER"], *_words(variables)}
    # A mistake in them is told before anything is overwritten or printed.
    read_environment(variables)
    if stack:
        require_stack(variables)
    page = page_beside(path)
    # Both are looked at before either is touched.
    claim(path, mark=SCRIPTED)
    claim_page(page)
    replaced = claim(path, mark=SCRIPTED, empty=True)
    print_intro(out, rollouts=len(planned), seed=seed, sent=sent)
    if replaced:
        out.print(f"The earlier demo in {printable(str(path))} is overwritten.\n")
    planted = new_secret()
    with configure(variables, service_name=_SERVICE_NAME) as telemetry:
        show = _play(out, telemetry, planned, stream_failure, planted)
    stories = read_all(path)
    write_page(page, stories)
    exported = path.read_bytes() + page.read_bytes()
    findings = Findings(
        played=show.played,
        stories=stories,
        verdict=judge(show.played, stories),
        balance=telemetry.balance(),
        path=path,
        sent=sent,
        secrets_sent=show.secrets_sent,
        secrets_found=exported.count(planted.encode()),
        duration_s=time.monotonic() - started,
        stack=stack,
    )
    print_report(out, findings)
    return EXIT_OK if findings.good else EXIT_DIFFERS


def _play(
    out: Console,
    telemetry: Telemetry,
    planned: Sequence[Planned],
    stream_failure: StreamFailure,
    planted: str,
) -> Show:
    with Progress(out, len(planned)) as progress:
        return asyncio.run(
            run(
                telemetry,
                planned,
                stream_failure=stream_failure,
                planted=planted,
                watcher=progress,
            )
        )


def _environment(environ: Mapping[str, str], path: Path) -> dict[str, str]:
    variables = {
        name: value for name, value in environ.items() if name not in _OVERRULED
    }
    general = bool(variables.get(ENDPOINT))
    traces = general or bool(variables.get(_TRACES_ENDPOINT))
    metrics = general or bool(variables.get(_METRICS_ENDPOINT))
    variables.setdefault("OTEL_EXPORTER_OTLP_TIMEOUT", _EXPORT_TIMEOUT_S)
    variables["OTEL_INTERCEPT_FILE"] = str(path)
    variables["OTEL_TRACES_EXPORTER"] = (
        "otlp,otlp_json_file" if traces else "otlp_json_file"
    )
    variables["OTEL_METRICS_EXPORTER"] = "otlp" if metrics else "none"
    return variables


def _words(variables: Mapping[str, str]) -> list[str]:
    return variables["OTEL_TRACES_EXPORTER"].split(",")
