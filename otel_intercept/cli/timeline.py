"""Draw one rollout as a causal timeline: what happened when, and what came first."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from otel_intercept import semconv
from otel_intercept.cli.output import printable
from otel_intercept.cli.story import (
    ExchangeStory,
    RolloutStory,
    failure_of,
    number_of,
    text_of,
)
from otel_intercept.cli.words import EXCHANGE_WORDS, ROLLOUT_WORDS
from otel_intercept.outcome import is_error
from otel_intercept.record import AttributeValue
from otel_intercept.sdk import EventLine, SpanLine
from otel_intercept.semconv import ExchangeOutcome, RolloutOutcome

_NS: Final = 1e-9
_MS_NS: Final = 1_000_000
BAD: Final = "bold red"
GOOD: Final = "green"
QUIET: Final = "yellow"
_DIM: Final = "dim"


_FACTS: Final = (
    (
        ("phase", semconv.FAILURE_PHASE),
        ("origin", semconv.FAILURE_ORIGIN),
        ("status", semconv.FAILURE_STATUS_CODE),
        ("retryable", semconv.FAILURE_RETRYABLE),
    ),
    (("raised as", semconv.EXCEPTION_TYPE),),
    (("caused by", semconv.FAILURE_CAUSE_TYPES),),
    (("fingerprint", semconv.FAILURE_FINGERPRINT),),
)
"""What a failure event says, one tuple per line."""


class Line(NamedTuple):
    """One line of the timeline.

    Args:
        at_ns: When, in Unix nanoseconds, or None for a detail of the line above.
        depth: How far it is set in.
        text: What happened.
    """

    at_ns: int | None
    depth: int
    text: Text


def timeline(story: RolloutStory) -> RenderableType:
    """Return the timeline of a rollout; it fits any width from 60 columns."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(justify="right", no_wrap=True, style=_DIM)
    grid.add_column(overflow="fold")
    for line in _lines(story):
        clock = "" if line.at_ns is None else f"+{seconds(line.at_ns - story.start_ns)}"
        grid.add_row(clock, Padding(line.text, (0, 0, 0, 2 * line.depth)))
    return Group(_head(story), Text(), grid)


def seconds(duration_ns: int) -> str:
    """Return a duration in seconds, to the millisecond."""
    return f"{duration_ns * _NS:.3f} s"


def outcome_style(outcome: str | None) -> str:
    """Return the style of an exchange's or a rollout's outcome."""
    if outcome in {ExchangeOutcome.OK, RolloutOutcome.COMPLETED}:
        return GOOD
    if outcome == RolloutOutcome.FAILED or _is_error(outcome):
        return BAD
    return QUIET


def _is_error(outcome: str | None) -> bool:
    if outcome is None or outcome not in EXCHANGE_WORDS:
        return False
    return is_error(ExchangeOutcome(outcome))


def _head(story: RolloutStory) -> Text:
    outcome = story.outcome
    text = Text("rollout ")
    text.append(printable(story.rollout_id), style="bold")
    text.append(": ")
    text.append(printable(outcome or "not ended"), style=outcome_style(outcome))
    if story.root is not None:
        text.append(f" after {seconds(story.root.end_ns - story.root.start_ns)}")
    text.append(f", {count(len(story.exchanges), 'exchange')}")
    text.append(f", {count(len(story.failures), 'failure')}")
    text.append(f"\ntrace {printable(story.trace_id)}", style=_DIM)
    if story.service_name is not None:
        text.append(f", service {printable(story.service_name)}", style=_DIM)
    return text


