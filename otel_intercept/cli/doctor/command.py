"""The command ``doctor``: examine, judge, check the export path, report."""

import asyncio
import os
import re
from collections.abc import Mapping
from typing import Final

from otel_intercept.cli.doctor.examine import examine
from otel_intercept.cli.doctor.exports import ExportCheck, check_exports, is_told
from otel_intercept.cli.doctor.factory import Trouble, Unusable, trouble_of
from otel_intercept.cli.doctor.findings import Code, Finding, find
from otel_intercept.cli.doctor.judge import Judgement, judge
from otel_intercept.cli.doctor.options import DoctorOptions, check_target
from otel_intercept.cli.doctor.report import Report, as_json, print_report
from otel_intercept.cli.output import (
    EXIT_DIFFERS,
    EXIT_OK,
    console,
    refuse,
)

_FROZEN: Final = re.compile(r"\bis frozen\b")
_NO_EXPORT: Final = (
    "The export path was not checked: this environment has no OTEL_* of the server's."
)

_SENTENCES: Final = {
    "import": "the target's module cannot be imported{name}{where}: import it with "
    "python to see why",
    "attribute": "the target's module has no such attribute",
    "callable": "the target is neither an application nor a callable that makes one",
    "parameter": "the factory needs{parameter}, which doctor cannot give: it gives "
    "registry, telemetry and upstream_url; give the others a default, or pass a "
    "function that fills them in",
    "factory": "the factory raised an error{name}{where}: call it with python to see "
    "more",
    "startup": "the app raised an error{name}{where} while it started",
    "returned": "the factory must make an aiohttp.web.Application or an "
    "InterceptionServer, or be an async context manager that gives one",
}


def doctor(options: DoctorOptions, environ: Mapping[str, str] = os.environ) -> int:
    """Examine a wiring; return 0 if all is seen, 1 if there is a finding.

    Raises:
        Refused: Doctor cannot do its work; one line has said why.
    """
    check_target(options)
    notes: tuple[str, ...] = ()
    exports: tuple[ExportCheck, ...] = ()
    if options.export and options.is_server and not is_told(environ):
        notes = (_NO_EXPORT,)
    elif options.export:
        exports = check_exports(environ)
    try:
        judgement = judge(asyncio.run(examine(options, environ)))
    except Unusable as exc:
        judgement = Judgement((), (_finding(trouble_of(exc)),))
    report = Report(judgement, exports, notes)
    if options.json:
        print(as_json(report))
    else:
        print_report(console(), report)
    return EXIT_DIFFERS if report.findings else EXIT_OK


def _finding(trouble: Trouble) -> Finding:
    """Turn a mistake in the wiring into a finding, and refuse anything else."""
    where = f" at {trouble.where}" if trouble.where else ""
    if trouble.kind != "configuration":
        name = f" ({trouble.name})" if trouble.name else ""
        parameter = f" parameter {trouble.name}" if trouble.name else ""
        sentence = _SENTENCES[trouble.kind]
        refuse(sentence.format(name=name, where=where, parameter=parameter))
    if _FROZEN.search(trouble.words):
        return find(Code.INSTRUMENTED_TOO_LATE, where=where)
    what = f"the wiring raised a ConfigurationError{where}"
    return Finding(Code.MISCONFIGURED, what, trouble.words)
