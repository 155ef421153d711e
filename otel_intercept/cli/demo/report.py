"""Print what the demo found: counts, one rollout in full, why it matters, what next."""

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from rich.console import Console
from rich.table import Table
from rich.text import Text

from otel_intercept import semconv
from otel_intercept.cli.demo.loop import Played
from otel_intercept.cli.demo.scenario import Host
from otel_intercept.cli.demo.stack import STACK_URLS
from otel_intercept.cli.demo.verdict import Count, Verdict
from otel_intercept.cli.output import PROGRAM, invocation, printable
from otel_intercept.cli.parser import DEMO_FILE
from otel_intercept.cli.report.command import page_beside
from otel_intercept.cli.story import RolloutStory, text_of
from otel_intercept.cli.timeline import outcome_style
from otel_intercept.cli.tree import span_tree
from otel_intercept.cli.words import EXCHANGE_WORDS, ROLLOUT_WORDS
from otel_intercept.recorder import Balance
from otel_intercept.semconv import ErrorType, ExchangeOutcome, Origin, RolloutOutcome

_BAD: Final = "bold red"
_GOOD: Final = "bold green"
_DIM: Final = "dim"


class Findings(NamedTuple):
    """Everything that the report is made of.

    Args:
        played: The rollouts as their training loops saw them.
        stories: The rollouts as they stand in the file.
        verdict: How the two compare.
        balance: What became of every record.
        path: The file.
        sent: Whether it was also sent to an OTLP endpoint.
        secrets_sent: How many error texts held the planted secret.
        secrets_found: How often it is in the file.
        duration_s: How long it all took.
        stack: Whether it was sent to the stack on this machine.
    """

    played: Sequence[Played]
    stories: Sequence[RolloutStory]
    verdict: Verdict
    balance: Balance
    path: Path
    sent: bool
    secrets_sent: int
    secrets_found: int
    duration_s: float
    stack: bool = False

    @property
    def good(self) -> bool:
        """Whether everything ended as injected, and no secret got out."""
        return not self.verdict.differences and not self.secrets_found

    @property
    def incomplete(self) -> bool:
        """Whether telemetry was lost on its way, which makes a comparison pointless."""
        lost = self.balance.failed + self.balance.dropped
        return lost > 0 and bool(self.verdict.differences)


def print_intro(out: Console, *, rollouts: int, seed: int, sent: bool) -> None:
    """Say what is about to happen, and what of it is not real."""
    out.print(Text(f"{PROGRAM} demo: {rollouts} rollouts, seed {seed}\n", style="bold"))
    out.print(
        "Agents with the real OpenAI and Anthropic SDKs talk to an interception proxy, "
        "and a training loop calls the model for them, all on loopback. The model is "
        'scripted (it is called "scripted-1"): an HTTP server that fails on cue in '
        "every way. So do some agents, and the proxy's own code."
    )
    where = "and to your OTLP endpoint" if sent else "and nowhere else"
    out.print(f"Telemetry goes to a file, {where}.\n", style=_DIM)


def print_report(out: Console, findings: Findings) -> None:
    """Print everything; it fits 80 columns. The verdict comes last."""
    _print_exchanges(out, findings)
    _print_errors(out, findings)
    _print_rollouts(out, findings)
    _print_one(out, findings)
    _print_why(out, findings)
    _print_next(out, findings)
    _print_verdict(out, findings)


def _print_exchanges(out: Console, findings: Findings) -> None:
    _head(out, "How each exchange ended", "as read back from the exported file")
    apart = _only_at_own_app(findings.played)
    table = _table("outcome")
    table.add_column("what it means", overflow="fold")
    for outcome in ExchangeOutcome:
        name = f"{outcome}*" if outcome in apart else outcome.value
        count = findings.verdict.exchanges.get(outcome, Count(0, 0))
        cells = _cells(name, count, outcome_style(outcome))
        table.add_row(*cells, EXCHANGE_WORDS[outcome])
    out.print(table)
    out.print(
        "* at a small aiohttp app wired by instrument_app: the InterceptionServer does "
        "not produce it\n",
        style=_DIM,
    )


def _print_errors(out: Console, findings: Findings) -> None:
    _head(out, "What failed", "error.type on span, event and metric")
    raised = _raised_as(findings.stories)
    table = _table("error type")
    table.expand = True
    table.add_column("raised as", ratio=1, no_wrap=True, overflow="ellipsis")
    for error_type in ErrorType:
        count = findings.verdict.errors.get(error_type, Count(0, 0))
        names = ", ".join(raised.get(error_type, ())) or "nothing was raised"
        table.add_row(*_cells(error_type.value, count, ""), Text(names, style=_DIM))
    out.print(table)
    out.print()


def _print_rollouts(out: Console, findings: Findings) -> None:
    _head(out, "How each rollout ended", "one trace per rollout")
    table = _table("outcome")
    table.add_column("what it means", overflow="fold")
    for outcome in RolloutOutcome:
        count = findings.verdict.rollouts.get(outcome, Count(0, 0))
        cells = _cells(outcome.value, count, outcome_style(outcome))
        table.add_row(*cells, ROLLOUT_WORDS[outcome])
    out.print(table)
    out.print()


