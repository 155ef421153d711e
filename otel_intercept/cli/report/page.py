"""Make the page: what the file has in all, and each rollout with its waterfall."""

import base64
import hashlib
import io
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files
from typing import Final
from xml.etree.ElementTree import Element, ElementTree

from otel_intercept.cli.report.elements import put
from otel_intercept.cli.report.figures import (
    Bounds,
    Figures,
    chosen,
    error_type_of,
    figures_of,
    outcome_of,
)
from otel_intercept.cli.report.waterfall import draw, ends_at, tone_of
from otel_intercept.cli.story import RolloutStory
from otel_intercept.cli.timeline import count, seconds
from otel_intercept.cli.words import ROLLOUT_WORDS

MARK: Final = (
    b'<!DOCTYPE html>\n<html lang="en"><head>'
    b'<meta name="generator" content="otel-intercept report">'
)
"""How a page begins, so that an earlier one is known again."""

_STYLE: Final = files(__package__).joinpath("report.css").read_text(encoding="utf-8")
_SCRIPT: Final = files(__package__).joinpath("report.js").read_text(encoding="utf-8")
_COLUMNS: Final = (
    "Rollout",
    "Outcome",
    "First error",
    "Exchanges",
    "Failures",
    "Duration",
    "Started (UTC)",
)
_NUMBERS: Final = frozenset({"Exchanges", "Failures", "Duration"})
_DEFAULT: Final = Bounds()
_REST: Final = "all others"


def page(stories: Sequence[RolloutStory], bounds: Bounds = _DEFAULT) -> bytes:
    """Return the page, which needs nothing from outside and no network.

    Args:
        stories: At least one rollout.
        bounds: How much is drawn.
    """
    figures = figures_of(stories)
    outcomes = _words(figures.outcomes, bounds.words)
    errors = _words(figures.errors, bounds.words)
    html = Element("html", {"lang": "en"})
    _head(html)
    body = put(html, "body")
    main = put(body, "main")
    put(main, "h1", "Rollouts")
    _summary(main, figures, bounds.words)
    shown = chosen(stories, bounds.rollouts)
    if len(shown) < len(stories):
        put(
            main,
            "p",
            f"{len(shown)} of {len(stories)} rollouts are shown: "
            "those with failures before others, later ones before earlier ones.",
            class_="note",
        )
    _filter(main, outcomes, errors, len(shown))
    table = _table(main)
    left, rest = bounds.spans, f"{bounds.words}"
    for number, story in enumerate(shown):
        group = put(table, "tbody", class_="rollout")
        group.set("data-outcome", outcomes.get(outcome_of(story), rest))
        found = {errors.get(error_type_of(event), rest) for event in story.failures}
        group.set("data-errors", " ".join(sorted(found)))
        _row(group, story, number)
        left -= _more(group, story, number, min(bounds.spans_each, left))
    script = put(body, "script")
    script.text = _SCRIPT
    out = io.BytesIO()
    out.write(b"<!DOCTYPE html>\n")
    ElementTree(html).write(out, encoding="utf-8", method="html")
    return out.getvalue()


def _head(html: Element) -> None:
    head = put(html, "head")
    put(head, "meta", name="generator", content="otel-intercept report")
    put(head, "meta", charset="utf-8")
    policy = put(head, "meta", http_equiv="Content-Security-Policy")
    policy.set(
        "content",
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; "
        "base-uri 'none'; form-action 'none'",
    )
    put(head, "meta", name="viewport", content="width=device-width, initial-scale=1")
    put(head, "meta", name="color-scheme", content="light dark")
    put(head, "meta", name="referrer", content="no-referrer")
    put(head, "title", "Rollouts: otel-intercept report")
    style = put(head, "style")
    style.text = _STYLE


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _words(counted: Sequence[tuple[str, int]], limit: int) -> dict[str, str]:
    # Numbers stand for them, since a word may have any character in it.
    words = {word: f"{number}" for number, (word, _) in enumerate(counted[:limit])}
    return words | {_REST: f"{limit}"} if len(counted) > limit else words


