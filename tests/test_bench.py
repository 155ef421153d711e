"""The arithmetic of the benchmark: what its figures are, and when its check fails."""

import math
import platform
import re
from pathlib import Path

import pytest

from bench.callgrind import Counts
from bench.chart import bars
from bench.check import ratios
from bench.figures import TOLERANCE, least, percentile, quartiles, regressions
from bench.page import PAGE, charts, written
from bench.results import LATEST, Figures, Results, machine

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


def test_a_value_is_shown_with_its_quartiles() -> None:
    """A number is one number; quartiles are the median and the span in brackets."""
    figures = Figures("CPU", {"a": {"total": [1.0, 1.25, 1.5]}, "b": {"bytes": 1234.5}})

    assert figures.columns == ["total", "bytes"]
    assert figures.text("a", "total") == "1.25 (1.00-1.50)"
    assert figures.text("b", "bytes") == "1,234.50"
    assert figures.text("b", "total") == ""


def test_results_are_the_same_when_they_are_read_again(tmp_path: Path) -> None:
    """What is saved can be loaded, and says the same."""
    figures = Figures("CPU", {"a": {"total": [1.0, 1.25, 1.5]}}, digits=3)
    results = Results({"cores": "2"}, {"json": figures})

    results.save(tmp_path / "results.json")

    assert Results.load(tmp_path / "results.json") == results


def test_the_machine_is_described_without_its_name() -> None:
    """Neither the host's name nor a path of this machine is among what is published."""
    told = " ".join(machine().values())

    assert platform.node() not in told
    assert "/" not in told


def test_bars_come_in_order_and_escaped() -> None:
    """The cheapest row is on top, the longest bar ends within the picture."""
    figures = Figures("CPU", {"b<": {"total": 4.0}, "a": {"total": [1.0, 2.0, 3.0]}})

    drawn = bars(figures, "total", ours=["a"], title="CPU", alt="CPU")

    assert re.findall(r">([^<>]+)</text>", drawn) == [
        *("CPU", "a", "2.00 (1.00-3.00)", "b&lt;", "4.00")
    ]
    assert re.findall(r'<rect .*? width="([\d.]+)"', drawn) == ["230.0", "460.0"]


def test_the_page_has_the_figures_of_the_latest_run() -> None:
    """Page and charts are what the committed figures make; nothing is typed by hand."""
    results = Results.load(LATEST)
    page = PAGE.read_text(encoding="utf-8")

    assert written(page, results) == page
    for path, chart in charts(results).items():
        assert path.read_text(encoding="utf-8") == chart


def test_the_page_keeps_what_people_wrote() -> None:
    """Only what stands between the marks is replaced."""
    results = Results({}, {"json": Figures("CPU", {"a": {"total": 1.0}})})
    page = written("before\n", results) + "after\n"

    again = written(page, Results({}, {}))

    assert again.startswith("before\n")
    assert again.endswith("after\n")
    assert "CPU" in page
    assert "CPU" not in again
