"""Without telemetry, what exchanges and rollouts say is what they say with it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from otel_intercept import Exchange, Phase, Rollout, RolloutRegistry, Telemetry
from otel_intercept.record import Request
from otel_intercept.semconv import Dialect
from otel_intercept.settings import Settings
from otel_intercept.upstream import UpstreamCall

KEY = bytes(16)
REQUEST = Request("POST", "/r/{id}", "http", Dialect.CHAT_COMPLETIONS)
CHUNK = b'data: {"choices": []}\n\n'
DONE = b"data: [DONE]\n\n"
FRAME = b'data: {"error": {"type": "overloaded_error"}}\n\n'
MOST = 3

Future = asyncio.Future[None]
Raised = Callable[[], BaseException]

RAISED: list[Raised] = [
    TimeoutError,
    ConnectionRefusedError,
    lambda: ValueError("a secret"),
    asyncio.CancelledError,
]
PLACES = st.integers(0, MOST - 1)


@dataclass
class World:
    """All that happens, with telemetry or without."""

    loop: asyncio.AbstractEventLoop
    registry: RolloutRegistry
    state: dict[str, object] = field(default_factory=dict)
    exchanges: list[Exchange] = field(default_factory=list)
    futures: list[Future] = field(default_factory=list)
    calls: list[UpstreamCall] = field(default_factory=list)
    is_there: bool = True

    def __post_init__(self) -> None:
        self.rollout: Rollout = self.registry.open("r", state=self.state)

    def start(self) -> None:
        """Start an exchange."""
        exchange = self.rollout.start_exchange(REQUEST, lambda _: self.is_there)
        self.exchanges.append(exchange)

    def told(self) -> list[object]:
        """Return all that can be seen of it without asking about an upstream call."""
        rollout = self.rollout
        return [
            [exchange.outcome for exchange in self.exchanges],
            [exchange.answer_begun for exchange in self.exchanges],
            _described(rollout.error),
            _described(self.state.get("error")),
            rollout.failures,
            rollout.running,
            rollout.outcome,
        ]

    def asked(self) -> list[object]:
        """Return what is seen by who asks."""
        return [(one.failure, one.called_upstream) for one in self.exchanges]


def _described(error: object) -> object:
    if error is None:
        return None
    return type(error), getattr(error, "failure", None)


class Twins(RuleBasedStateMachine):
    """Two worlds in which the same happens: one has telemetry, the other has none."""

    @initialize()
    def open_both(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.printed: list[object] = []
        self.loop.set_exception_handler(lambda _, context: self.printed.append(context))
        settled = Settings(recorder="inline", fingerprint_key=KEY)
        with_telemetry = Telemetry(
            span_exporter=InMemorySpanExporter(), settings=settled
        )
        without = Telemetry(settings=settled)
        assert with_telemetry.intake is not None
        assert without.intake is None
        self.telemetry = with_telemetry
        self.worlds = [
            World(self.loop, RolloutRegistry(one)) for one in (with_telemetry, without)
        ]
        self.each(World.start)

    def teardown(self) -> None:
        if not hasattr(self, "worlds"):
            return
        try:
            self.end_all()
        finally:
            self.worlds.clear()
            self.telemetry.shutdown()
            self.loop.close()

    def end_all(self) -> None:
        """End exchanges, then futures; what fails late counts the same too."""
        for world in self.worlds:
            for exchange in world.exchanges:
                exchange.finish()
        self.compare(World.asked)
        for world in self.worlds:
            for future in world.futures:
                if not future.done():
                    future.set_exception(TimeoutError("late"))
        self.tick(3)
        self.compare(World.told)
        self.compare(World.asked)
        self.worlds.clear()
        assert self.printed == []

    def each(self, do: Callable[[World], object]) -> None:
        for world in self.worlds:
            do(world)

    def compare(self, see: Callable[[World], object]) -> None:
        with_telemetry, without = map(see, self.worlds)
        assert without == with_telemetry

    def at(self, place: int, do: Callable[[Exchange], object]) -> None:
        for world in self.worlds:
            do(world.exchanges[place % len(world.exchanges)])

    def running(self, place: int, do: Callable[[Exchange], object]) -> None:
        """Do something with an exchange that has not ended."""
        for world in self.worlds:
            exchange = world.exchanges[place % len(world.exchanges)]
            if exchange.outcome is None:
                do(exchange)

    def begun(self, place: int, do: Callable[[Exchange], object]) -> None:
        """Do something with an exchange that has begun its answer, and not ended."""
        for world in self.worlds:
            exchange = world.exchanges[place % len(world.exchanges)]
            if exchange.outcome is None and exchange.answer_begun:
                do(exchange)

    def tick(self, turns: int) -> None:
        for _ in range(turns):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule(turns=st.integers(1, 3))
    def turn(self, turns: int) -> None:
        self.tick(turns)

    @precondition(lambda self: len(self.worlds[0].exchanges) < MOST)
    @rule()
    def request(self) -> None:
        self.each(World.start)

    @rule(place=PLACES)
    def watch(self, place: int) -> None:
        for world in self.worlds:
            future: Future = self.loop.create_future()
            world.futures.append(future)
            exchange = world.exchanges[place % len(world.exchanges)]
            assert exchange.watch(future) is future

    @precondition(lambda self: self.worlds[0].futures)
    @rule(place=PLACES, which=st.integers(0, 3))
    def watch_again(self, place: int, which: int) -> None:
        """Watch one that another exchange may watch, or that may have ended."""
        for world in self.worlds:
            future = world.futures[-1 - which % len(world.futures)]
            _ = world.exchanges[place % len(world.exchanges)].watch(future)

    @precondition(lambda self: self.worlds[0].futures)
    @rule(which=st.integers(0, 3), raised=st.sampled_from([None, *RAISED]))
    def future_ends(self, which: int, raised: Raised | None) -> None:
        for world in self.worlds:
            future = world.futures[-1 - which % len(world.futures)]
            if future.done():
                continue
            exc = None if raised is None else raised()
            if exc is None:
                future.set_result(None)
            elif isinstance(exc, asyncio.CancelledError):
                future.cancel()
            else:
                future.set_exception(exc)

    @rule(place=PLACES)
    def call_begins(self, place: int) -> None:
        for world in self.worlds:
            call = world.exchanges[place % len(world.exchanges)].upstream_call()
            call.__enter__()
            world.calls.append(call)

    @precondition(lambda self: self.worlds[0].calls)
    @rule(raised=st.sampled_from([None, *RAISED]))
    def call_ends(self, raised: Raised | None) -> None:
        for world in self.worlds:
            exc = None if raised is None else raised()
            kind = None if exc is None else type(exc)
            world.calls.pop().__exit__(kind, exc, None)

    @rule(place=PLACES, raised=st.sampled_from([None, *RAISED]))
    def call_is_reported(self, place: int, raised: Raised | None) -> None:
        exc = None if raised is None else raised()
        self.at(place, lambda exchange: exchange.upstream_called(1, exc))

    @rule(place=PLACES, raised=st.sampled_from(RAISED), phase=st.sampled_from([*Phase]))
    def failure_is_reported(self, place: int, raised: Raised, phase: Phase) -> None:
        self.at(place, lambda exchange: exchange.fail(raised(), phase=phase))

    @rule(place=PLACES, stream=st.booleans())
    def describe(self, place: int, stream: bool) -> None:
        self.at(place, lambda one: one.describe_request({"stream": stream}))

    @rule(
        place=PLACES,
        status=st.sampled_from([101, 200, 404, 429, 500]),
        event_stream=st.booleans(),
        other=st.booleans(),
    )
    def begin(self, place: int, status: int, event_stream: bool, other: bool) -> None:
        self.running(
            place,
            lambda one: one.answer_began(
                status, event_stream=event_stream, other=other
            ),
        )

    @rule(place=PLACES, data=st.sampled_from([CHUNK, DONE, FRAME, b"<html>"]))
    def write(self, place: int, data: bytes) -> None:
        self.begun(place, lambda one: one.answer_wrote(data))

    @rule(place=PLACES)
    def write_fails(self, place: int) -> None:
        lost = ConnectionResetError()
        self.running(place, lambda one: one.write_failed(lost, phase=Phase.CHUNK))

    @rule(place=PLACES)
    def body_ends(self, place: int) -> None:
        self.begun(place, Exchange.answer_ended)

    @rule(place=PLACES, status=st.sampled_from([200, 404, 500]))
    def answer_whole(self, place: int, status: int) -> None:
        """Answer as the middleware does: at once only where nothing is known to fail.

        With telemetry that is known sooner, and the long way is taken.
        """
        for world in self.worlds:
            exchange = world.exchanges[place % len(world.exchanges)]
            if exchange.outcome is not None or exchange.answer_begun:
                continue
            if exchange.returns_plainly():
                exchange.answers_whole(status)
                exchange.answer_ended()
            else:
                exchange.handler_returned()
                exchange.answer_began(status, event_stream=False)
                exchange.answer_ended()

    @rule(place=PLACES)
    def handler_returns(self, place: int) -> None:
        self.running(place, Exchange.handler_returned)

    @rule(place=PLACES)
    def handler_raises(self, place: int) -> None:
        self.running(place, lambda one: one.handler_raised(ValueError("a secret")))

    @rule(place=PLACES)
    def handler_is_cancelled(self, place: int) -> None:
        self.running(place, Exchange.handler_cancelled)

    @rule(place=PLACES)
    def handler_is_interrupted(self, place: int) -> None:
        self.running(place, Exchange.handler_interrupted)

    @rule(place=PLACES)
    def replay(self, place: int) -> None:
        self.at(place, Exchange.replays)

    @rule(place=PLACES)
    def outlive_agent(self, place: int) -> None:
        self.at(place, Exchange.outlives_agent)

    @rule(place=PLACES)
    def finish(self, place: int) -> None:
        self.at(place, Exchange.finish)

    @rule()
    def stop(self) -> None:
        self.each(lambda world: world.rollout.stop("done"))

    @rule(raised=st.sampled_from(RAISED), phase=st.sampled_from([*Phase]))
    def rollout_fails(self, raised: Raised, phase: Phase) -> None:
        self.each(lambda world: world.rollout.fail(raised(), phase=phase))

    @rule()
    def close(self) -> None:
        self.each(lambda world: world.registry.close("r"))

    @rule()
    def shut_down(self) -> None:
        self.each(lambda world: world.registry.close_all())

    @rule(happens=st.sampled_from(["stop", "fail", "leave", "come back"]))
    def nobody_says(self, happens: str) -> None:
        """Change what exchanges ask for and are not told: all else came before."""
        self.ask()
        for world in self.worlds:
            match happens:
                case "stop":
                    world.state["prompt_too_long"] = True
                case "fail":
                    world.state["error"] = ValueError()
                case _:
                    world.is_there = happens != "leave"

    @rule()
    def ask(self) -> None:
        self.compare(World.asked)

    @invariant()
    def they_say_the_same(self) -> None:
        if hasattr(self, "worlds"):
            self.compare(World.told)


Twins.TestCase.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None
)
TestTwins = Twins.TestCase
