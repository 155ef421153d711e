"""Races of writer, upstream, handler, stop, unregister and shutdown, in any order."""

import asyncio
import contextlib
from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_intercept import (
    Exchange,
    ExchangeOutcome,
    InterceptionError,
    Phase,
    RolloutOutcome,
    RolloutRegistry,
    StreamInterrupted,
    Telemetry,
)
from otel_intercept.record import Request
from otel_intercept.semconv import EXCHANGE_OUTCOME, Dialect
from otel_intercept.settings import Settings

O = ExchangeOutcome  # noqa: E741 - the model below is a table
ERRORS = {
    O.UPSTREAM_FAILED: InterceptionError,
    O.HANDLER_FAILED: InterceptionError,
    O.SILENT_EMPTY: StreamInterrupted,
    O.CUT: StreamInterrupted,
    O.ERROR_FRAME: StreamInterrupted,
    O.NO_TERMINAL: StreamInterrupted,
}
REQUEST = Request(
    "POST", "/r/{id}/v1/chat/completions", "http", Dialect.CHAT_COMPLETIONS
)
CHUNK = b'data: {"choices": []}\n\n'
DONE = b"data: [DONE]\n\n"
FRAME = b'data: {"error": {"type": "overloaded_error"}}\n\n'


@dataclass(eq=False)
class Modelled:
    """One exchange beside the plain facts that a reader would note down."""

    exchange: Exchange
    future: "asyncio.Future[object]"
    present: bool = True
    cause: str | None = None
    begun_at_cause: bool = False
    stopped_at_cause: bool = False
    status: int | None = None
    sse: bool = False
    chunks: bool = False
    done: bool = False
    frame: bool = False
    ended: bool = False
    cancelled_call: bool = False
    handler_done: bool = False
    outcome: ExchangeOutcome | None = None
    counted: bool = False
    final: bool = True

    def note(self, cause: str, *, stopped: bool) -> None:
        if self.cause is None and self.outcome is None:
            self.cause = cause
            self.begun_at_cause = self.status is not None
            self.stopped_at_cause = stopped

    def decide(self, *, stopped: bool) -> ExchangeOutcome:
        raw = self._raw()
        late_stop = stopped if self.cause is None else self.stopped_at_cause
        return O.CLEAN_STOP if late_stop and raw not in {O.OK, O.REJECTED} else raw

    def _raw(self) -> ExchangeOutcome:
        good = self.status is not None and self.status < 400
        simple = {
            "cancel": O.CANCELLED,
            "left": O.AGENT_GONE,
            "write": O.CUT,
            "frame": O.ERROR_FRAME,
            "handler": O.CUT if self.begun_at_cause else O.HANDLER_FAILED,
        }
        if self.cause in simple:
            return simple[self.cause]
        clean = self.ended and (self.done or not self.sse)
        if self.cause == "upstream":
            if not good:
                return O.UPSTREAM_FAILED
            if self.frame:
                return O.ERROR_FRAME
            return O.SILENT_EMPTY if clean else O.CUT
        if self.status is None:
            return O.CANCELLED
        if self.status in {429, 500}:
            return O.UPSTREAM_FAILED
        excuse = O.CANCELLED if self.cancelled_call else None
        if not good:
            return excuse or O.REJECTED
        if not self.ended:
            return excuse or O.CUT
        if self.sse and not self.done:
            return excuse or O.NO_TERMINAL
        if self.sse and not self.chunks:
            return excuse or O.SILENT_EMPTY
        return O.OK


