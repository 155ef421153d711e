"""Collect the facts of one intercepted request, and hand over one record at its end."""

import time
from asyncio import BaseTransport, Future
from collections.abc import Mapping
from typing import Final, TypeVar

from otel_intercept import failure as failures
from otel_intercept.causes import AgentPresent
from otel_intercept.dialect.answered import response_attributes
from otel_intercept.dialect.requested import request_attributes, request_labels
from otel_intercept.failure import Failure
from otel_intercept.ids import draw_span_id, new_span_id
from otel_intercept.outcome import GOOD, NO_ANSWER, Cause
from otel_intercept.owner import Intake, Owner
from otel_intercept.record import Request, RequestFacts
from otel_intercept.reports import Reports
from otel_intercept.semconv import ExchangeOutcome, Phase
from otel_intercept.shield import confess, shielded
from otel_intercept.sse import Written
from otel_intercept.stream import StreamMeter
from otel_intercept.timings import Timings
from otel_intercept.trouble import CAUSE_OF_PHASE, describe
from otel_intercept.upstream import UNHEARD, UpstreamCall, Watched

W = TypeVar("W", bound=Watched)

_NOTHING: Final = RequestFacts(model=None, stream=False, attributes=())
_STREAM: Final = RequestFacts(model=None, stream=True, attributes=())
_SWITCHED: Final = 101


