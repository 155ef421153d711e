"""Draw one rollout as the tree of spans that a trace viewer shows, with timings."""

from typing import Final

from rich.text import Text
from rich.tree import Tree

from otel_intercept import semconv
from otel_intercept.cli.output import printable
from otel_intercept.cli.story import ExchangeStory, RolloutStory, failure_of, text_of
from otel_intercept.cli.timeline import outcome_style, seconds
from otel_intercept.sdk import EventLine, SpanLine

_DIM: Final = "dim"
_BAD: Final = "bold red"


def span_tree(story: RolloutStory) -> Tree:
    """Return the spans of a rollout, its events with their attributes under them."""
    tree = Tree(_root(story), guide_style=_DIM)
    for item in story.exchanges:
        branch = tree.add(_exchange(story, item))
        for wait in item.waits:
            branch.add(_span(story, wait, text_of(wait.attributes, semconv.ERROR_TYPE)))
        _add_event(story, branch, item.failure)
    for span in story.late:
        branch = tree.add(_span(story, span, None))
        _add_event(story, branch, failure_of(span))
    return tree


def _root(story: RolloutStory) -> Text:
    text = Text.assemble(("rollout ", "bold"), (printable(story.rollout_id), "bold"))
    if story.root is not None:
        text.append(f"  {seconds(story.root.end_ns - story.root.start_ns)}")
    outcome = printable(story.outcome or "not ended")
    return text.append(f"  {outcome}", style=outcome_style(story.outcome))


def _exchange(story: RolloutStory, item: ExchangeStory) -> Text:
    outcome = text_of(item.span.attributes, semconv.EXCHANGE_OUTCOME)
    text = _span(story, item.span, None)
    return text.append(f"  {printable(outcome or '')}", style=outcome_style(outcome))


def _span(story: RolloutStory, span: SpanLine, error_type: str | None) -> Text:
    # The route is the same for all; its last words tell the dialect.
    name = printable(span.name).replace("/rollout/{rollout_id}", "…")
    text = Text(name)
    text.append(f"  +{seconds(span.start_ns - story.start_ns)}", style=_DIM)
    text.append(f"  {seconds(span.end_ns - span.start_ns)}")
    if error_type is not None:
        text.append(f"  {printable(error_type)}", style=_BAD)
    return text


def _add_event(story: RolloutStory, branch: Tree, event: EventLine | None) -> None:
    if event is None:
        return
    at = seconds(event.at_ns - story.start_ns)
    leaf = branch.add(Text.assemble(("event exception", _BAD), (f"  +{at}", _DIM)))
    for key, value in event.attributes.items():
        told = ", ".join(value) if isinstance(value, tuple) else str(value)
        leaf.add(Text.assemble((f"{printable(key)} ", _DIM), printable(told)))
