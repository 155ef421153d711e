"""A line keeps its order, and only ordinary ones are pushed out of it."""

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
