"""Compare what was injected with what was exported: pure, over the exported spans."""

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from otel_intercept import semconv
from otel_intercept.cli.demo.loop import Played
from otel_intercept.cli.demo.scenario import Scenario
from otel_intercept.cli.story import RolloutStory, text_of


class Count(NamedTuple):
    """How often something was injected, and how often it was observed."""

    injected: int
    observed: int


class Verdict(NamedTuple):
    """What the comparison came to.

    Args:
        exchanges: Counts by exchange outcome.
        errors: Counts by error type.
        rollouts: Counts by rollout outcome.
        differences: One line for each thing that is not as injected.
    """

    exchanges: dict[str, Count]
    errors: dict[str, Count]
    rollouts: dict[str, Count]
    differences: tuple[str, ...]


def judge(played: Sequence[Played], stories: Sequence[RolloutStory]) -> Verdict:
    """Compare each rollout, exchange by exchange, with its scenario.

    Args:
        played: What was played, with the errors on the states.
        stories: What was read back from the file.
    """
    by_id = {story.rollout_id: story for story in stories}
    turns = [turn for item in played for turn in item.planned.scenario.turns]
    exchanges = [item.span.attributes for story in stories for item in story.exchanges]
    outcomes = (text_of(found, semconv.EXCHANGE_OUTCOME) for found in exchanges)
    errors = (text_of(found, semconv.ERROR_TYPE) for found in exchanges)
    differences = [line for item in played for line in _differences(item, by_id)]
    unknown = by_id.keys() - {item.planned.rollout_id for item in played}
    differences += [f"{name}: was never played" for name in sorted(unknown)]
    return Verdict(
        exchanges=_counts((turn.outcome for turn in turns), outcomes),
        errors=_counts((turn.error_type for turn in turns), errors),
        rollouts=_counts(
            (item.planned.scenario.outcome for item in played),
            (story.outcome for story in stories),
        ),
        differences=tuple(differences),
    )


def _counts(
    injected: Iterable[str | None], observed: Iterable[str | None]
) -> dict[str, Count]:
    wanted = Counter(name for name in injected if name is not None)
    found = Counter(name for name in observed if name is not None)
    return {
        str(name): Count(wanted[name], found[name]) for name in wanted.keys() | found
    }


def _differences(played: Played, stories: Mapping[str, RolloutStory]) -> Iterator[str]:
    rollout_id, scenario = played.planned
    story = stories.get(rollout_id)
    if story is None:
        yield f"{rollout_id}: is not in the file"
        return
    if story.outcome != scenario.outcome:
        yield f"{rollout_id}: rollout {story.outcome}, injected {scenario.outcome}"
    for number, (wanted, found) in enumerate(_exchanges(scenario, story)):
        if wanted != found:
            yield f"{rollout_id}: exchange {number} {found}, injected {wanted}"
    for span in story.late:
        late = text_of(span.attributes, semconv.ERROR_TYPE)
        yield f"{rollout_id}: a failure of its own, {late}, was not injected"
    expected = next(
        (turn.error_type for turn in scenario.turns if turn.error_type), None
    )
    on_state = played.error.failure.error_type if played.error is not None else None
    if on_state != expected:
        yield f"{rollout_id}: error on the state {on_state}, injected {expected}"


def _exchanges(scenario: Scenario, story: RolloutStory) -> Iterator[tuple[str, str]]:
    wanted = [_words(turn.outcome, turn.error_type) for turn in scenario.turns]
    found = [
        _words(
            text_of(item.span.attributes, semconv.EXCHANGE_OUTCOME),
            text_of(item.span.attributes, semconv.ERROR_TYPE),
        )
        for item in story.exchanges
    ]
    return itertools.zip_longest(wanted, found, fillvalue="nothing")


def _words(outcome: str | None, error_type: str | None) -> str:
    return f"{outcome}" if error_type is None else f"{outcome} ({error_type})"
