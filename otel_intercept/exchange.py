"""Collect the facts of one intercepted request, and hand over one record at its end."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from otel_intercept import failure as failures
from otel_intercept.delivery import Delivery
from otel_intercept.dialect import genai
from otel_intercept.failure import Failure
from otel_intercept.ids import new_span_id
from otel_intercept.outcome import Cause, Facts, decide
from otel_intercept.owner import Owner
from otel_intercept.record import Attributes, ExchangeEnded, Request
from otel_intercept.reports import Reports
from otel_intercept.semconv import ExchangeOutcome, Phase
from otel_intercept.shield import shielded
from otel_intercept.trouble import CAUSE_OF_PHASE, describe, fail_separately

if TYPE_CHECKING:
    import asyncio

    from otel_intercept.upstream import UpstreamCall

T = TypeVar("T")


_TAIL_NOISE_AFTER: Final = frozenset(
    {ExchangeOutcome.CANCELLED, ExchangeOutcome.CLEAN_STOP}
)


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
    """

    __slots__ = (
        "__weakref__",
        "_agent_present",
        "_asked",
        "_delivery",
        "_handler_done",
        "_outcome",
        "_owner",
        "_response_attributes",
        "_upstream_cancelled",
        "_write_error",
        "index",
        "request",
        "span_id",
    )

    def __init__(
        self,
        owner: Owner,
        request: Request,
        *,
        index: int,
        agent_present: Callable[[], bool],
    ) -> None:
        super().__init__(owner)
        self._owner = owner
        self.request = request
        self.index = index
        self.span_id = new_span_id()
        self._agent_present = agent_present
        self._delivery = Delivery(request.dialect, self._clock.start)
        self._write_error: BaseException | None = None
        self._asked = genai.RequestFacts(model=None, stream=False, attributes=())
        self._handler_done = False
        self._outcome: ExchangeOutcome | None = None
        self._response_attributes: Attributes = ()
        self._upstream_cancelled = False

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
        return self._trouble.failure

    @property
    def answer_begun(self) -> bool:
        """Whether the status line went to the transport."""
        return self._delivery.begun

    def watch(self, future: "asyncio.Future[T]") -> "asyncio.Future[T]":
        """Learn the upstream's result from a future, whatever the handler does with it.

        The wait is timed from now on. A failed future is marked as retrieved, so that
        asyncio does not print its text. A cancelled future is never an error. A future
        that fails after the exchange has ended makes a failure span of its own.

        Args:
            future: Any future or task that ends with the upstream's answer.

        Returns:
            The same future.
        """
        self._upstream.watch(future)
        return future

    def upstream_call(self) -> "UpstreamCall":
        """Time an upstream call made inside a ``with`` block, and see how it fails.

        Everything that the block raises is re-raised unchanged. A later call that
        succeeds, before the answer is through, takes the failure back: it was retried.
        """
        return self._upstream.call()

    @shielded
    def describe_request(self, body: Mapping[str, object]) -> None:
        """Take the model, the stream flag and the sampling settings of a request.

        Args:
            body: The parsed JSON object. Only allow-listed keys are read, none is kept.
        """
        self._asked = genai.request_attributes(body)

    @shielded
    def describe_response(self, body: Mapping[str, object]) -> None:
        """Likewise take the model, usage and finish reasons of an answer."""
        self._response_attributes = genai.response_attributes(body)

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

    @shielded
    def answer_began(
        self, status: int, *, event_stream: bool, other: bool = False
    ) -> None:
        """Note that the status line and the headers went to the transport.

        Args:
            status: The HTTP status.
            event_stream: Whether the body is an event stream by its headers.
            other: Whether it is neither that nor JSON, nor encoded.
        """
        if self._delivery.begun:
            return
        self._upstream.look()
        self._delivery.begin(status, event_stream=event_stream, other=other)
        self._trouble.answer_began(self._delivery.answer)

    @shielded
    def answer_wrote(self, data: bytes | bytearray | memoryview) -> None:
        """Note bytes of the body that the transport accepted."""
        self._delivery.write(data)
        error = self._delivery.error
        if error is not None and self._trouble.cause is Cause.NONE:
            key = self._owner.fingerprint_key
            self._note(Cause.ERROR_FRAME, failures.from_error_frame(*error, key=key))

    @shielded
    def answer_ended(self) -> None:
        """Note that the body was closed without an error."""
        self._delivery.end()
        self._trouble.settle(self._delivery.answer)
        if self._handler_done:
            self.finish()

    @shielded
    def write_failed(self, exc: BaseException, *, phase: Phase) -> None:
        """Note that a write raised: no trouble after the terminal, where SDKs leave."""
        if self._outcome is not None or failures.is_cancellation(exc):
            return
        self._write_error = exc
        if self._delivery.has_terminal:
            self._delivery.end()
        elif self._outlives_agent or (self._handler_done and not self._delivery.begun):
            teardown = self._upstream_cancelled and self._agent_present()
            self._note(Cause.CANCELLED if teardown else Cause.AGENT_LEFT)
        else:
            self._note(Cause.WRITE_FAILED, describe(self._owner, exc, phase))
        if self._handler_done:
            self.finish()

    @shielded
    def handler_returned(self) -> None:
        """Note that the handler is through; the body may still have to be written."""
        self._handler_done = True
        if self._delivery.begun:
            self._trouble.settle(self._delivery.answer)
        if self._delivery.ended or self._trouble.cause is Cause.WRITE_FAILED:
            self.finish()

    @shielded
    def handler_raised(self, exc: BaseException) -> None:
        """Note that an exception escaped from the handler.

        After a body that ended cleanly it is no trouble: the agent has its answer.
        """
        if not self._delivery.ended:
            failure = describe(self._owner, exc, Phase.HANDLER)
            self._note(Cause.HANDLER_RAISED, failure)

    @shielded
    def handler_cancelled(self) -> None:
        """Note that the handler was cancelled: by teardown, or as the agent left."""
        teardown = self._owner.closed or self._agent_present()
        self._note(Cause.CANCELLED if teardown else Cause.AGENT_LEFT)

    @shielded
    def rollout_closes(self) -> None:
        """Make what is certain count for the rollout while it is open."""
        self._upstream.look()
        if self._delivery.has_terminal:
            self._conclude(ended=True)
        self._trouble.settle(self._delivery.answer)

    @shielded
    def finish(self) -> None:
        """Decide the outcome and hand over the record. Idempotent."""
        if self._outcome is not None:
            return
        self._upstream.look()
        self._upstream.let_go()
        self._write_error = None
        self._outcome = self._conclude(ended=self._delivery.ended)
        self._owner.emit(self._record(self._outcome), begun=True)
        self._owner.exchange_ended(self)

    def _conclude(self, *, ended: bool) -> ExchangeOutcome:
        trouble, delivery = self._trouble, self._delivery
        body = delivery.body_facts(stream_asked=self._asked.stream)
        if trouble.cause is Cause.NONE:
            trouble.stopped = self._owner.stopped
        outcome = decide(
            Facts(
                trouble.cause,
                trouble.begun,
                delivery.answer,
                *body,
                ended=ended,
                upstream_cancelled=self._upstream_cancelled,
                stopped=trouble.stopped,
            )
        )
        trouble.conclude(
            outcome, delivery.answer, delivery.status, unreadable=body.unreadable
        )
        return outcome

    @property
    def _streamed(self) -> bool:
        return self._delivery.is_event_stream or self._asked.stream

    def _note(
        self, cause: Cause, failure: Failure | None = None, *, final: bool = True
    ) -> None:
        self._upstream.look()
        if self._outcome is None:
            self._trouble.note(cause, failure, self._delivery.answer, final=final)

    @shielded
    def _upstream_ended(
        self, started: int, exc: BaseException | None, phase: Phase
    ) -> None:
        failed: Failure | None = None
        if exc is None:
            self._trouble.recover()
        elif exc is self._write_error:
            pass  # the agent's failure, on its way through the upstream's block
        elif failures.is_cancellation(exc):
            self._upstream_was_cancelled()
        elif self._outcome is None:
            failed = describe(self._owner, exc, phase)
            self._upstream_failed(failed, final=phase is not Phase.UPSTREAM_CALL)
        else:
            self._fail_late(exc)
        if self._outcome is None:
            self._upstream.waited(started, failed)

    def _upstream_failed(self, failure: Failure, *, final: bool) -> None:
        if self._trouble.cause in {Cause.WRITE_FAILED, Cause.AGENT_LEFT}:
            fail_separately(self._owner, failure, self.span_id, streamed=self._streamed)
        else:
            self._note(Cause.UPSTREAM_FAILED, failure, final=final)

    def _upstream_was_cancelled(self) -> None:
        # A handler's own deadline cancels the future too; only teardown and a lost
        # agent are certain causes.
        self._upstream_cancelled = True
        if self._owner.closed:
            self._note(Cause.CANCELLED)
        elif not self._agent_present():
            self._note(Cause.AGENT_LEFT)

    def _fail_late(self, exc: BaseException) -> None:
        if self._outcome not in _TAIL_NOISE_AFTER:
            failure = describe(self._owner, exc, Phase.LATE)
            fail_separately(self._owner, failure, self.span_id, streamed=self._streamed)

    def _record(self, outcome: ExchangeOutcome) -> ExchangeEnded:
        request, delivery = self.request, self._delivery
        return ExchangeEnded(
            rollout=self._owner.ref,
            span_id=self.span_id,
            exchange_index=self.index,
            start_ns=self._clock.start_ns,
            end_ns=self._clock.now_ns(),
            method=request.method,
            route=request.route,
            scheme=request.scheme,
            dialect=request.dialect,
            stream=self._streamed,
            status=delivery.status,
            outcome=outcome,
            failure=self._trouble.failure,
            failure_ns=self._trouble.failure_ns,
            retry_count=request.retry_count,
            link=request.link,
            facts=delivery.stream_facts(),
            model=self._asked.model,
            request=self._asked.attributes,
            response=self._response_attributes or delivery.response_attributes(),
            waits=self._upstream.waits,
            replayed=self._trouble.replayed,
        )
