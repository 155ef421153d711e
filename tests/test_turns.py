"""The pauses by which a busy event loop lets our threads have the interpreter lock."""

import asyncio
import gc
import resource
import threading
import time
import weakref
from collections.abc import Callable

from otel_intercept import RolloutRegistry, turns
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.turns import Pauses, nap, note_loop, starves

PATIENCE_S = 20.0


def pauses_made() -> int:
    """Return how often this thread has slept; what only works never does."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw


async def work_until(is_true: Callable[[], bool]) -> None:
    """Keep the loop of this thread busy until something is true."""
    end_s = time.monotonic() + PATIENCE_S
    while not is_true():
        assert time.monotonic() < end_s, "what was waited for has not come"
        until_s = time.thread_time() + 0.0002
        while time.thread_time() < until_s:
            pass
        await asyncio.sleep(0)


async def work_s(seconds: float) -> None:
    """Keep the loop of this thread busy for a time."""
    until_s = time.monotonic() + seconds
    await work_until(lambda: time.monotonic() >= until_s)


async def test_a_busy_loop_pauses_again_and_again() -> None:
    """A loop that works all the time sleeps several times once pauses are wanted."""
    pauses = Pauses(asyncio.get_running_loop())
    await work_s(0.05)
    before = pauses_made()

    pauses.want()

    await work_until(lambda: pauses_made() - before >= 8)
    pauses.stop()


async def test_pauses_become_rarer_and_end() -> None:
    """What was wanted once costs a busy loop few pauses, and none after a second."""
    pauses = Pauses(asyncio.get_running_loop())
    before = pauses_made()
    pauses.want()

    await work_s(1.2)

    made, after = pauses_made() - before, pauses_made()
    await work_s(0.3)
    assert made <= 1.2 / 0.016 + 10
    assert pauses_made() - after <= 2


async def test_an_idle_loop_does_not_pause() -> None:
    """A loop that is mostly idle finds out with its first pause, and makes no more."""
    pauses = Pauses(asyncio.get_running_loop())

    pauses.want()
    await asyncio.sleep(0.05)

    assert not pauses.needed


async def test_pauses_that_are_wanted_twice_are_made_once() -> None:
    """Wanting pauses that are being made does not make more of them at a time."""
    loop = asyncio.get_running_loop()
    pauses = Pauses(loop)
    for _ in range(50):
        pauses.want()
    before = pauses_made()

    await work_s(0.1)

    assert pauses_made() - before <= 0.1 / 0.002 / 2
    pauses.stop()


async def test_pauses_that_ended_can_be_wanted_again() -> None:
    """An idle loop that has become busy pauses again when a thread asks for it."""
    pauses = Pauses(asyncio.get_running_loop())
    pauses.want()
    await asyncio.sleep(0.05)
    before = pauses_made()

    pauses.want()

    await work_until(lambda: pauses_made() - before >= 4)
    pauses.stop()


def test_a_closed_loop_is_no_reason_to_fail() -> None:
    """Wanting pauses of a loop that is closed, or gone, does nothing."""
    loop = asyncio.new_event_loop()
    pauses = Pauses(loop)
    pauses.want()
    was_needed = pauses.needed
    loop.close()

    pauses.want()

    is_needed = pauses.needed
    assert (was_needed, is_needed) == (True, False)

    kept = weakref.ref(loop)
    del loop
    gc.collect()
    assert kept() is None
    pauses.want()


def test_without_a_loop_nothing_is_noted() -> None:
    """Noting the loop where none runs changes nothing and raises nothing."""
    note_loop()

    nap()


async def test_a_rollout_notes_its_loop(recorder: TelemetryRecorder) -> None:
    """The loop in which a rollout is opened is the one that pauses."""
    RolloutRegistry(recorder.telemetry).open("r1")

    assert turns.TURNS.pauses is not None
    assert turns.TURNS.pauses.is_of(asyncio.get_running_loop())


async def test_a_thread_that_waits_too_long_has_the_loop_pause() -> None:
    """A nap that ends late since the lock is held makes the loop pause from then on."""
    note_loop()
    napping, rested = threading.Event(), threading.Event()

    def rest() -> None:
        napping.set()
        nap()
        rested.set()

    thread = threading.Thread(target=rest)
    thread.start()
    await work_until(napping.is_set)
    # In one call the lock is not given up.
    sum(range(5_000_000))
    before = pauses_made()

    await work_until(rested.is_set)
    await work_until(starves)
    await work_until(lambda: pauses_made() - before >= 4)

    thread.join()


async def test_another_loop_ends_the_pauses_of_the_first() -> None:
    """Once another loop is noted, the first one pauses no more."""
    note_loop()
    first = turns.TURNS.pauses
    assert first is not None
    first.want()

    def note_in_another() -> None:
        asyncio.run(asyncio.to_thread(lambda: None))

        async def note() -> None:
            note_loop()

        asyncio.run(note())

    await asyncio.to_thread(note_in_another)

    assert not first.needed
    assert turns.TURNS.pauses is not first


async def test_naps_beside_an_idle_loop_ask_for_nothing() -> None:
    """A thread that gets the lock in time does not make the loop pause."""
    note_loop()
    asked = []

    for _ in range(5):
        await asyncio.to_thread(nap)
        asked.append(starves())
        await asyncio.sleep(0.05)

    # A machine that stands still looks like a lock that is held.
    assert not all(asked)
