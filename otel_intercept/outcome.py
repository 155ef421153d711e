"""Decide how an exchange ended: one pure, total function over the collected facts.

Precedence, written down once:

1. The *first cause in time* decides. Later trouble is usually its consequence.
2. What the agent received then tells the shades of an upstream failure apart.
3. Without any cause, the status and the shape of the body decide.
4. A rollout that had stopped cleanly before the trouble turns every outcome into
   ``clean_stop``, except ``ok`` and ``rejected``, which no trouble led to.

=================  ==================================================  ================
first cause        what the agent got                                  outcome
=================  ==================================================  ================
cancelled          anything                                            cancelled
agent_left         anything                                            agent_gone
write_failed       anything                                            cut
error_frame        anything                                            error_frame
handler_raised     nothing had begun                                   handler_failed
handler_raised     had begun                                           cut
upstream_failed    no answer, or a 4xx or 5xx                          upstream_failed
upstream_failed    2xx with an error frame                             error_frame
upstream_failed    2xx that ended cleanly                              silent_empty
upstream_failed    2xx that did not                                    cut
none               5xx or 429                                          upstream_failed
none               another 4xx                                         rejected
none               nothing at all                                      cancelled
none               2xx that was never ended                            cut
none               event stream without its terminal event             no_terminal
none               no stream and no JSON where a stream was asked for  no_terminal
none               event stream with a terminal event and no chunk     silent_empty
none               2xx                                                 ok
=================  ==================================================  ================

An upstream call that was cancelled is weaker than a cause: it never makes an error, and
it explains ``rejected`` (a 499), ``cut``, ``no_terminal`` and ``silent_empty`` away as
``cancelled``, but not a 5xx, which is how a handler reports its own deadline.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from otel_intercept.errors import InterceptionError, RolloutError, StreamInterrupted
from otel_intercept.semconv import ExchangeOutcome


class Cause(StrEnum):
    """The first thing that went other than planned in an exchange."""

    NONE = "none"
    UPSTREAM_FAILED = "upstream_failed"
    ERROR_FRAME = "error_frame"
    WRITE_FAILED = "write_failed"
    HANDLER_RAISED = "handler_raised"
    AGENT_LEFT = "agent_left"
    CANCELLED = "cancelled"


class Answer(StrEnum):
    """What kind of status line the agent was sent."""

    NONE = "none"
    GOOD = "good"
    REFUSING = "refusing"
    FAILING = "failing"


# Members that are read for every request: on Python 3.11 the class looks each one up
# anew, which costs several function calls.
NO_CAUSE: Final = Cause.NONE
NO_ANSWER: Final = Answer.NONE
GOOD: Final = Answer.GOOD
REFUSING: Final = Answer.REFUSING
FAILING: Final = Answer.FAILING
OK: Final = ExchangeOutcome.OK


class Facts(NamedTuple):
    """What is known of an exchange when it ends.

    Args:
        cause: The first trouble in time.
        begun: Whether the answer had begun when the cause came.
        answer: The status that the agent was sent, if any.
        event_stream: Whether the body was ``text/event-stream``.
        chunks: Whether at least one chunk was written.
        terminal: Whether the dialect's terminal event was written.
        error_frame: Whether an error object was written into the body.
        unreadable: Whether a stream was asked for, and the body is no event stream and
            no JSON: a page of HTML, say.
        ended: Whether the body was closed without an error.
        upstream_cancelled: Whether an upstream call was cancelled.
        stopped: Whether the rollout had stopped cleanly before the trouble.
    """

    cause: Cause
    begun: bool
    answer: Answer
    event_stream: bool
    chunks: bool
    terminal: bool
    error_frame: bool
    unreadable: bool
    ended: bool
    upstream_cancelled: bool
    stopped: bool


_ERROR_CLASSES: Final[dict[ExchangeOutcome, type[RolloutError]]] = {
    ExchangeOutcome.UPSTREAM_FAILED: InterceptionError,
    ExchangeOutcome.HANDLER_FAILED: InterceptionError,
    ExchangeOutcome.SILENT_EMPTY: StreamInterrupted,
    ExchangeOutcome.CUT: StreamInterrupted,
    ExchangeOutcome.ERROR_FRAME: StreamInterrupted,
    ExchangeOutcome.NO_TERMINAL: StreamInterrupted,
}

_TROUBLE_FREE: Final = frozenset({ExchangeOutcome.OK, ExchangeOutcome.REJECTED})

_BY_CAUSE: Final = {
    Cause.CANCELLED: ExchangeOutcome.CANCELLED,
    Cause.AGENT_LEFT: ExchangeOutcome.AGENT_GONE,
    Cause.WRITE_FAILED: ExchangeOutcome.CUT,
    Cause.ERROR_FRAME: ExchangeOutcome.ERROR_FRAME,
}

_EXCUSED_BY_CANCELLATION: Final = frozenset(
    {
        ExchangeOutcome.REJECTED,
        ExchangeOutcome.CUT,
        ExchangeOutcome.NO_TERMINAL,
        ExchangeOutcome.SILENT_EMPTY,
    }
)


def answer_of(status: int) -> Answer:
    """Sort a status; 429 is a failing upstream although it is a 4xx."""
    if status < 400:
        return GOOD
    if status == 429 or status >= 500:
        return FAILING
    return REFUSING


def decide(facts: Facts) -> ExchangeOutcome:
    """Return the one outcome of these facts. Total: never raises."""
    outcome = _decide_running(facts)
    if facts.stopped and outcome not in _TROUBLE_FREE:
        return ExchangeOutcome.CLEAN_STOP
    return outcome


def is_error(outcome: ExchangeOutcome) -> bool:
    """Tell whether the outcome makes the span ERROR and the rollout fail."""
    return outcome in _ERROR_CLASSES


def error_class(outcome: ExchangeOutcome) -> type[RolloutError] | None:
    """Return the class that goes on the rollout's state, or None for no error."""
    return _ERROR_CLASSES.get(outcome)


