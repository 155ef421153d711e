"""Attempts of one rollout: each knows the one before it, and no other."""

import asyncio

from otel_intercept import RolloutRegistry
from otel_intercept.instrumentation.verifiers import attempts


async def test_an_attempt_knows_the_one_before(registry: RolloutRegistry) -> None:
    """The first attempt has none before it; the second has the first."""
    with attempts.repeated():
        before_first = attempts.previous()
        first = registry.open("first")
        attempts.began(first)
        before_second = await asyncio.create_task(_previous())

    assert before_first is None
    assert before_second == first.traceparent


async def test_outside_of_a_repetition_nothing_is_kept(
    registry: RolloutRegistry,
) -> None:
    """A rollout that nobody repeats is no attempt of the next one."""
    attempts.began(registry.open("alone"))

    assert attempts.previous() is None


async def test_what_an_attempt_opens_is_no_repetition_of_it(
    registry: RolloutRegistry,
) -> None:
    """A block inside another starts anew, and leaves the outer one as it was."""
    outer = registry.open("outer")
    with attempts.repeated():
        attempts.began(outer)
        with attempts.repeated():
            inside = attempts.previous()
            attempts.began(registry.open("inner"))
        after = attempts.previous()

    assert inside is None
    assert after == outer.traceparent


async def _previous() -> str | None:
    return attempts.previous()
