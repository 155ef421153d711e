"""The outcome rules: total, exclusive, and equal to the table that users read."""

import itertools
from collections.abc import Iterator

import pytest

from otel_intercept import ExchangeOutcome, InterceptionError, StreamInterrupted
from otel_intercept.outcome import (
    Answer,
    Cause,
    Facts,
    answer_of,
    decide,
    error_class,
    error_class_so_far,
    is_error,
)

BOOLEANS = (False, True)


def every_fact() -> Iterator[Facts]:
    """Walk the whole space of facts."""
    for cause, answer in itertools.product(Cause, Answer):
        for begun, *flags in itertools.product(BOOLEANS, repeat=9):
            yield Facts(cause, begun, answer, *flags)


def rows_that_fit(facts: Facts) -> list[ExchangeOutcome]:
    """Return the outcome of every row of the documented table that fits."""
    cause, answer = facts.cause, facts.answer
    good, sse = answer is Answer.GOOD, facts.event_stream
    clean = facts.ended and (facts.terminal or not sse)
    upstream = cause is Cause.UPSTREAM_FAILED
    free = cause is Cause.NONE
    excused = free and facts.upstream_cancelled
    rows = {
        ExchangeOutcome.CANCELLED: [
            cause is Cause.CANCELLED,
            free and answer is Answer.NONE,
            excused and answer is Answer.REFUSING,
            excused and good and not facts.error_frame and not facts.ended,
            excused
            and good
            and not facts.error_frame
            and facts.ended
            and sse
            and not (facts.terminal and facts.chunks),
            excused
            and good
            and not facts.error_frame
            and facts.ended
            and not sse
            and facts.unreadable,
        ],
        ExchangeOutcome.AGENT_GONE: [cause is Cause.AGENT_LEFT],
        ExchangeOutcome.CUT: [
            cause is Cause.WRITE_FAILED,
            cause is Cause.HANDLER_RAISED and facts.begun,
            upstream and good and not facts.error_frame and not clean,
            free
            and good
            and not facts.error_frame
            and not facts.ended
            and not facts.upstream_cancelled,
        ],
        ExchangeOutcome.ERROR_FRAME: [
            cause is Cause.ERROR_FRAME,
            upstream and good and facts.error_frame,
            free and good and facts.error_frame,
        ],
        ExchangeOutcome.HANDLER_FAILED: [
            cause is Cause.HANDLER_RAISED and not facts.begun
        ],
        ExchangeOutcome.UPSTREAM_FAILED: [
            upstream and not good,
            free and answer is Answer.FAILING,
        ],
        ExchangeOutcome.SILENT_EMPTY: [
            upstream and good and not facts.error_frame and clean,
            free
            and good
            and not facts.error_frame
            and facts.ended
            and sse
            and facts.terminal
            and not facts.chunks
            and not facts.upstream_cancelled,
        ],
        ExchangeOutcome.REJECTED: [
            free and answer is Answer.REFUSING and not facts.upstream_cancelled
        ],
        ExchangeOutcome.NO_TERMINAL: [
            free
            and good
            and not facts.error_frame
            and facts.ended
            and sse
            and not facts.terminal
            and not facts.upstream_cancelled,
            free
            and good
            and not facts.error_frame
            and facts.ended
            and not sse
            and facts.unreadable
            and not facts.upstream_cancelled,
        ],
        ExchangeOutcome.OK: [
            free
            and good
            and not facts.error_frame
            and facts.ended
            and (facts.terminal and facts.chunks if sse else not facts.unreadable)
        ],
    }
    return [outcome for outcome, fits in rows.items() for fit in fits if fit]


def test_every_combination_of_facts_fits_exactly_one_row() -> None:
    """Over the whole space of facts the table gives one outcome, the decided one."""
    count = 0

    for facts in every_fact():
        (row,) = rows_that_fit(facts)
        trouble_free = row in {ExchangeOutcome.OK, ExchangeOutcome.REJECTED}
        stopped = facts.stopped and not trouble_free
        expected = ExchangeOutcome.CLEAN_STOP if stopped else row
        count += 1

        assert decide(facts) is expected, facts

    assert count == len(Cause) * len(Answer) * 2**9


def test_every_outcome_can_occur() -> None:
    """No outcome of the contract is dead."""
    assert {decide(facts) for facts in every_fact()} == set(ExchangeOutcome)


def test_a_clean_stop_beats_tail_noise() -> None:
    """A rollout that had stopped before the trouble gets no error from any facts."""
    stopped = [decide(facts) for facts in every_fact() if facts.stopped]

    assert not any(map(is_error, stopped))


def test_a_cancelled_exchange_is_never_an_error() -> None:
    """Whatever else happened, a first cause of cancellation makes no error."""
    outcomes = {
        decide(facts) for facts in every_fact() if facts.cause is Cause.CANCELLED
    }

    assert not any(map(is_error, outcomes))


def test_the_class_set_early_is_the_class_of_the_outcome() -> None:
    """What a failing cause puts on the state early, the final outcome confirms."""
    harmless = {Cause.NONE, Cause.CANCELLED, Cause.AGENT_LEFT}

    for facts in every_fact():
        outcome = decide(facts._replace(stopped=False))
        if facts.cause not in harmless:
            early = error_class_so_far(facts.cause, facts.answer, begun=facts.begun)

            assert early is error_class(outcome), facts


@pytest.mark.parametrize(
    ("outcome", "expected"),
    [
        (ExchangeOutcome.OK, None),
        (ExchangeOutcome.UPSTREAM_FAILED, InterceptionError),
        (ExchangeOutcome.SILENT_EMPTY, StreamInterrupted),
        (ExchangeOutcome.CUT, StreamInterrupted),
        (ExchangeOutcome.ERROR_FRAME, StreamInterrupted),
        (ExchangeOutcome.NO_TERMINAL, StreamInterrupted),
        (ExchangeOutcome.HANDLER_FAILED, InterceptionError),
        (ExchangeOutcome.AGENT_GONE, None),
        (ExchangeOutcome.CANCELLED, None),
        (ExchangeOutcome.CLEAN_STOP, None),
        (ExchangeOutcome.REJECTED, None),
    ],
)
def test_state_error_and_span_status_follow_the_outcome(
    outcome: ExchangeOutcome, expected: type[Exception] | None
) -> None:
    """Each outcome has the state error of the contract, and is an error iff it has."""
    assert error_class(outcome) is expected
    assert is_error(outcome) is (expected is not None)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (200, Answer.GOOD),
        (304, Answer.GOOD),
        (400, Answer.REFUSING),
        (401, Answer.REFUSING),
        (404, Answer.REFUSING),
        (413, Answer.REFUSING),
        (499, Answer.REFUSING),
        (429, Answer.FAILING),
        (500, Answer.FAILING),
        (503, Answer.FAILING),
        (529, Answer.FAILING),
    ],
)
def test_429_counts_as_a_failing_upstream(status: int, expected: Answer) -> None:
    """A 429 is sorted with the 5xx, every other 4xx is a refusal."""
    assert answer_of(status) is expected


def test_a_plainly_good_answer_is_ok_whatever_else_is_known() -> None:
    """What the exchange does not ask the table for, the table says too."""
    plainly_good = [
        facts
        for facts in every_fact()
        if facts.cause is Cause.NONE
        and facts.answer is Answer.GOOD
        and facts.ended
        and not (facts.event_stream or facts.unreadable or facts.error_frame)
    ]

    assert plainly_good
    assert {decide(facts) for facts in plainly_good} == {ExchangeOutcome.OK}
