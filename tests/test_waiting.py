"""A line keeps its order, and only ordinary ones are pushed out of it."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from otel_intercept.waiting import Waiting

STEPS = st.lists(st.sampled_from(["add", "urgent", "push", "take"]), max_size=60)


@given(STEPS)
def test_what_comes_first_goes_first(steps: list[str]) -> None:
    """Whatever is added, pushed out and taken, the line is that of a plain list."""
    line: Waiting[tuple[int, bool]] = Waiting()
    model: list[tuple[int, bool]] = []

    for number, step in enumerate(steps):
        if step == "add":
            added = line.add((number, False), most=20)
            assert added == (len(model) < 20)
            model += [(number, False)] if added else []
        elif step == "urgent":
            line.add_urgent((number, True))
            model.append((number, True))
        elif step == "push":
            oldest = next((one for one in model if not one[1]), None)
            assert line.push_out() == oldest
            if oldest is not None:
                model.remove(oldest)
        else:
            assert line.take(1) == model[:1]
            del model[:1]
        assert len(line) == len(model)

    assert line.take(100) == model


@given(STEPS, st.integers(1, 7))
def test_many_are_taken_in_the_order_of_one_by_one(steps: list[str], most: int) -> None:
    """How many are taken at once changes nothing in what comes first."""
    one_by_one: Waiting[int] = Waiting()
    at_once: Waiting[int] = Waiting()
    for line in (one_by_one, at_once):
        for number, step in enumerate(steps):
            if step == "add":
                line.add(number, most=60)
            elif step == "urgent":
                line.add_urgent(number)
            elif step == "push":
                line.push_out()

    taken = [at_once.take(most) for _ in range(60)]

    in_order = one_by_one.take(60)
    assert [one for some in taken for one in some] == in_order
    assert all(len(some) == most for some in taken[: len(in_order) // most])


def test_nothing_is_lost_or_taken_twice_while_some_are_pushed_out() -> None:
    """Whoever is faster, each one is either taken or pushed out, in order."""
    line: Waiting[int] = Waiting()
    pushed_out: list[int] = []

    def produce() -> None:
        for number in range(50_000):
            if not line.add(number, most=16):
                oldest = line.push_out()
                if oldest is not None:
                    pushed_out.append(oldest)
                line.add(number, most=1000)

    producer = threading.Thread(target=produce)
    producer.start()
    taken: list[int] = []
    while producer.is_alive() or len(line):
        taken += line.take(32)
    producer.join()

    assert sorted(taken + pushed_out) == list(range(50_000))
    assert taken == sorted(taken)
