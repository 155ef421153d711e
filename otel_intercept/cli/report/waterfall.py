"""Draw the spans of one rollout over time, with its failures as marks between them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from xml.etree.ElementTree import Element

from otel_intercept import semconv
from otel_intercept.cli.report.elements import put
from otel_intercept.cli.report.figures import error_type_of
from otel_intercept.cli.story import (
    ExchangeStory,
    RolloutStory,
    failure_of,
    number_of,
    text_of,
)
from otel_intercept.cli.timeline import (
    BAD,
    GOOD,
    QUIET,
    count,
    failure_facts,
    outcome_style,
    request_text,
    seconds,
    stream_text,
)
from otel_intercept.sdk import EventLine, SpanLine

_TONES: Final[Mapping[str, str]] = MappingProxyType(
    {BAD: "bad", GOOD: "good", QUIET: "quiet"}
)
_MIN_WIDTH: Final = 0.3
"""Percent of the lane, so that a short span can be seen."""


class Bar(NamedTuple):
    """One line of the waterfall.

    Args:
        start_ns: Where it begins.
        end_ns: Where it ends; None for a failure, which has no duration.
        depth: How far it is set in.
        tone: ``good``, ``bad``, ``quiet`` or ``wait``.
        label: What it is.
        word: How it ended.
        facts: What else is known of it.
    """

    start_ns: int
    end_ns: int | None
    depth: int
    tone: str
    label: str
    word: str = ""
    facts: tuple[str, ...] = ()


def tone_of(outcome: str | None) -> str:
    """Return the colour class of an outcome."""
    return _TONES[outcome_style(outcome)]


def ends_at(story: RolloutStory) -> int:
    """Return when a rollout ended, or when it was last heard of, in nanoseconds."""
    if story.root is not None:
        return story.root.end_ns
    ends = [item.span.end_ns for item in story.exchanges]
    ends += [span.end_ns for span in story.late]
    return max([*ends, story.start_ns])


def draw(parent: Element, story: RolloutStory, limit: int) -> int:
    """Draw at most ``limit`` spans below an element; return how many were drawn."""
    bars = list(_bars(story))
    spans = drawn = 0
    shown = []
    for bar in bars:
        is_span = bar.end_ns is not None
        spans += is_span
        if spans <= limit:
            shown.append(bar)
            drawn += is_span
    if spans > drawn:
        missing = f"{count(spans - drawn, 'span')} of {spans} not drawn: see `explain`."
        put(parent, "p", missing, class_="note")
    if not drawn:
        return 0
    last = max([bar.end_ns or bar.start_ns for bar in bars])
    whole = max(last - story.start_ns, 1)
    items = put(parent, "ol", class_="waterfall")
    for bar in shown:
        _draw(items, bar, story.start_ns, whole)
    return drawn


def _bars(story: RolloutStory) -> Iterator[Bar]:
    outcome = story.outcome
    end = ends_at(story)
    word = outcome or ("not ended" if story.root is None else "unknown")
    yield Bar(story.start_ns, end, 0, tone_of(outcome), "rollout", word)
    blocks = [(item.span.start_ns, list(_exchange(item))) for item in story.exchanges]
    blocks += [(span.start_ns, list(_late(span))) for span in story.late]
    for _, bars in sorted(blocks, key=lambda block: block[0]):
        yield from bars


def _exchange(item: ExchangeStory) -> Iterator[Bar]:
    span = item.span
    outcome = text_of(span.attributes, semconv.EXCHANGE_OUTCOME)
    stream = stream_text(span)
    status = number_of(span.attributes, semconv.HTTP_RESPONSE_STATUS_CODE)
    facts = [] if status is None else [f"status {status:.0f}"]
    facts += [] if stream is None else [stream.plain]
    yield Bar(
        span.start_ns,
        span.end_ns,
        1,
        tone_of(outcome),
        request_text(span).plain,
        outcome or "unknown",
        tuple(facts),
    )
    for wait in item.waits:
        model = text_of(wait.attributes, semconv.GEN_AI_REQUEST_MODEL)
        error_type = text_of(wait.attributes, semconv.ERROR_TYPE)
        yield Bar(
            wait.start_ns,
            wait.end_ns,
            2,
            "wait" if error_type is None else "bad",
            "upstream" if model is None else f"upstream: {model}",
            error_type or "",
        )
    if item.failure is not None:
        yield _mark(item.failure, 2)


def _late(span: SpanLine) -> Iterator[Bar]:
    yield Bar(span.start_ns, span.end_ns, 1, "bad", "outside any open exchange")
    event = failure_of(span)
    if event is not None:
        yield _mark(event, 2)


def _mark(event: EventLine, depth: int) -> Bar:
    error_type = error_type_of(event)
    facts = tuple(failure_facts(event))
    return Bar(event.at_ns, None, depth, "bad", "failure", error_type, facts)


def _draw(parent: Element, bar: Bar, start_ns: int, whole_ns: int) -> None:
    item = put(parent, "li", class_=f"bar depth{bar.depth}")
    if bar.end_ns is None:
        # A list item may take the focus; what it says is the text in it.
        item.set("tabindex", "0")
        item.set("class", f"bar depth{bar.depth} failure")
    said = put(item, "div", class_="said")
    put(said, "span", bar.label, class_="label")
    if bar.word:
        put(said, "span", bar.word, class_=f"word {bar.tone}")
    for facts in bar.facts:
        put(said, "span", facts, class_="facts")
    lane = put(item, "svg", class_="lane", aria_hidden="true", focusable="false")
    left = _percent(bar.start_ns - start_ns, whole_ns)
    clock = f"+{seconds(bar.start_ns - start_ns)}"
    if bar.end_ns is None:
        put(lane, "circle", class_="mark", cx=f"{left:.3f}%", cy="9", r="5")
    else:
        width = _percent(bar.end_ns - bar.start_ns, whole_ns)
        width = max(_MIN_WIDTH, min(width, 100 - left))
        at, wide = f"{min(left, 100 - width):.3f}%", f"{width:.3f}%"
        put(lane, "rect", class_=bar.tone, x=at, width=wide, y="4", height="10", rx="2")
        clock = seconds(bar.end_ns - bar.start_ns)
    put(item, "span", clock, class_="clock")


def _percent(part_ns: int, whole_ns: int) -> float:
    return 100 * min(max(part_ns, 0), whole_ns) / whole_ns
