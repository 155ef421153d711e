"""Print what doctor found: a table in a terminal, plain lines, or JSON."""

import json
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_intercept.cli.demo.faults import WORDS
from otel_intercept.cli.doctor.exports import ExportCheck
from otel_intercept.cli.doctor.findings import Finding
from otel_intercept.cli.doctor.judge import Judgement, Row
from otel_intercept.cli.output import printable

_GOOD: Final = "green"
_BAD: Final = "bold red"


class Report(NamedTuple):
    """Everything that is printed.

    Args:
        judgement: The probes, and what is wrong.
        exports: The checks of the export path; empty if they were left out.
        notes: Further sentences.
    """

    judgement: Judgement
    exports: Sequence[ExportCheck]
    notes: Sequence[str] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Everything that is wrong."""
        of_exports = (check.finding for check in self.exports)
        wrong = tuple(finding for finding in of_exports if finding is not None)
        return self.judgement.findings + wrong


def as_json(report: Report) -> str:
    """Return the report for other programs."""
    return json.dumps(
        {
            "ok": not report.findings,
            "probes": [
                {
                    "name": row.injected.probe.name,
                    "injected": row.injected.probe.fault.value,
                    "stream": row.injected.probe.stream,
                    "seen": row.seen,
                    "ok": row.good,
                }
                for row in report.judgement.rows
            ],
            "findings": [
                finding._asdict() | {"code": finding.code.value}
                for finding in report.findings
            ],
            "exports": [check._asdict() for check in report.exports],
        },
        indent=2,
    )


def print_report(out: Console, report: Report) -> None:
    """Print the report for people."""
    if report.judgement.rows:
        if out.is_terminal:
            out.print(_table(report.judgement.rows))
        else:
            for line in _lines(report.judgement.rows):
                out.print(line, soft_wrap=True)
    for check in report.exports:
        out.print(_export_line(check), soft_wrap=True)
    for note in report.notes:
        out.print(note, soft_wrap=True)
    for number, finding in enumerate(report.findings, 1):
        _print_finding(out, number, finding)
    out.print()
    out.print(_summary(report), soft_wrap=True)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("", "probe", "injected", "seen as"):
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(_mark(good=row.good), *_cells(row))
    return table


def _lines(rows: Sequence[Row]) -> Iterator[Text]:
    for row in rows:
        name, injected, seen = _cells(row)
        yield Text.assemble(_mark(good=row.good), f" {name:<20} {injected:<46} {seen}")


def _mark(*, good: bool) -> Text:
    return Text("ok  ", style=_GOOD) if good else Text("MISS", style=_BAD)


def _cells(row: Row) -> tuple[str, str, str]:
    probe = row.injected.probe
    return probe.name, WORDS[probe.fault], printable(row.seen)


def _export_line(check: ExportCheck) -> Text:
    where = f" to {check.endpoint}" if check.endpoint else ""
    status = "" if check.status is None else f" (HTTP {check.status})"
    return Text.assemble(
        _mark(good=not check.add),
        f" export of {check.signal}{where}: {check.said}{status}",
    )


def _print_finding(out: Console, number: int, finding: Finding) -> None:
    out.print()
    head = Text.assemble((f"{number}. {finding.code.value}", _BAD), ": ")
    out.print(head.append(printable(finding.what)), soft_wrap=True)
    if finding.probes:
        out.print(f"   probes: {', '.join(finding.probes)}", soft_wrap=True)
    out.print(f"   do: {printable(finding.add)}", soft_wrap=True)


def _summary(report: Report) -> Text:
    rows = report.judgement.rows
    good = sum(row.good for row in rows)
    told = f"{good} of {len(rows)} probes were seen as they were injected"
    if not report.findings:
        return Text(f"All is seen: {told}.", style=_GOOD)
    count = len(report.findings)
    found = "1 finding" if count == 1 else f"{count} findings"
    return Text(f"{found}; {told}. docs/doctor.md explains each.", style=_BAD)
