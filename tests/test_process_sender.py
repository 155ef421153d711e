"""What is said of exchanges on the hot path is what the helper takes them for."""

import contextlib
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from otel_intercept.process.framing import FrameReader, Kind, Run
from otel_intercept.process.messages import decode_numbered
from otel_intercept.process.open_work import OpenWork
from otel_intercept.process.outlet import Outlet
from otel_intercept.process.sender import Sender
from otel_intercept.record import ExchangeEnded, Request, RequestFacts, StreamFacts
from otel_intercept.recorder import Recorder
from otel_intercept.sdk.black_box import BlackBox
from otel_intercept.sdk.mirror import MirrorRecorder
from otel_intercept.semconv import Dialect, ExchangeOutcome
from tests.samples import ROUTE, exchange, failure, rollout_ref, started, wait

REQUESTS = [
    Request("POST", ROUTE, "http", Dialect.CHAT_COMPLETIONS),
    Request("POST", ROUTE, "http", Dialect.MESSAGES, 2),
    Request("POST", ROUTE, "http", Dialect.MESSAGES, None, (2**127, 8)),
]
ASKED = [
    RequestFacts("gpt-5", False, (("gen_ai.request.temperature", 0.5),)),
    RequestFacts("gpt-5", True, ()),
    RequestFacts(None, False, (("gen_ai.request.x", "y" * 600),)),
]
KNOWN, UNKNOWN = rollout_ref(), rollout_ref(rollout_id="r-2", span_id=2)


@dataclass
class Helper:
    """The other end of the pipe.

    Args:
        fd: Where it reads.
        outlet: Where the server writes.
    """

    fd: int
    outlet: Outlet
    recorder: MirrorRecorder = field(
        default_factory=lambda: MirrorRecorder(10_000, spans=True)
    )
    runs: list[Run] = field(default_factory=list)

    def __post_init__(self) -> None:
        os.set_blocking(self.fd, False)
        self.box = BlackBox(self.recorder)
        self.reader = FrameReader()

    def read(self) -> list[ExchangeEnded]:
        """Take what has been written; return the exchanges in it."""
        with contextlib.suppress(BlockingIOError):
            for run in self.reader.feed_runs(os.read(self.fd, 1 << 20)):
                self.runs.append(run)
                self.box.take(run)
        taken = self.recorder.take(10_000)
        return [one for one in taken if isinstance(one, ExchangeEnded)]

    def said(self, kind: Kind) -> int:
        """Return how many messages of a kind have come."""
        return sum(len(run.payloads) for run in self.runs if run.kind == kind)


@contextmanager
def helper() -> Iterator[Helper]:
    """Make a pipe."""
    out, into = os.pipe()
    try:
        yield Helper(out, Outlet(into))
    finally:
        os.close(out)
        os.close(into)


def sender(*, spans: bool = True) -> Sender:
    """Return a sender that knows one open rollout."""
    work = OpenWork(100)
    work.record_comes(started(KNOWN))
    return Sender(Recorder(100, spans=spans), work)


def connect(one: Sender, other: Helper) -> None:
    """Begin with a helper, and tell it of the rollout."""
    one.connect(other.outlet)
    assert one.send_record(started(KNOWN))


def plain(number: int = 1, *, asked: RequestFacts = ASKED[0]) -> ExchangeEnded:
    """Return an exchange as nearly all are."""
    record = exchange(KNOWN, span_id=number, stream=False, waits=(wait(),))
    return replace(record, request=REQUESTS[0], asked=asked)


EXCHANGES: st.SearchStrategy[ExchangeEnded] = st.builds(
    replace,
    st.builds(
        exchange,
        st.sampled_from([KNOWN, KNOWN, UNKNOWN]),
        span_id=st.integers(1, 2**64 - 1),
        status=st.sampled_from([200, 200, 500, None]),
        stream=st.booleans(),
        outcome=st.sampled_from(ExchangeOutcome),
        failed=st.none() | st.just(failure()),
        response=st.sampled_from([(), (("gen_ai.usage.output_tokens", 7),)]),
        waits=st.sampled_from([(), (wait(),)]),
    ),
    request=st.sampled_from(REQUESTS),
    asked=st.sampled_from(ASKED),
    facts=st.none() | st.just(StreamFacts(1, 2, 3, 0.5, None)),
    replayed=st.booleans(),
)
PLAIN = st.builds(plain, st.integers(1, 2**64 - 1), asked=st.sampled_from(ASKED))
NEARLY_PLAIN = st.one_of(
    st.builds(replace, PLAIN, status=st.just(201)),
    st.builds(replace, PLAIN, stream=st.just(True)),
    st.builds(replace, PLAIN, outcome=st.just(ExchangeOutcome.CANCELLED)),
    st.builds(replace, PLAIN, rollout=st.just(UNKNOWN)),
    st.builds(replace, PLAIN, facts=st.just(StreamFacts(1, 2, 3, 0.5, None))),
    st.builds(replace, PLAIN, failure=st.just(failure()), failure_ns=st.just(7)),
    st.builds(replace, PLAIN, replayed=st.just(True)),
)


