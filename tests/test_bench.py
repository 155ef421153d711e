"""The arithmetic of the benchmark: what its figures are, and when its check fails."""

import math

import pytest

from bench.callgrind import Counts
from bench.check import ratios
from bench.figures import TOLERANCE, least, percentile, quartiles, regressions

BARE = Counts(loop=400.0, server=400.0, helpers=0.0)


def test_quartiles_of_an_odd_number_of_values_are_among_them() -> None:
    """Where the quartiles fall on values, those are given, in any order of input."""
    assert quartiles([5.0, 1.0, 4.0, 2.0, 3.0]) == (2.0, 3.0, 4.0)


def test_quartiles_between_two_values_are_between_them() -> None:
    """Where a quartile falls between two values, it lies between them."""
    assert quartiles([1.0, 2.0]) == (1.25, 1.5, 1.75)


def test_one_value_is_all_its_quartiles() -> None:
    """A single round has a median and no spread."""
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("percent", "value"), [(50, 50.0), (99, 99.0), (99.9, 100.0), (100, 100.0)]
)
def test_a_percentile_is_the_value_that_so_many_do_not_exceed(
    percent: float, value: float
) -> None:
    """Of 1 to 100, the 99th percentile is 99, and no rank falls outside."""
    values = [float(number) for number in range(100, 0, -1)]

    assert percentile(values, percent) == value


def test_no_values_have_no_figure() -> None:
    """A load without a single answer is an error, not a zero."""
    with pytest.raises(ValueError, match="quartiles need values"):
        quartiles([])
    with pytest.raises(ValueError, match="a percentile needs values"):
        percentile([], 50)


def test_a_ratio_is_taken_to_bare_of_the_same_run() -> None:
    """The loop is compared with bare's loop, and all processes with all of bare."""
    counts = {"bare": BARE, "process": Counts(loop=420.0, server=440.0, helpers=120.0)}

    assert ratios("json2k", counts) == {
        "json2k/process/loop": 1.05,
        "json2k/process/total": 1.4,
    }


def test_what_grew_within_the_tolerance_is_no_regression() -> None:
    """Growth up to the tolerance passes; so does what became cheaper."""
    baseline = {"a": 1.0, "b": 2.0}

    assert regressions(baseline, {"a": 1.0 + TOLERANCE, "b": 1.0}) == []


def test_what_grew_beyond_the_tolerance_is_a_regression() -> None:
    """Growth beyond the tolerance is named with both ratios."""
    assert regressions({"a": 1.0, "b": 1.0}, {"a": 1.06, "b": 1.0}) == [
        ("a", 1.0, 1.06)
    ]


def test_what_is_not_measured_any_more_is_a_regression() -> None:
    """A variant that cannot run does not pass by its absence."""
    assert regressions({"a": 1.0}, {}) == [("a", 1.0, math.inf)]


def test_what_has_no_baseline_is_no_regression() -> None:
    """A new figure passes until a baseline has it."""
    assert regressions({}, {"new": 9.0}) == []


def test_of_several_tries_the_least_counts() -> None:
    """Each figure has its smallest ratio of the tries that measured it."""
    assert least([{"a": 1.2, "b": 1.0}, {"a": 1.1}]) == {"a": 1.1, "b": 1.0}