class Races(RuleBasedStateMachine):
    """Whatever happens in whatever order, an exchange ends once, as the model says."""

    exchanges: Bundle[Modelled] = Bundle("exchanges")

    @initialize()
    def open_rollout(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.exporter = InMemorySpanExporter()
        self.telemetry = Telemetry(
            span_exporter=self.exporter, settings=Settings(recorder="inline")
        )
        self.registry = RolloutRegistry(self.telemetry)
        self.state: dict[str, object] = {}
        self.rollout = self.registry.open("r", state=self.state)
        self.all: list[Modelled] = []
        self.stopped = False
        self.closed = False
        self.failures = 0

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        self.registry.close_all()
        for modelled in self.all:
            self.settle(modelled)
            assert modelled.exchange.outcome is not None
            if not modelled.future.done():
                modelled.future.cancel()
        self.tick()
        self.telemetry.flush()
        spans = self.exporter.get_finished_spans()
        outcomes = [
            (span.attributes or {}).get(EXCHANGE_OUTCOME)
            for span in spans
            if EXCHANGE_OUTCOME in (span.attributes or {})
        ]
        assert sorted(map(str, outcomes)) == sorted(
            str(modelled.exchange.outcome) for modelled in self.all
        )
        balance = self.telemetry.balance()
        assert balance.open == balance.queued == 0
        assert balance.started == balance.exported
        self.loop.close()

    def tick(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    def settle(self, modelled: Modelled) -> None:
        """Let the model end an exchange that the library has ended."""
        if modelled.outcome is None and modelled.exchange.outcome is not None:
            modelled.outcome = modelled.decide(stopped=self.stopped)
            if modelled.outcome in ERRORS:
                self.count(modelled)

    def count(self, modelled: Modelled) -> None:
        """Count an exchange's failure once, when it is final."""
        if not modelled.counted:
            modelled.counted = True
            self.failures += not modelled.stopped_at_cause

    def noted(self, modelled: Modelled, *, through: bool = False) -> None:
        """A failing cause counts once the answer has begun, or is through."""
        failing = modelled.cause in {"upstream", "frame", "write", "handler"}
        good = modelled.status == 200
        waits = modelled.cause == "upstream" and not modelled.final and good
        begun = modelled.outcome is None and modelled.status is not None
        if begun and failing and (through or not waits):
            self.count(modelled)

    def rollout_closes(self, modelled: Modelled) -> None:
        """What is certain when the rollout closes counts."""
        if modelled.outcome is not None:
            return
        if modelled.cause in {"upstream", "frame", "write", "handler"}:
            self.count(modelled)
        elif modelled.cause is None and modelled.done:
            ended, modelled.ended = modelled.ended, True
            if modelled.decide(stopped=self.stopped) in ERRORS:
                self.count(modelled)
            modelled.ended = ended

    def upstream_failed(self, modelled: Modelled, *, final: bool) -> None:
        if modelled.outcome is None and modelled.cause in {None, "upstream"}:
            if modelled.cause is None:
                modelled.final = final
                modelled.note("upstream", stopped=self.stopped)
                self.noted(modelled)
            return
        if modelled.outcome is None:
            beside = modelled.cause in {"write", "left"}
        else:
            beside = modelled.outcome not in {O.CANCELLED, O.CLEAN_STOP}
        self.failures += beside and not self.stopped

    def upstream_succeeded(self, modelled: Modelled) -> None:
        fresh = modelled.outcome is None and not modelled.counted
        if fresh and modelled.cause == "upstream":
            modelled.cause = None

    @rule(target=exchanges)
    def request(self) -> Modelled:
        modelled_present = [True]
        exchange = self.rollout.start_exchange(
            REQUEST, agent_present=lambda _: modelled_present[0]
        )
        future: asyncio.Future[object] = self.loop.create_future()
        modelled = Modelled(exchange, exchange.watch(future))
        self.presence = getattr(self, "presence", {})
        self.presence[id(modelled)] = modelled_present
        self.all.append(modelled)
        return modelled

    @rule(modelled=exchanges)
    def agent_closes_its_socket(self, modelled: Modelled) -> None:
        modelled.present = False
        self.presence[id(modelled)][0] = False

    @rule(
        modelled=exchanges,
        status=st.sampled_from([200, 404, 429, 500]),
        sse=st.booleans(),
    )
    def begin(self, modelled: Modelled, status: int, sse: bool) -> None:
        if modelled.status is not None or modelled.outcome is not None:
            return
        modelled.status = status
        modelled.sse = sse and status == 200
        modelled.exchange.answer_began(status, event_stream=sse)
        self.noted(modelled)

    @rule(modelled=exchanges, data=st.sampled_from([CHUNK, DONE, FRAME]))
    def write(self, modelled: Modelled, data: bytes) -> None:
        if modelled.status is None or modelled.ended or modelled.outcome is not None:
            return
        modelled.exchange.answer_wrote(data)
        if modelled.sse:
            modelled.chunks |= data is CHUNK
            modelled.done |= data is DONE
            modelled.frame |= data is FRAME
            if data is FRAME:
                modelled.note("frame", stopped=self.stopped)
                self.noted(modelled)

    @rule(modelled=exchanges)
    def write_fails(self, modelled: Modelled) -> None:
        if modelled.ended or modelled.outcome is not None:
            return
        left = modelled.status is None and modelled.handler_done
        if modelled.done:
            modelled.ended = True
        else:
            # A server that stops cancels the call first, and then closes.
            teardown = modelled.cancelled_call and modelled.present
            gone = "cancel" if teardown else "left"
            modelled.note(gone if left else "write", stopped=self.stopped)
            self.noted(modelled)
        modelled.exchange.write_failed(ConnectionResetError(), phase=Phase.CHUNK)
        self.settle(modelled)

    @rule(modelled=exchanges)
    def end_body(self, modelled: Modelled) -> None:
        if modelled.status is None or modelled.ended or modelled.outcome is not None:
            return
        modelled.ended = True
        self.noted(modelled, through=True)
        modelled.exchange.answer_ended()
        self.settle(modelled)

    @rule(modelled=exchanges)
    def handler_returns(self, modelled: Modelled) -> None:
        if modelled.outcome is None and not modelled.handler_done:
            modelled.handler_done = True
            self.noted(modelled, through=True)
            modelled.exchange.handler_returned()
            self.settle(modelled)

    @rule(modelled=exchanges)
    def handler_raises(self, modelled: Modelled) -> None:
        if modelled.outcome is None and not modelled.handler_done:
            if not modelled.ended:
                modelled.note("handler", stopped=self.stopped)
                self.noted(modelled)
            modelled.exchange.handler_raised(ValueError("a secret"))

    @rule(modelled=exchanges)
    def handler_is_cancelled(self, modelled: Modelled) -> None:
        if modelled.outcome is None:
            if modelled.done and not self.closed:
                modelled.ended = True
            elif not modelled.ended:
                teardown = self.closed or modelled.present
                modelled.note("cancel" if teardown else "left", stopped=self.stopped)
            modelled.exchange.handler_cancelled()

    @rule(modelled=exchanges)
    def upstream_answers(self, modelled: Modelled) -> None:
        if not modelled.future.done():
            modelled.future.set_result(None)
            self.tick()
            self.upstream_succeeded(modelled)

    @rule(modelled=exchanges)
    def upstream_fails(self, modelled: Modelled) -> None:
        if not modelled.future.done():
            modelled.future.set_exception(RuntimeError("https://u/?key=secret"))
            self.tick()
            self.upstream_failed(modelled, final=True)

    @rule(modelled=exchanges)
    def upstream_call_fails(self, modelled: Modelled) -> None:
        with contextlib.suppress(TimeoutError), modelled.exchange.upstream_call():
            raise TimeoutError
        self.upstream_failed(modelled, final=False)

    @rule(modelled=exchanges)
    def upstream_call_succeeds(self, modelled: Modelled) -> None:
        with modelled.exchange.upstream_call():
            pass
        self.upstream_succeeded(modelled)

    @rule(modelled=exchanges)
    def upstream_is_cancelled(self, modelled: Modelled) -> None:
        if not modelled.future.done():
            modelled.future.cancel()
            self.tick()
            if modelled.outcome is None:
                modelled.cancelled_call = True
                if self.closed:
                    modelled.note("cancel", stopped=self.stopped)
                elif not (modelled.done or modelled.ended or modelled.present):
                    modelled.note("left", stopped=self.stopped)

    @rule(modelled=consumes(exchanges))
    def finish(self, modelled: Modelled) -> None:
        modelled.exchange.finish()
        self.settle(modelled)
        modelled.exchange.finish()

    @rule()
    def stop(self) -> None:
        self.rollout.stop("done")
        self.stopped = True

    @rule()
    def host_stops(self) -> None:
        self.state["prompt_too_long"] = True
        self.stopped = True

    @rule()
    def unregister(self) -> None:
        if not self.closed:
            for modelled in self.all:
                self.rollout_closes(modelled)
        closed = self.registry.close("r")
        assert (closed is None) is self.closed
        self.closed = True

    @invariant()
    def outcomes_are_those_of_the_model(self) -> None:
        for modelled in getattr(self, "all", []):
            assert modelled.exchange.outcome is modelled.outcome
            if modelled.outcome is not None:
                has_failure = modelled.exchange.failure is not None
                assert has_failure is (modelled.outcome in ERRORS)

    @invariant()
    def the_first_error_stays(self) -> None:
        if not hasattr(self, "rollout"):
            return
        error = self.state.get("error")
        known = getattr(self, "known_error", None)
        if known is not None:
            assert error is known
        self.known_error = error
        assert error is self.rollout.error
        if error is not None:
            assert isinstance(error, InterceptionError | StreamInterrupted)
            assert error.__cause__ is None
            assert error.__context__ is None
            assert error.__traceback__ is None

    @invariant()
    def a_rollout_fails_exactly_when_a_failure_counts(self) -> None:
        if not hasattr(self, "rollout"):
            return
        assert self.rollout.failures == self.failures
        if self.failures == 0:
            assert self.rollout.error is None
        elif not self.closed:
            assert self.rollout.error is not None

    @invariant()
    def a_closed_rollout_has_its_outcome(self) -> None:
        if getattr(self, "closed", False):
            outcome = self.rollout.outcome
            assert outcome in set(RolloutOutcome)
            if outcome is RolloutOutcome.COMPLETED:
                assert not self.state.get("error")


Races.TestCase.settings = settings(
    max_examples=400, stateful_step_count=50, deadline=None
)
TestRaces = Races.TestCase
