"""The command line: what can be asked for, and how mistakes in it are answered."""

import argparse
import math
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NoReturn

from otel_intercept.cli.doctor.arguments import DESCRIPTION, add_arguments
from otel_intercept.cli.output import PROGRAM, refuse

DEMO_FILE: Final = Path("otel-intercept-demo.jsonl")

_DESCRIPTION: Final = """\
Watch LLM rollouts through an interception proxy: one trace per rollout, one
outcome per exchange, and no secret in either.

Begin with `otel-intercept demo`: it needs no backend and no key.
"""
_DEMO: Final = """\
Play scripted rollouts of every outcome on loopback, and compare what was
injected with what was exported. Needs no backend, no key and no network.

Agents with the real OpenAI and Anthropic SDKs talk to the real
InterceptionServer; the model behind it is scripted and fails on cue. Telemetry
goes to a file, which is read back for the report and drawn on a page beside it.
With OTEL_EXPORTER_OTLP_ENDPOINT set, it goes there as well.

Exit code: 0 if everything ended as injected, 1 if not, 2 if it cannot run.
"""
_EXPLAIN: Final = """\
Show one rollout of an OTLP JSON-lines file as a timeline: its exchanges, what
each waited for and how it ended, the first failure and those after it.

Such files are written by `demo`, by `serve --file`, by OTEL_INTERCEPT_FILE, and
by the file exporter of a collector.
"""
_REPORT: Final = """\
Write the rollouts of an OTLP JSON-lines file as one HTML page: how they ended,
what failed, and a waterfall of each, to be filtered and read without a network.

Of files with more than 2,000 rollouts or 20,000 spans a part is drawn, and the
page says which; everything is counted.
"""
_SERVE: Final = """\
Relay model calls to an upstream and observe them: one trace per rollout.

Give agents http://HOST:PORT/rollout/ID/v1 as their OpenAI base URL, or the same
without /v1 as their Anthropic base URL, with an ID of your own for each
rollout. It opens with its first request, or by PUT /rollout/ID, and closes by
DELETE /rollout/ID.
"""
_SERVE_MORE: Final = """\
environment:
  OTEL_INTERCEPT_UPSTREAM_KEY    sent to the upstream in place of agents' keys
  OTEL_INTERCEPT_CONTROL_SECRET  what PUT, GET and DELETE /rollout/ID must carry
  OTEL_INTERCEPT_FINGERPRINT_KEY makes fingerprints comparable over restarts
  OTEL_EXPORTER_OTLP_ENDPOINT    and other OTEL_*: where telemetry goes

SIGTERM or SIGINT ends it: open rollouts end as aborted, telemetry is flushed.
"""

_SAFE_REST: Final = re.compile(
    r"expected .*|must be .*|not allowed with argument --[a-z-]+"
)


class Parser(argparse.ArgumentParser):
    """A parser that answers a mistake in one line, without repeating what was typed.

    What was typed may be a secret in the wrong place, and standard error is often kept.
    """

    def error(self, message: str) -> NoReturn:
        """Print our own words for a message of argparse.

        Raises:
            Refused: Always.
        """
        refuse(f"{_own_words(message)}; see {self.prog} --help")


def make_parser() -> Parser:
    """Make the parser; its result has ``command`` and that command's options."""
    parser = Parser(
        prog=PROGRAM,
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"{PROGRAM} {_version()}"
    )
    commands = parser.add_subparsers(
        title="commands",
        dest="command",
        metavar="COMMAND",
        required=True,
        parser_class=Parser,
    )
    _add_demo(commands)
    _add_explain(commands)
    _add_report(commands)
    _add_serve(commands)
    _add_doctor(commands)
    return parser


def _add_demo(commands: "argparse._SubParsersAction[Parser]") -> None:
    demo = _command(commands, "demo", "play rollouts of every outcome", _DEMO)
    demo.add_argument(
        "--rollouts",
        type=_count,
        default=48,
        metavar="N",
        help="how many to play; each kind comes at least once (default: 48)",
    )
    demo.add_argument(
        "--seed",
        type=_seed,
        default=0,
        metavar="N",
        help="decides their order and choice (default: 0)",
    )
    demo.add_argument(
        "--file",
        type=Path,
        default=DEMO_FILE,
        metavar="PATH",
        help=f"the file to export to (default: ./{DEMO_FILE})",
    )
    demo.add_argument(
        "--stream-failure",
        choices=("done", "error_frame"),
        default="done",
        help="what the proxy ends a failed stream with: as if all were well (done, the "
        "default), or with an error frame, which SDKs raise on",
    )
    demo.add_argument(
        "--stack",
        action="store_true",
        help="send to the stack that `make stack` runs here as well, or to where "
        "OTEL_EXPORTER_OTLP_ENDPOINT says",
    )


