"""The terminal program ``otel-intercept``: demo, explain, report, serve and doctor."""

import argparse
import importlib.util
from collections.abc import Sequence
from typing import Final

from otel_intercept import failure as failures
from otel_intercept.cli.logs import quiet
from otel_intercept.cli.output import (
    EXIT_BROKEN,
    EXIT_INTERRUPTED,
    EXIT_REFUSED,
    Refused,
    complain,
    own_words,
    refuse,
)
from otel_intercept.cli.parser import make_parser
from otel_intercept.errors import ConfigurationError
from otel_intercept.semconv import Phase

_DEMO_SDKS: Final = ("openai", "anthropic")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments without the program's name; by default the process's own.

    Returns:
        0 when all is well; 1 when demo or doctor saw something else than was injected;
        2 when the command cannot be run, which one line on standard error explains; 70
        after a mistake of ours; 130 when interrupted. No exception's text is printed.

    Raises:
        SystemExit: After ``--help`` and ``--version``, with 0.
    """
    try:
        with quiet():
            return _run(make_parser().parse_args(argv))
    except Refused:
        return EXIT_REFUSED
    except ConfigurationError as mistake:
        complain(own_words(mistake))
        return EXIT_REFUSED
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    except Exception as exc:  # noqa: BLE001 - its text may hold a secret
        failures.triage(exc)
        failure = failures.describe(exc, phase=Phase.HANDLER, key=b"unused")
        complain(
            f"stopped by a mistake of this program ({failure.exception_type}): "
            "please report it"
        )
        return EXIT_BROKEN


def _run(arguments: argparse.Namespace) -> int:
    # Each command is imported when it is asked for: the demo's SDKs take a second.
    match arguments.command:
        case "demo":
            return _demo(arguments)
        case "explain":
            from otel_intercept.cli.explain import explain

            return explain(arguments.rollout_id, arguments.file, as_json=arguments.json)
        case "report":
            from otel_intercept.cli.report.command import report

            return report(arguments.file, arguments.output)
        case "doctor":
            from otel_intercept.cli.doctor.arguments import options_of
            from otel_intercept.cli.doctor.command import doctor

            return doctor(options_of(arguments))
        case _:
            from otel_intercept.cli.serve import ServeOptions, serve

            return serve(
                ServeOptions(
                    upstream=arguments.upstream,
                    host=arguments.host,
                    port=arguments.port,
                    idle_close_s=arguments.idle_close,
                    error_bodies=arguments.error_bodies,
                    file=arguments.file,
                    grace_s=arguments.grace,
                    check=not arguments.no_check,
                )
            )


def _demo(arguments: argparse.Namespace) -> int:
    missing = [name for name in _DEMO_SDKS if importlib.util.find_spec(name) is None]
    if missing:
        refuse(
            f"the demo's agents need {' and '.join(missing)}: "
            "pip install 'otel-intercept[demo]'"
        )
    from otel_intercept.cli.demo.command import demo

    return demo(
        rollouts=arguments.rollouts,
        seed=arguments.seed,
        path=arguments.file,
        stream_failure=arguments.stream_failure,
        stack=arguments.stack,
    )