@given(
    st.lists(PLAIN | NEARLY_PLAIN | EXCHANGES, max_size=12),
    st.integers(0, 12),
    st.booleans(),
)
def test_both_ways_say_the_same(
    records: list[ExchangeEnded], dies_after: int, is_told: bool
) -> None:
    """Each exchange arrives as it was, by either way, also at another helper."""
    one = sender()
    arrived: list[ExchangeEnded] = []
    with helper() as first, helper() as second:
        connect(one, first)
        for record in records[:dies_after]:
            assert one.send_exchange(record, True)
            assert one.send_record(record)
        arrived += first.read()
        one.connect(second.outlet)
        if is_told:
            assert one.send_record(started(KNOWN))
        for record in records[dies_after:]:
            assert one.send_exchange(record, True)
            assert one.send_record(record)
        arrived += second.read()

    assert arrived == [record for record in records for _ in range(2)]
    assert one.unsendable == 0


def test_what_is_common_is_told_once() -> None:
    """From the second on an exchange names by a number what it shares with others."""
    one = sender()
    records = [plain(number) for number in range(1, 11)]
    with helper() as other:
        connect(one, other)
        for record in records:
            one.send_exchange(record, True)
        arrived = other.read()
    lengths = [
        len(payload)
        for run in other.runs
        if run.kind == Kind.EXCHANGE_ENDED
        for payload in run.payloads
    ]

    assert arrived == records
    assert other.said(Kind.COMMON) == 1
    assert lengths[0] > 2 * lengths[1] == 2 * lengths[9]
    assert one.sent == len(records) + 1


def test_numbers_are_few_whatever_agents_ask_for() -> None:
    """Beyond 256 the numbers are given anew, and every exchange still arrives."""
    one = sender()
    asked = [RequestFacts(f"m-{number}", False, ()) for number in range(700)]
    records = [
        plain(2 * number + turn + 1, asked=each)
        for number, each in enumerate(asked)
        for turn in range(2)
    ]
    arrived: list[ExchangeEnded] = []
    with helper() as other:
        connect(one, other)
        for record in records:
            one.send_exchange(record, True)
            arrived += other.read()

    numbers = [
        decode_numbered(payload).number
        for run in other.runs
        if run.kind == Kind.COMMON
        for payload in run.payloads
    ]
    assert arrived == records
    assert len(numbers) == len(asked)
    assert max(numbers) < 256


def test_a_number_that_was_not_taken_is_not_used() -> None:
    """When the pipe is full, what could not be said is said again, and once."""
    one = sender()
    with helper() as other:
        connect(one, other)
        one.send_exchange(plain(1), True)
        while one.send(Kind.FLUSH, b"x" * 50_000):
            pass
        taken = one.send_exchange(plain(2), True)
        arrived = other.read()
        while not one.send_exchange(plain(3), True):
            arrived += other.read()
        one.send_exchange(plain(4), True)
        arrived += other.read()

    assert not taken
    assert arrived == [plain(1), plain(3), plain(4)]
    assert (one.sent, other.said(Kind.COMMON)) == (4, 1)


def test_a_text_that_cannot_be_told_costs_itself_alone() -> None:
    """The hot path counts what it cannot encode, and goes on."""
    one = sender()
    bad = replace(plain(3), response=(("gen_ai.response.model", "\ud800"),))
    with helper() as other:
        connect(one, other)
        for record in (plain(1), plain(2), bad, plain(4)):
            assert one.send_exchange(record, True)
        arrived = other.read()

    assert arrived == [plain(1), plain(2), plain(4)]
    assert (one.sent, one.unsendable) == (4, 1)


@pytest.mark.parametrize("spans", [True, False])
def test_an_exchange_longer_than_most_arrives(spans: bool) -> None:
    """A payload beyond the heads that are made in advance goes the long way."""
    one = sender(spans=spans)
    long = replace(plain(3), response=(("gen_ai.response.model", "m" * 5000),))
    with helper() as other:
        connect(one, other)
        for record in (plain(1), plain(2), long):
            one.send_exchange(record, spans)
        arrived = other.read()

    assert arrived == [plain(1), plain(2), long]
    assert one.sent == 4 * spans
    assert {run.counts for run in other.runs if run.kind != Kind.COMMON} == {spans}


def test_what_was_dropped_is_said_to_be_over_within_bounds() -> None:
    """Only ends that somebody may wait for are kept for the helper, the latest ones."""
    work = OpenWork(2)
    short = replace(plain(9), end_ns=plain(9).start_ns + 1_000_000)

    for record in (plain(1), short, plain(2), plain(3)):
        work.record_was_dropped(record)

    assert work.take_gone() == (2, 3)
    assert work.take_gone() == ()


def test_an_open_rollout_is_invisible_to_the_garbage_collector() -> None:
    """No collection has to look at one, and none has to: nothing leads back to it."""
    with helper() as other:
        work = OpenWork(8)
        for record in (started(), exchange(failed=failure())):
            work.record_comes(record)
        (rollout,) = work.rollouts.values()
        rollout.told = other.outlet

        assert rollout.failure is not None
        assert not gc.is_tracked(rollout)
        assert not any(thing is rollout for thing in reachable(rollout))


def reachable(start: object) -> list[object]:
    """Return what an object leads to, short of classes."""
    found: list[object] = []
    waiting = held_by(start)
    while waiting:
        thing = waiting.pop()
        if not (isinstance(thing, type) or any(thing is one for one in found)):
            found.append(thing)
            waiting += held_by(thing)
    return found


def held_by(thing: object) -> list[object]:
    """Return what an object holds, also when it is not tracked."""
    if isinstance(thing, msgspec.Struct):
        return [getattr(thing, name) for name in thing.__struct_fields__]
    return gc.get_referents(thing)