class Exchange(Reports):
    """One intercepted request and its answer.

    The first group of methods is for handlers; the second, and what `Reports` has, is
    for adapters, which report what they see. Confined to the event loop's thread. No
    method raises, except what `upstream_call` re-raises unchanged.

    Args:
        owner: The rollout that it belongs to.
        request: What is known of the request.
        index: Its place in the rollout, from 0.
        agent_present: Tells whether the agent's connection still stands.
        connection: What it is asked about.
        intake: Takes the record; None if telemetry is off, and there is no use for one.
        timings: Takes a timing in its place, if all goes well; None if none does.
    """

    __slots__ = ("__weakref__", "_handler_done")

    def __init__(
        self,
        owner: Owner,
        request: Request,
        index: int,
        agent_present: AgentPresent,
        connection: BaseTransport | None,
        intake: Intake | None,
        timings: Timings | None = None,
    ) -> None:
        self._start_ns = start_ns = time.time_ns()
        self._epoch_ns = start_ns - time.perf_counter_ns()
        self._owner = owner
        self.request = request
        self.index = index
        try:
            self.span_id = draw_span_id()
        except IndexError:
            self.span_id = new_span_id()
        self._agent_present = agent_present
        self._connection = connection
        self._answer = NO_ANSWER
        self._asked = _NOTHING
        self._ended = False
        self._handler_done = False
        self._intake = intake
        self._head = None
        self._meter = None
        self._outcome = None
        self._outlives_agent = False
        self._pending = ()
        self._response = ()
        self._status = None
        self._timings = timings
        self._trouble = None
        self._waits = ()

    @property
    def rollout(self) -> Owner:
        """The rollout that this exchange belongs to."""
        return self._owner

    @property
    def outcome(self) -> ExchangeOutcome | None:
        """How it ended; None while it runs."""
        return self._outcome

    @property
    def failure(self) -> Failure | None:
        """The first failure, or None; after the end only if the outcome is an error."""
        self.hear_upstream()
        return None if self._trouble is None else self._trouble.failure

    @property
    def stream(self) -> StreamMeter | None:
        """What measures the body, once it is known to be an event stream."""
        return self._meter

    def watch(self, future: W) -> W:
        """Learn the upstream's result from a future, whatever the handler does with it.

        The wait is timed from now on. A failed future is marked as retrieved, so that
        asyncio does not print its text. A cancelled future is never an error. A future
        that fails after the exchange has ended makes a failure span of its own.

        Without telemetry the end of an exchange's only future is not told but looked
        up, at the latest when the handler goes on. What the host has set on the state
        by then, and whether the agent has left, counts as having come first.

        Args:
            future: What ends with the upstream's answer: any future or task.

        Returns:
            The same future.
        """
        try:
            pending = self._pending
            if (
                self._intake is None
                and not (pending or self._trouble or self._status)
                # Whatever else it may be is treated as with telemetry.
                and isinstance(future, Future)
            ):
                self._pending = ((future, UNHEARD),)
                return future
            if pending:
                self._hear()
                pending = self._pending
            future.add_done_callback(self._future_ended)
            watch = (future, time.perf_counter_ns())
            self._pending = (*pending, watch) if pending else (watch,)
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("Exchange.watch")
        return future

    def upstream_call(self) -> "UpstreamCall":
        """Time an upstream call made inside a ``with`` block, and see how it fails.

        Everything that the block raises is re-raised unchanged. A later call that
        succeeds, before the answer is through, takes the failure back: it was retried.
        """
        return UpstreamCall(self._call_ended)

    def describe_request(self, body: Mapping[str, object]) -> None:
        """Take the model, the stream flag and the sampling settings of a request.

        Args:
            body: The parsed JSON object. Only allow-listed keys are read, none is kept.
        """
        try:
            if self._timings is not None:
                self._asked = request_labels(body)
            elif self._intake is not None:
                self._asked = request_attributes(body)
            else:
                # The outcome depends on this one; for the rest there is no use.
                self._asked = _STREAM if body.get("stream") is True else _NOTHING
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("Exchange.describe_request")

    def describe_response(self, body: Mapping[str, object]) -> None:
        """Likewise take the model, usage and finish reasons of an answer."""
        try:
            if self._intake is not None:
                self._response = response_attributes(body)
        except Exception:  # noqa: BLE001 - as above
            confess("Exchange.describe_response")

    @shielded
    def fail(self, exc: BaseException, *, phase: Phase) -> None:
        """Report a failure that the handler saw; only the first one counts.

        Args:
            exc: What was raised. It is described here and not kept.
            phase: Where it broke. ``late`` makes a failure span of its own.
        """
        if failures.is_cancellation(exc):
            self.handler_cancelled()
        elif phase is Phase.LATE:
            self._fail_late(exc)
        else:
            self._note(CAUSE_OF_PHASE[phase], describe(self._owner, exc, phase))

    def answer_began(
        self, status: int, *, event_stream: bool, other: bool = False
    ) -> None:
        """Note that the status line and the headers went to the transport.

        Args:
            status: The HTTP status.
            event_stream: Whether the body is an event stream by its headers.
            other: Whether it is neither that nor JSON, nor encoded.
        """
        if self._status is not None:
            return
        try:
            if self._pending:
                self._hear()
            self._begin(
                status, self.request.dialect, event_stream=event_stream, other=other
            )
            if self._trouble is not None:
                self._trouble.answer_began(self._answer)
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("Exchange.answer_began")

    def answer_wrote(self, data: Written) -> None:
        """Note bytes of the body that the transport accepted."""
        meter = self._meter
        try:
            if meter is not None:
                if meter.feed(bytes(data)):
                    self._error_frame_written(meter)
            elif self._head is not None:
                self._read_head(self._head, data)
        except Exception:  # noqa: BLE001 - as above
            confess("Exchange.answer_wrote")

    @shielded
    def error_frame_written(self) -> None:
        """Note what `stream` has said: that an error frame has come."""
        if self._meter is not None:
            self._error_frame_written(self._meter)

    def answer_ended(self) -> None:
        """Note that the body was closed without an error."""
        try:
            if self._meter is None and self._trouble is None:
                self._ended = True
            else:
                self._end()
                if self._trouble is not None:
                    self._trouble.settle(self._answer)
        except Exception:  # noqa: BLE001 - as above
            confess("Exchange.answer_ended")
        if self._handler_done:
            self.finish()

    @shielded
    def write_failed(self, exc: BaseException, *, phase: Phase) -> None:
        """Note that a write raised: no trouble after the terminal, where SDKs leave."""
        if self._outcome is not None or failures.is_cancellation(exc):
            return
        self._hear()
        trouble = self._find_trouble()
        trouble.write_error = exc
        if self._has_terminal:
            self._end()
        elif self._outlives_agent or (self._handler_done and not self.answer_begun):
            teardown = trouble.upstream_cancelled and self._is_agent_present()
            self._note(Cause.CANCELLED if teardown else Cause.AGENT_LEFT)
        else:
            self._note(Cause.WRITE_FAILED, describe(self._owner, exc, phase))
        if self._handler_done:
            self.finish()

    def returns_plainly(self) -> bool:
        """Note that the handler is through, if no answer and no trouble has begun.

        Returns:
            False where one has: nothing is noted then.
        """
        if self._trouble is None and self._answer is NO_ANSWER and not self._ended:
            self._handler_done = True
            return True
        return False

    def answers_whole(self, status: int) -> None:
        """Note what `answer_began` does of a body that comes whole, and is JSON."""
        if self._pending:
            self._look_upstream()
        if self._trouble is None and status < 400:
            self._status = status
            self._answer = GOOD
        else:
            self.answer_began(status, event_stream=False)

    def handler_returned(self) -> None:
        """Note that the handler is through; the body may still have to be written.

        After a 101 there is none: what goes on is over with the handler.
        """
        self._handler_done = True
        over = self._ended = self._ended or self._status == _SWITCHED
        try:
            trouble = self._trouble
            if trouble is not None:
                if self.answer_begun:
                    trouble.settle(self._answer)
                over = over or trouble.cause is Cause.WRITE_FAILED
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("Exchange.handler_returned")
        if over:
            self.finish()

    @shielded
    def handler_raised(self, exc: BaseException) -> None:
        """Note that an exception escaped from the handler.

        After a body that ended cleanly it is no trouble: the agent has its answer.
        """
        if not self._ended:
            failure = describe(self._owner, exc, Phase.HANDLER)
            self._note(Cause.HANDLER_RAISED, failure)

    @shielded
    def handler_cancelled(self) -> None:
        """Note that the handler was cancelled: by teardown, or as the agent left.

        After the whole answer it is no trouble, nor after the terminal, where SDKs
        leave; but teardown may write a terminal too.
        """
        if self._has_terminal and not self._owner.closed:
            self._end()
        elif not self._ended:
            teardown = self._owner.closed or self._is_agent_present()
            self._note(Cause.CANCELLED if teardown else Cause.AGENT_LEFT)

    @shielded
    def handler_interrupted(self) -> None:
        """Note that the handler was cancelled, and another may answer in its place.

        A 5xx then tells of a deadline; no answer, or a 4xx, of nothing that failed.
        """
        self._find_trouble().upstream_cancelled = True
        self.handler_returned()

    @shielded
    def rollout_closes(self) -> None:
        """Make what is certain count for the rollout while it is open."""
        self._hear()
        if self._has_terminal:
            self._conclude(ended=True)
        if self._trouble is not None:
            self._trouble.settle(self._answer)