def _print_one(out: Console, findings: Findings) -> None:
    story = _example(findings.stories)
    if story is None:
        return
    _head(out, "One rollout that failed", "as a trace viewer shows it")
    out.print(span_tree(story))
    out.print()


def _print_why(out: Console, findings: Findings) -> None:
    failed = [item for item in findings.played if item.error is not None]
    silent = [item for item in failed if _is_silent(item)]
    _head(out, "Why it matters")
    points = Table.grid(padding=(0, 1, 0, 0))
    points.add_row(
        "-",
        f"Of {len(failed)} rollouts that failed, {len(silent)} had an agent that "
        "noticed nothing and exited with 0. A trainer would have learned from them as "
        'from good ones; here, state["error"] is set.',
    )
    found = findings.secrets_found
    points.add_row(
        "-",
        f"A planted key stood in {findings.secrets_sent} error texts of the upstream. "
        f"The file and its page have it {found} times.",
        style=_BAD if found else "",
    )
    balance = findings.balance
    points.add_row(
        "-",
        f"Balance: {balance.started} records started = {balance.exported} exported + "
        f"{balance.failed} failed + {balance.dropped} dropped + {balance.queued} "
        f"queued + {balance.open} open. None is lost unnoticed.",
    )
    out.print(points)
    out.print()


def _print_next(out: Console, findings: Findings) -> None:
    path = printable(str(findings.path))
    story = _example(findings.stories)
    program = invocation(sys.argv[0])
    page = printable(str(page_beside(findings.path)))
    steps = [("file", f"{path} (OTLP JSON lines)"), ("page", f"{page} (any browser)")]
    if story is not None:
        file = "" if findings.path == DEMO_FILE else f" --file {shlex.quote(path)}"
        steps.append(("rollout", f"{program} explain {story.rollout_id}{file}"))
    steps += [
        ("Jaeger", "its UI takes the file: Search, Upload"),
        ("collector", "receiver otlp_json_file, with the file under include"),
    ]
    if not findings.sent:
        endpoint = "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318"
        steps.append(("backend", f"{endpoint} {program} demo"))
    elif findings.balance.failed:
        steps.append(("backend", "your OTLP endpoint did not take all of it"))
    else:
        steps.append(("backend", "your OTLP endpoint took all of it"))
    if findings.stack:
        steps += STACK_URLS
    _head(out, "Look further")
    for label, text in steps:
        # Not wrapped here, so that commands can be copied.
        out.print(Text.assemble((f"{label:<10} ", _DIM), text), soft_wrap=True)
    out.print()


def _print_verdict(out: Console, findings: Findings) -> None:
    differences = findings.verdict.differences
    exchanges = sum(count.observed for count in findings.verdict.exchanges.values())
    total = f"{exchanges} exchanges of {len(findings.stories)} rollouts"
    if findings.good:
        out.print(
            f"OK: {total} ended exactly as injected, in {findings.duration_s:.1f} s.",
            style=_GOOD,
        )
        return
    if findings.incomplete:
        out.print(
            "INCOMPLETE: telemetry was lost on its way (see the balance), so not all "
            "of it can be compared. Is the OTLP endpoint up?",
            style=_BAD,
        )
        return
    for line in differences:
        out.print(f"- {line}", style=_BAD)
    out.print(
        f"DIFFERENT: of {total}, {len(differences)} things are not as injected.",
        style=_BAD,
    )


def _head(out: Console, title: str, more: str = "") -> None:
    text = Text(title, style="bold")
    if more:
        text.append(f"  {more}", style=f"not bold {_DIM}")
    out.print(text)


def _table(first: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style=_DIM, pad_edge=False)
    table.add_column(first, no_wrap=True)
    table.add_column("injected", justify="right", no_wrap=True)
    table.add_column("observed", justify="right", no_wrap=True)
    return table


def _cells(name: str, count: Count, style: str) -> tuple[Text, Text, Text]:
    observed = Text(f"{count.observed}")
    if count.observed != count.injected:
        observed.stylize(_BAD)
    return Text(name, style=style), Text(f"{count.injected}"), observed


def _only_at_own_app(played: Iterable[Played]) -> set[str]:
    hosts: dict[str, set[Host]] = {}
    for item in played:
        scenario = item.planned.scenario
        for turn in scenario.turns:
            hosts.setdefault(turn.outcome, set()).add(scenario.host)
    return {outcome for outcome, found in hosts.items() if found == {Host.APP}}


def _raised_as(stories: Iterable[RolloutStory]) -> Mapping[str, Iterable[str]]:
    raised: dict[str, dict[str, None]] = {}
    for story in stories:
        for event in story.failures:
            error_type = text_of(event.attributes, semconv.ERROR_TYPE)
            name = text_of(event.attributes, semconv.EXCEPTION_TYPE)
            if error_type is not None and name is not None:
                words = name.split(".")
                short = ".".join(dict.fromkeys((words[0], words[-1])))
                raised.setdefault(error_type, {})[short] = None
    return raised


def _example(stories: Sequence[RolloutStory]) -> RolloutStory | None:
    failed = [story for story in stories if story.failures]
    silent = [story for story in failed if story.rollout_id.startswith("silent-500")]
    return next(iter([*silent, *failed]), None)


def _is_silent(played: Played) -> bool:
    error = played.error
    return (
        error is not None
        and error.failure.origin is Origin.UPSTREAM
        and not played.agent.noticed
    )
