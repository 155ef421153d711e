"""Break each alert rule in every small way, to see that a rule test notices."""

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from dashboards.alerts.catalogue import ALERTS
from dashboards.alerts.recorded import RECORDED

_COMPARISON: Final = re.compile(r"(>=|==|>) ([\d.]+)")
_BIRTH: Final = re.compile(r"\[1d\] offset")
_WINDOW: Final = re.compile(r"(?<=\[)\d+[smhd](?=\])|(?<=offset )\d+[smhd]")
_RECORDED: Final = re.compile(r"(?<=:increase)\d+[smhd]")
_MATCHER: Final = re.compile(r'(\w+)(=~|=)"([^"]*)"(?:, )?')
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Rule(NamedTuple):
    """A rule as text: its title, its query and how long it must hold."""

    title: str
    query: str
    hold: str | None


class Mutant(NamedTuple):
    """One rule with one change.

    Args:
        kind: ``threshold``, ``window`` or ``label``.
        change: What was changed.
        number: Which rule.
        rule: The changed rule.
    """

    kind: str
    change: str
    number: int
    rule: Rule


def rules() -> list[Rule]:
    """Return every rule in the order of the file."""
    recorded = [Rule(rule.name, rule.query, None) for rule in RECORDED]
    return recorded + [
        Rule(f"{alert.name}/{alert.slug}", alert.query, alert.hold) for alert in ALERTS
    ]


def mutants(number: int, rule: Rule) -> Iterator[Mutant]:
    """Yield every mutant of a rule."""
    for kind, change, query in (
        *_thresholds(rule.query),
        *_windows(rule.query),
        *_labels(rule.query),
    ):
        if query != rule.query:
            yield Mutant(kind, change, number, rule._replace(query=query))
    if rule.hold is not None and rule.hold != "0s":
        for factor in (0.5, 2):
            hold = _scaled(rule.hold, factor)
            yield Mutant(
                "window",
                f"for {rule.hold} -> {hold}",
                number,
                rule._replace(hold=hold),
            )


def _thresholds(query: str) -> Iterator[tuple[str, str, str]]:
    for place, found in enumerate(_COMPARISON.finditer(query), start=1):
        value = float(found[2])
        for other in (value * 0.6, value * 1.5) if value else (2.0,):
            changed = f"{found[1]} {other:g}"
            text = query[: found.start()] + changed + query[found.end() :]
            yield "threshold", f"{found[0]} -> {changed} (comparison {place})", text


def _windows(query: str) -> Iterator[tuple[str, str, str]]:
    # How long a process stays known is one constant of all rules, not their window.
    kept = _BIRTH.sub("[BIRTH] offset", query)
    for window in sorted(set(_WINDOW.findall(kept))):
        for factor in (0.5, 2):
            other = _scaled(window, factor)
            text = kept.replace(f"[{window}]", f"[{other}]")
            text = text.replace(f"offset {window}", f"offset {other}")
            yield "window", f"{window} -> {other}", text.replace("[BIRTH]", "[1d]")
    names = {rule.name for rule in RECORDED}
    for window in sorted(set(_RECORDED.findall(query))):
        for other in ("5m", "10m", "1h", "2h", "1d"):
            text = query.replace(f":increase{window}", f":increase{other}")
            used = set(re.findall(r"job[\w:]*:increase\w+", text))
            if other != window and used <= names:
                yield "window", f"increase{window} -> {other}", text
    for other in ("12h", "2d"):
        if "[1d] offset" in query:
            text = _BIRTH.sub(f"[{other}] offset", query)
            yield "birth", f"1d -> {other}", text


def _labels(query: str) -> Iterator[tuple[str, str, str]]:
    for found in sorted({item[0].rstrip(", ") for item in _MATCHER.finditer(query)}):
        match = _MATCHER.match(found)
        if match is None:
            continue
        name, operator, value = match[1], match[2], match[3]
        negated = {"=": "!=", "=~": "!~"}[operator]
        yield "label", f"not {found}", query.replace(found, f'{name}{negated}"{value}"')
        yield "label", f"without {found}", query.replace(found, f'{name}=~".*"')
        words = value.split("|")
        for word in words if len(words) > 1 else ():
            rest = "|".join(other for other in words if other != word)
            yield (
                "label",
                f"{name} without {word}",
                query.replace(found, f'{name}=~"{rest}"'),
            )
        if name == "le":
            for bound in ("30", "120"):
                yield (
                    "label",
                    f"le {bound}",
                    query.replace(found, rf'le=~"{bound}(\\.0)?"'),
                )


def _scaled(window: str, factor: float) -> str:
    return f"{int(int(window[:-1]) * _SECONDS[window[-1]] * factor)}s"


def all_mutants() -> Sequence[Mutant]:
    """Return the mutants of every rule; a constant of all is broken in one only."""
    found: list[Mutant] = []
    births: set[str] = set()
    for number, rule in enumerate(rules()):
        for mutant in mutants(number, rule):
            if mutant.kind == "birth":
                if rule.title.startswith("job_error_type:") and (
                    mutant.change not in births
                ):
                    births.add(mutant.change)
                    found.append(mutant)
            else:
                found.append(mutant)
    return found