def _add_explain(commands: "argparse._SubParsersAction[Parser]") -> None:
    explain = _command(commands, "explain", "show one rollout as a timeline", _EXPLAIN)
    explain.add_argument("rollout_id", metavar="ROLLOUT_ID", help="which rollout")
    explain.add_argument(
        "--file",
        type=Path,
        default=DEMO_FILE,
        metavar="PATH",
        help=f"the file to read (default: ./{DEMO_FILE})",
    )
    explain.add_argument(
        "--json", action="store_true", help="print JSON, for other programs"
    )


def _add_report(commands: "argparse._SubParsersAction[Parser]") -> None:
    report = _command(commands, "report", "write rollouts as one page", _REPORT)
    report.add_argument(
        "--file",
        type=Path,
        default=DEMO_FILE,
        metavar="PATH",
        help=f"the file to read (default: ./{DEMO_FILE})",
    )
    report.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("report.html"),
        metavar="PATH",
        help="the page to write; an earlier report is replaced (default: "
        "./report.html)",
    )


def _add_serve(commands: "argparse._SubParsersAction[Parser]") -> None:
    serve = _command(commands, "serve", "relay to an upstream, and observe", _SERVE)
    serve.epilog = _SERVE_MORE
    serve.add_argument(
        "--upstream",
        required=True,
        metavar="URL",
        help="base URL of an OpenAI- or Anthropic-compatible API, without user, query",
    )
    serve.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1); whoever reaches it can use "
        "the upstream key",
    )
    serve.add_argument(
        "--port", type=_port, default=8080, help="port to listen on (default: 8080)"
    )
    serve.add_argument(
        "--idle-close",
        type=_seconds,
        default=900.0,
        metavar="SECONDS",
        help="close a rollout as abandoned when idle for so long (default: 900)",
    )
    serve.add_argument(
        "--error-bodies",
        choices=("redact", "pass"),
        default="redact",
        help="what agents get of an upstream's error: a redacted body (the default) "
        "or its own",
    )
    serve.add_argument(
        "--file", type=Path, metavar="PATH", help="also append telemetry to this file"
    )
    serve.add_argument(
        "--grace",
        type=_seconds,
        default=5.0,
        metavar="SECONDS",
        help="how long running exchanges may go on after a signal (default: 5)",
    )
    serve.add_argument(
        "--no-check",
        action="store_true",
        help="do not connect to the upstream before serving",
    )


def _add_doctor(commands: "argparse._SubParsersAction[Parser]") -> None:
    doctor = _command(
        commands, "doctor", "prove that a wiring sees it all", DESCRIPTION
    )
    add_arguments(doctor, port=_port, seconds=_seconds)


def _version() -> str:
    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        return "(not installed)"


def _command(
    commands: "argparse._SubParsersAction[Parser]",
    name: str,
    short: str,
    description: str,
) -> Parser:
    return commands.add_parser(
        name,
        help=short,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _own_words(message: str) -> str:
    """Keep what is ours of a message: names of arguments, and what they must be."""
    if message.startswith("the following arguments are required: "):
        return message
    argument, colon, rest = message.partition(": ")
    if not colon or not argument.startswith("argument "):
        return "an argument is not known"
    if rest.startswith("invalid choice: "):
        return f"{argument} must be one of those in the help"
    if _SAFE_REST.fullmatch(rest):
        return f"{argument} {rest}" if rest.startswith("must") else message
    return f"{argument} has a value that it cannot have"


def _count(text: str) -> int:
    return _whole(text, 1, 100_000)


def _seed(text: str) -> int:
    return _whole(text, 0, 2**63)


def _port(text: str) -> int:
    return _whole(text, 0, 65_535)


def _whole(text: str, low: int, high: int) -> int:
    if not (text.isascii() and text.isdigit() and low <= int(text[:20]) <= high):
        raise argparse.ArgumentTypeError(f"must be a whole number from {low} to {high}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError("must be a number of seconds, at most 86400")
    return number
