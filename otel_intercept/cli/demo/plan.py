"""Choose and order the rollouts to play, from a seed."""

import hashlib
from typing import NamedTuple

from otel_intercept.cli.demo.kinds import HEALTHY, KINDS
from otel_intercept.cli.demo.scenario import Host, Scenario
from otel_intercept.semconv import ExchangeOutcome
from otel_intercept.server import StreamFailure


class Planned(NamedTuple):
    """A rollout that is going to be played."""

    rollout_id: str
    scenario: Scenario


def plan(
    rollouts: int, *, seed: int, stream_failure: StreamFailure
) -> tuple[Planned, ...]:
    """Choose and order the rollouts to play; the same arguments give the same plan.

    Args:
        rollouts: How many; fewer than there are kinds means one of each kind. Of what
            goes beyond that, every other one is healthy.
        seed: Decides the order, and which kinds come more than once.
        stream_failure: How the InterceptionServer ends a stream that failed.
    """
    extra = [
        _pick(HEALTHY if number % 2 else KINDS, seed, number)
        for number in range(rollouts - len(KINDS))
    ]
    chosen = sorted(
        enumerate([*KINDS, *extra]), key=lambda item: _draw(seed, "place", item[0])
    )
    return tuple(
        Planned(f"{scenario.name}-{place:02d}", _adapt(scenario, stream_failure))
        for place, (_, scenario) in enumerate(chosen, start=1)
    )


def _pick(kinds: tuple[Scenario, ...], seed: int, number: int) -> Scenario:
    return kinds[_draw(seed, "kind", number) % len(kinds)]


def _draw(seed: int, what: str, number: int) -> int:
    digest = hashlib.sha256(f"{seed} {what} {number}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _adapt(scenario: Scenario, stream_failure: StreamFailure) -> Scenario:
    if scenario.host is Host.APP or stream_failure == "done":
        return scenario
    turns = (
        turn._replace(outcome=ExchangeOutcome.ERROR_FRAME)
        if turn.outcome is ExchangeOutcome.SILENT_EMPTY
        else turn
        for turn in scenario.turns
    )
    return scenario._replace(turns=tuple(turns))