def _lines(story: RolloutStory) -> Iterator[Line]:
    opened = datetime.fromtimestamp(story.start_ns // 10**9, UTC)
    yield Line(story.start_ns, 0, Text(f"opened, {opened:%Y-%m-%d %H:%M:%S} UTC"))
    first = story.failures[0] if story.failures else None
    blocks = [
        (item.span.start_ns, list(_exchange(item, first))) for item in story.exchanges
    ]
    blocks += [(span.start_ns, list(_late(span, first))) for span in story.late]
    for _, lines in sorted(blocks, key=lambda block: block[0]):
        yield from lines
    yield _end(story)


def _end(story: RolloutStory) -> Line:
    root = story.root
    if root is None:
        text = Text("no end: ", style=QUIET)
        text.append("still running, or killed. ", style=QUIET)
        text.append("The file has no root span of this rollout.", style=_DIM)
        return Line(None, 0, text)
    outcome = story.outcome or ""
    text = Text()
    text.append(printable(outcome), style=outcome_style(outcome))
    meaning = ROLLOUT_WORDS.get(outcome)
    if meaning is not None:
        text.append(f": {meaning}")
    return Line(root.end_ns, 0, text)


def _exchange(item: ExchangeStory, first: EventLine | None) -> Iterator[Line]:
    span = item.span
    yield Line(span.start_ns, 0, request_text(span))
    lines = [line for wait in item.waits for line in _wait(wait)]
    if item.failure is not None:
        lines += _failure(item.failure, first)
    # Details have no time of their own: they stay behind the line they belong to.
    yield from _in_order(lines)
    facts = stream_text(span)
    if facts is not None:
        yield Line(None, 1, facts)
    yield Line(span.end_ns, 1, _outcome(span))


def _in_order(lines: list[Line]) -> Iterator[Line]:
    blocks: list[list[Line]] = []
    for line in lines:
        if line.at_ns is None and blocks:
            blocks[-1].append(line)
        else:
            blocks.append([line])
    # By the millisecond: a wait and its failure end at once, and the wait comes first.
    for block in sorted(blocks, key=lambda block: (block[0].at_ns or 0) // _MS_NS):
        yield from block


def request_text(span: SpanLine) -> Text:
    """Return which exchange it is and what was asked for, all of it printable."""
    attributes = span.attributes
    index = number_of(attributes, semconv.EXCHANGE_INDEX)
    text = Text("exchange", style="bold")
    if index is not None:
        text.append(f" {index:.0f}", style="bold")
    words = [text_of(attributes, semconv.EXCHANGE_DIALECT)]
    words.append("stream" if attributes.get(semconv.EXCHANGE_STREAM) is True else None)
    words.append(text_of(attributes, semconv.GEN_AI_REQUEST_MODEL))
    retry = number_of(attributes, semconv.EXCHANGE_RETRY_COUNT)
    if retry:
        words.append(f"retry {retry:.0f} by the agent's SDK")
    told = ", ".join(printable(word) for word in words if word)
    return text.append(f": {told}", style="not bold")


def _wait(wait: SpanLine) -> Iterator[Line]:
    attributes = wait.attributes
    model = text_of(attributes, semconv.GEN_AI_REQUEST_MODEL)
    text = Text("call upstream")
    if model is not None:
        text.append(f" for {printable(model)}")
    yield Line(wait.start_ns, 1, text)
    text = Text(f"upstream took {seconds(wait.end_ns - wait.start_ns)}")
    error_type = text_of(attributes, semconv.ERROR_TYPE)
    if error_type is not None:
        text.append(" and failed: ")
        text.append(printable(error_type), style=BAD)
    tokens = [
        number_of(attributes, semconv.GEN_AI_USAGE_INPUT_TOKENS),
        number_of(attributes, semconv.GEN_AI_USAGE_OUTPUT_TOKENS),
    ]
    told = [f"{count:.0f}" for count in tokens if count is not None]
    if told:
        text.append(f", tokens {' in, '.join(told)} out")
    yield Line(wait.end_ns, 1, text)


def _failure(event: EventLine, first: EventLine | None) -> Iterator[Line]:
    attributes = event.attributes
    error_type = printable(text_of(attributes, semconv.ERROR_TYPE) or "unknown")
    text = Text()
    text.append("FIRST FAILURE " if event is first else "failure ", style=BAD)
    text.append(error_type, style=BAD)
    yield Line(event.at_ns, 1, text)
    for told in failure_facts(event):
        yield Line(None, 2, Text(told, style=_DIM))


def failure_facts(event: EventLine) -> Iterator[str]:
    """Yield what a failure event says besides its error type, in printable lines."""
    for facts in _FACTS:
        told = ", ".join(_told(event.attributes, facts))
        if told:
            yield told


def _told(
    attributes: Mapping[str, AttributeValue], facts: tuple[tuple[str, str], ...]
) -> Iterator[str]:
    for label, key in facts:
        value = attributes.get(key)
        if isinstance(value, bool):
            yield label if value else f"not {label}"
        elif isinstance(value, tuple):
            yield printable(f"{label} {', '.join(value)}")
        elif value is not None:
            yield printable(f"{label} {value}")


def stream_text(span: SpanLine) -> Text | None:
    """Return what the agent got of a stream, or None if there was none."""
    attributes = span.attributes
    chunks = number_of(attributes, semconv.STREAM_CHUNKS)
    if chunks is None:
        return None
    words = [count(int(chunks), "chunk")]
    first = number_of(attributes, semconv.STREAM_TIME_TO_FIRST_CHUNK_S)
    if first is not None:
        words.append(f"first after {first:.3f} s")
    gap = number_of(attributes, semconv.STREAM_MAX_GAP_S)
    if gap is not None and chunks > 1:
        words.append(f"longest gap {gap:.3f} s")
    size = number_of(attributes, semconv.STREAM_BYTES)
    if size is not None:
        words.append(f"{size:.0f} bytes")
    keepalives = number_of(attributes, semconv.STREAM_KEEPALIVES)
    if keepalives:
        words.append(count(int(keepalives), "keepalive"))
    return Text(", ".join(words))


def _outcome(span: SpanLine) -> Text:
    outcome = printable(text_of(span.attributes, semconv.EXCHANGE_OUTCOME) or "unknown")
    text = Text()
    text.append(outcome, style=outcome_style(outcome))
    status = number_of(span.attributes, semconv.HTTP_RESPONSE_STATUS_CODE)
    if status is not None:
        text.append(f", status {status:.0f}")
    meaning = EXCHANGE_WORDS.get(outcome)
    if meaning is not None:
        text.append(f": {meaning}")
    return text


def _late(span: SpanLine, first: EventLine | None) -> Iterator[Line]:
    event = failure_of(span)
    if event is None:
        return
    lines = list(_failure(event, first))
    head = Text("outside any open exchange: ", style=_DIM)
    head.append_text(lines[0].text)
    yield Line(span.start_ns, 0, head)
    yield from (line._replace(depth=1) for line in lines[1:])


def count(number: int, what: str) -> str:
    """Return a number and its noun, in the plural if need be."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