def _summary(main: Element, figures: Figures, limit: int) -> None:
    box = put(main, "section", class_="summary", aria_label="Summary")
    tiles = put(box, "dl", class_="tiles")
    share = figures.at_risk / figures.ended if figures.ended else 0.0
    for label, value in (
        ("Rollouts", f"{figures.rollouts}"),
        ("Exchanges", f"{figures.exchanges}"),
        ("Failures", f"{sum(number for _, number in figures.errors)}"),
        ("Rewards at risk", f"{share:.1%}"),
    ):
        tile = put(tiles, "div")
        put(tile, "dt", label)
        put(tile, "dd", value)
    risk = (
        f"Rewards at risk: {figures.at_risk} of {count(figures.ended, 'rollout')} that "
        "ended have failed, or had an agent that got a clean answer for a failed call."
    )
    put(box, "p", risk, class_="note")
    tables = put(box, "div", class_="counts")
    _counts(tables, "Rollouts by outcome", figures.outcomes, limit, toned=True)
    _counts(tables, "Failures by error type", figures.errors, limit, toned=False)


def _counts(
    parent: Element,
    caption: str,
    counted: Sequence[tuple[str, int]],
    limit: int,
    *,
    toned: bool,
) -> None:
    table = put(parent, "table")
    put(table, "caption", caption)
    rows = put(table, "tbody")
    for word, number in counted[:limit]:
        row = put(rows, "tr")
        head = put(row, "th", scope="row")
        put(head, "span", word, class_=f"word {tone_of(word) if toned else 'bad'}")
        put(row, "td", f"{number}", class_="number")
        if toned:
            put(row, "td", ROLLOUT_WORDS.get(word, ""), class_="facts")
    rest = sum(number for _, number in counted[limit:])
    if rest:
        row = put(rows, "tr")
        put(row, "th", _REST, scope="row")
        put(row, "td", f"{rest}", class_="number")
    if not counted:
        put(put(rows, "tr"), "td", "none")


def _filter(
    main: Element, outcomes: dict[str, str], errors: dict[str, str], shown: int
) -> None:
    # Hidden until the script is there to do it.
    form = put(main, "form", id="filter", role="search", hidden="")
    label = put(form, "label", "Text ")
    put(
        label, "input", type="search", id="text", autocomplete="off", spellcheck="false"
    )
    for name, title, words in (
        ("outcome", "Outcome ", outcomes),
        ("error", "Error type ", errors),
    ):
        label = put(form, "label", title)
        select = put(label, "select", id=name)
        put(select, "option", "any", value="")
        for word, number in words.items():
            put(select, "option", word, value=number)
    put(form, "button", "Clear", type="reset")
    put(form, "output", f"{shown} of {shown} shown", id="shown", role="status")


def _table(main: Element) -> Element:
    wrapper = put(main, "div", class_="wide")
    table = put(wrapper, "table", class_="rollouts")
    put(table, "caption", "Rollouts in the order in which they started")
    row = put(put(table, "thead"), "tr")
    for title in _COLUMNS:
        kind = "number" if title in _NUMBERS else "words"
        put(row, "th", title, scope="col", class_=kind)
    return table


def _row(group: Element, story: RolloutStory, number: int) -> None:
    row = put(group, "tr")
    put(row, "th", story.rollout_id, scope="row", id=f"r{number}")
    outcome = put(row, "td")
    put(outcome, "span", outcome_of(story), class_=f"word {tone_of(story.outcome)}")
    failures = story.failures
    error = put(row, "td")
    if failures:
        put(error, "span", error_type_of(failures[0]), class_="word bad")
    put(row, "td", f"{len(story.exchanges)}", class_="number")
    put(row, "td", f"{len(failures)}", class_="number")
    took = seconds(ends_at(story) - story.start_ns)
    put(row, "td", took if story.root is not None else f"over {took}", class_="number")
    put(row, "td", _clock(story.start_ns))


def _more(group: Element, story: RolloutStory, number: int, limit: int) -> int:
    row = put(group, "tr", class_="more")
    details = put(put(row, "td", colspan=f"{len(_COLUMNS)}"), "details")
    summary = put(details, "summary", "Waterfall", id=f"s{number}")
    summary.set("aria-labelledby", f"s{number} r{number}")
    service = "" if story.service_name is None else f", service {story.service_name}"
    put(details, "p", f"Trace {story.trace_id}{service}", class_="facts")
    return draw(details, story, limit)


def _clock(at_ns: int) -> str:
    try:
        return f"{datetime.fromtimestamp(at_ns // 10**9, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError, OSError):
        return "unknown"
