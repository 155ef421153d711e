"""Count what a file has, and choose what of it is drawn."""

from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from otel_intercept import semconv
from otel_intercept.cli.story import RolloutStory, text_of
from otel_intercept.sdk import EventLine
from otel_intercept.semconv import ExchangeOutcome, RolloutOutcome

NOT_ENDED: Final = "not ended"
_UNKNOWN: Final = "unknown"


class Bounds(NamedTuple):
    """How much is drawn at most; what is beyond is counted, and said on the page.

    Args:
        rollouts: Rollouts in the table.
        spans_each: Spans in the waterfall of one rollout.
        spans: Spans in all waterfalls, so that a browser can still open the page.
        words: Different outcomes, or error types, that are told apart.
    """

    rollouts: int = 2_000
    spans_each: int = 500
    spans: int = 20_000
    words: int = 50


class Figures(NamedTuple):
    """What the file has in all.

    Args:
        rollouts: How many.
        ended: How many of them have a root span.
        exchanges: How many exchanges they have.
        outcomes: Rollouts by outcome, the most frequent first.
        errors: Failures by error type, the most frequent first.
        at_risk: Ended rollouts that failed, or had an exchange whose agent got a clean
            answer for a call that failed.
    """

    rollouts: int
    ended: int
    exchanges: int
    outcomes: tuple[tuple[str, int], ...]
    errors: tuple[tuple[str, int], ...]
    at_risk: int


def figures_of(stories: Sequence[RolloutStory]) -> Figures:
    """Count everything, drawn or not."""
    outcomes = Counter(outcome_of(story) for story in stories)
    errors = Counter(
        error_type_of(event) for story in stories for event in story.failures
    )
    return Figures(
        rollouts=len(stories),
        ended=sum(story.root is not None for story in stories),
        exchanges=sum(len(story.exchanges) for story in stories),
        outcomes=tuple(outcomes.most_common()),
        errors=tuple(errors.most_common()),
        at_risk=sum(_at_risk(story) for story in stories),
    )


def chosen(stories: Sequence[RolloutStory], limit: int) -> list[RolloutStory]:
    """Return at most so many rollouts: those with failures first, then the latest.

    They keep the order in which they started.
    """
    by_worth = sorted(
        range(len(stories)),
        key=lambda place: (bool(stories[place].failures), place),
        reverse=True,
    )
    return [stories[place] for place in sorted(by_worth[:limit])]


def outcome_of(story: RolloutStory) -> str:
    """Return how a rollout ended, or that it did not."""
    if story.root is None:
        return NOT_ENDED
    return story.outcome or _UNKNOWN


def error_type_of(event: EventLine) -> str:
    """Return the error type of a failure."""
    return text_of(event.attributes, semconv.ERROR_TYPE) or _UNKNOWN


def _at_risk(story: RolloutStory) -> bool:
    if story.root is None:
        return False
    return story.outcome == RolloutOutcome.FAILED or any(
        text_of(item.span.attributes, semconv.EXCHANGE_OUTCOME)
        == ExchangeOutcome.SILENT_EMPTY
        for item in story.exchanges
    )
