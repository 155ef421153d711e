"""Ids are random, never zero, and never shared with a forked child."""

import os
import random

from otel_intercept.ids import new_span_id, new_trace_id


def test_ids_do_not_repeat_and_fit() -> None:
    """Over many batches no id comes twice, is zero, or is too long."""
    spans = [new_span_id() for _ in range(5_000)]
    traces = [new_trace_id() for _ in range(1_000)]

    assert len({*spans}) == len(spans)
    assert len({*traces}) == len(traces)
    assert all(0 < one < 2**64 for one in spans)
    assert all(0 < one < 2**128 for one in traces)


def test_a_seed_does_not_choose_ids() -> None:
    """Training code that seeds ``random`` twice alike gets different ids."""
    random.seed(7)
    first = [new_span_id() for _ in range(3)]
    random.seed(7)
    second = [new_span_id() for _ in range(3)]

    assert not {*first} & {*second}


def test_a_forked_child_draws_ids_of_its_own() -> None:
    """What is left of a batch is not used in both processes."""
    _ = new_span_id()
    reading, writing = os.pipe()

    child = os.fork()
    if child == 0:
        ids = " ".join(str(new_span_id()) for _ in range(100))
        os.write(writing, ids.encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = {int(one) for one in os.read(reading, 65_536).split()}
    os.close(reading)
    os.close(writing)

    assert len(theirs) == 100
    assert not theirs & {new_span_id() for _ in range(600)}