def error_class_so_far(
    cause: Cause, answer: Answer, *, begun: bool
) -> type[RolloutError]:
    """Return the class that every outcome still possible for a failing cause maps to.

    Lets the rollout fail as soon as the answer has begun, before the exchange ends.
    """
    if cause is Cause.HANDLER_RAISED:
        return StreamInterrupted if begun else InterceptionError
    if answer is Answer.GOOD or cause in {Cause.WRITE_FAILED, Cause.ERROR_FRAME}:
        return StreamInterrupted
    return InterceptionError


def _decide_running(facts: Facts) -> ExchangeOutcome:
    decided = _BY_CAUSE.get(facts.cause)
    if decided is not None:
        return decided
    if facts.cause is Cause.HANDLER_RAISED:
        return ExchangeOutcome.CUT if facts.begun else ExchangeOutcome.HANDLER_FAILED
    if facts.cause is Cause.UPSTREAM_FAILED:
        return _decide_upstream_failed(facts)
    outcome = _decide_by_answer(facts)
    if facts.upstream_cancelled and outcome in _EXCUSED_BY_CANCELLATION:
        return ExchangeOutcome.CANCELLED
    return outcome


def _decide_upstream_failed(facts: Facts) -> ExchangeOutcome:
    if facts.answer is not Answer.GOOD:
        return ExchangeOutcome.UPSTREAM_FAILED
    if facts.error_frame:
        return ExchangeOutcome.ERROR_FRAME
    if facts.ended and (facts.terminal or not facts.event_stream):
        return ExchangeOutcome.SILENT_EMPTY
    return ExchangeOutcome.CUT


def _decide_by_answer(facts: Facts) -> ExchangeOutcome:
    if facts.answer is Answer.NONE:
        return ExchangeOutcome.CANCELLED
    if facts.answer is Answer.FAILING:
        return ExchangeOutcome.UPSTREAM_FAILED
    if facts.answer is Answer.REFUSING:
        return ExchangeOutcome.REJECTED
    if facts.error_frame:
        return ExchangeOutcome.ERROR_FRAME
    if not facts.ended:
        return ExchangeOutcome.CUT
    if not facts.event_stream:
        return _decide_whole(facts)
    if not facts.terminal:
        return ExchangeOutcome.NO_TERMINAL
    return ExchangeOutcome.OK if facts.chunks else ExchangeOutcome.SILENT_EMPTY


def _decide_whole(facts: Facts) -> ExchangeOutcome:
    return ExchangeOutcome.NO_TERMINAL if facts.unreadable else ExchangeOutcome.OK
