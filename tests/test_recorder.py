"""The recorder is bounded, keeps what matters, and its balance sheet always holds."""

import threading

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from otel_intercept import semconv
from otel_intercept.counters import counter_keys
from otel_intercept.record import (
    ExchangeRejected,
    Record,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
    StreamFacts,
)
from otel_intercept.recorder import Balance, Recorder
from otel_intercept.semconv import Dialect
from tests.samples import (
    START_NS,
    ended,
    exchange,
    failed_exchange,
    failure_seen,
    record_exchanges,
    rollout_ref,
    started,
)


def holds(balance: Balance) -> bool:
    """Tell whether both identities hold and no count is negative."""
    return (
        balance.started == balance.ended + balance.open
        and balance.ended
        == balance.exported + balance.failed + balance.dropped + balance.queued
        and min(balance) >= 0
    )


def put(recorder: Recorder, record: Record) -> None:
    """Begin and put a record."""
    if not isinstance(record, ExchangeRejected):
        recorder.begin(record.rollout.sampled)
    recorder.put(record)


def test_records_come_out_in_the_order_they_were_put() -> None:
    """The queue is first in, first out, and take never gives more than asked."""
    recorder = Recorder(queue_size=10)
    records = [exchange(span_id=number) for number in range(1, 6)]
    for record in records:
        put(recorder, record)

    first = recorder.take(3)
    rest = recorder.take(100)

    assert [*first, *rest] == records
    assert len(first) == 3
    assert recorder.take(1) == []


def test_a_record_is_open_until_put_and_queued_until_settled() -> None:
    """A record moves from open to queued to its fate, and taking it changes nothing."""
    recorder = Recorder(queue_size=10)
    recorder.begin(True)
    begun = recorder.balance()

    recorder.put(exchange())
    waiting = recorder.balance()
    recorder.take(1)
    travelling = recorder.balance()
    recorder.settle(exported=1)
    sent = recorder.balance()

    assert begun == Balance(1, 0, 1, 0, 0, 0, 0)
    assert waiting == travelling == Balance(1, 1, 0, 0, 0, 0, 1)
    assert sent == Balance(1, 1, 0, 1, 0, 0, 0)


def test_a_full_queue_drops_the_newest_ordinary_record_and_counts_it() -> None:
    """What does not fit is dropped, counted, and missing from nothing else."""
    recorder = Recorder(queue_size=2)

    record_exchanges(recorder, 5)

    assert [record.span_id for record in map(_as_exchange, recorder.take(9))] == [1, 2]
    assert recorder.balance() == Balance(5, 5, 0, 0, 0, 3, 2)


def test_failures_and_rollout_ends_fit_after_ordinary_records_no_longer_do() -> None:
    """The reserve keeps failed exchanges, late failures and roots in a full queue."""
    recorder = Recorder(queue_size=12)
    record_exchanges(recorder, 20)
    important: list[Record] = [failed_exchange(), failure_seen(), ended()]

    for record in important:
        put(recorder, record)

    assert recorder.take(100)[12:] == important
    assert recorder.balance().dropped == 8


def test_the_reserve_is_bounded() -> None:
    """Even failures cannot grow the queue beyond a quarter of its size."""
    recorder = Recorder(queue_size=8)
    record_exchanges(recorder, 8)

    for _ in range(100):
        put(recorder, failed_exchange())

    assert len(recorder) == 10
    assert recorder.balance().dropped == 98


def test_every_open_rollout_has_room_for_its_end() -> None:
    """However small the queue, a burst of all rollout ends loses none of them."""
    recorder = Recorder(queue_size=1)
    refs = [rollout_ref(span_id=number) for number in range(1, 51)]
    for ref in refs:
        put(recorder, started(ref))

    for ref in refs:
        put(recorder, ended(ref))

    roots = [
        record for record in recorder.take(100) if isinstance(record, RolloutEnded)
    ]
    assert len(roots) == 50


def test_dropped_records_still_count_in_the_tally() -> None:
    """Every counter that a dropped record would have moved is tallied."""
    recorder = Recorder(queue_size=1)
    put(recorder, started())

    for _ in range(3):
        put(recorder, exchange())
    recorder.close()
    put(recorder, failed_exchange())
    put(recorder, failure_seen())
    put(recorder, ended())
    put(recorder, ExchangeRejected(Dialect.MESSAGES))

    assert dict(recorder.tally()) == {
        (semconv.EXCHANGES.name, ("ok", "chat_completions", True)): 3,
        (semconv.EXCHANGES.name, ("cut", "chat_completions", True)): 1,
        (semconv.FAILURES.name, ("upstream_timeout", "chunk", "upstream")): 1,
        (semconv.FAILURES.name, ("upstream_timeout", "late", "upstream")): 1,
        (semconv.ROLLOUTS.name, ("completed",)): 1,
        (semconv.EXCHANGES.name, ("rejected", "messages", False)): 1,
    }


def test_a_tally_is_a_copy() -> None:
    """A reader's tally does not change under it."""
    recorder = Recorder(queue_size=1)
    record_exchanges(recorder, 2)
    tally = recorder.tally()

    record_exchanges(recorder, 1)

    assert list(tally.values()) == [1]


def test_unsampled_records_are_handed_over_but_not_balanced() -> None:
    """Records that make no span travel the same way without a place in the balance."""
    recorder = Recorder(queue_size=10)
    unsampled = rollout_ref(sampled=False)

    put(recorder, started(unsampled))
    put(recorder, ended(unsampled))

    assert len(recorder.take(10)) == 2
    assert recorder.balance() == Balance(0, 0, 0, 0, 0, 0, 0)


def test_a_flood_of_rejected_requests_takes_no_room() -> None:
    """Requests for unknown rollouts are counted without pushing anything out."""
    recorder = Recorder(queue_size=1)

    for _ in range(50):
        put(recorder, ExchangeRejected(Dialect.MESSAGES))
    put(recorder, exchange())

    assert len(recorder) == 1
    assert recorder.balance() == Balance(1, 1, 0, 0, 0, 0, 1)
    assert list(recorder.tally().values()) == [50]
    assert not recorder.has_span(ExchangeRejected(Dialect.MESSAGES))


def test_without_spans_nothing_is_balanced() -> None:
    """When only metrics are exported, a sampled rollout has no spans to account for."""
    recorder = Recorder(queue_size=10, spans=False)

    put(recorder, started())
    put(recorder, ended())

    assert len(recorder) == 2
    assert recorder.balance() == Balance(0, 0, 0, 0, 0, 0, 0)


def test_open_rollouts_follow_start_and_end_even_when_dropped() -> None:
    """The number of open rollouts is exact, also when their records were dropped."""
    recorder = Recorder(queue_size=1)
    record_exchanges(recorder, 9)
    put(recorder, started())
    put(recorder, started(rollout_ref(sampled=False, span_id=2)))

    both = recorder.open_rollouts
    put(recorder, ended())

    assert (both, recorder.open_rollouts) == (2, 1)


def test_the_oldest_open_rollout_is_known_even_when_its_start_was_dropped() -> None:
    """The first that was opened and not ended tells the age; without any, nothing."""
    recorder = Recorder(queue_size=1)
    record_exchanges(recorder, 9)
    refs = [
        replace(rollout_ref(span_id=number), start_ns=number) for number in (1, 2, 3)
    ]

    seen = [recorder.oldest_open_ns()]
    for ref in refs:
        put(recorder, started(ref))
        seen.append(recorder.oldest_open_ns())
    for ref in (refs[1], refs[0], refs[2], refs[2]):
        put(recorder, ended(ref))
        seen.append(recorder.oldest_open_ns())

    assert seen == [None, 1, 1, 1, 1, 3, None, None]


def test_the_oldest_open_rollout_can_be_asked_for_while_rollouts_come_and_go() -> None:
    """Another thread may ask at any time: it gets a start, and never an error."""
    recorder = Recorder(queue_size=10)
    put(recorder, started(rollout_ref(span_id=1)))
    seen: set[int | None] = set()
    done = threading.Event()

    def ask() -> None:
        while not done.is_set():
            seen.add(recorder.oldest_open_ns())

    thread = threading.Thread(target=ask)
    thread.start()
    for number in range(2, 20_000):
        put(recorder, started(rollout_ref(span_id=number)))
        put(recorder, ended(rollout_ref(span_id=number)))
    done.set()
    thread.join()

    assert seen == {START_NS}


def test_dropped_exchanges_leave_their_keepalives_in_the_tally() -> None:
    """Keepalives are counted as they were written, whatever became of the record."""
    recorder = Recorder(queue_size=1)
    for keepalives in (5, 3, 0, 4):
        put(recorder, exchange(facts=StreamFacts(1, 9, keepalives, 0.1, 0.1)))
    put(recorder, exchange(stream=False))

    tally = recorder.tally()

    key = (semconv.KEEPALIVES.name, (Dialect.CHAT_COMPLETIONS.value,))
    assert tally[key] == 7


def test_closing_drops_what_waits_and_what_comes() -> None:
    """After close nothing is queued: all that has no other fate is dropped."""
    recorder = Recorder(queue_size=10)
    record_exchanges(recorder, 4)
    recorder.take(2)
    recorder.settle(failed=1)

    recorder.close()
    recorder.close()
    record_exchanges(recorder, 1)

    assert recorder.balance() == Balance(5, 5, 0, 0, 1, 4, 0)
    assert len(recorder) == 0


def test_a_started_marker_counts_in_no_counter() -> None:
    """The marker moves no counter: the rollout is counted when it ends."""
    assert counter_keys(started()) == ()


operations = st.lists(
    st.sampled_from(
        ["begin", "exchange", "failure", "start", "end", "unsampled", "take", "close"]
    )
    | st.tuples(st.just("settle"), st.sampled_from(["exported", "failed", "dropped"])),
    max_size=120,
)


@given(operations=operations, queue_size=st.integers(1, 8))
@settings(deadline=None)
def test_the_balance_holds_whatever_happens(
    operations: list[str | tuple[str, str]], queue_size: int
) -> None:
    """After any sequence of operations both identities hold and memory is bounded."""
    recorder = Recorder(queue_size=queue_size)
    opened: list[RolloutRef] = []
    travelling = most_open = 0
    for number, operation in enumerate(operations, 1):
        match operation:
            case "begin":
                recorder.begin(True)
            case "exchange":
                put(recorder, exchange())
            case "failure":
                put(recorder, failed_exchange())
            case "start":
                opened.append(rollout_ref(span_id=number))
                put(recorder, started(opened[-1]))
            case "end" if opened:
                put(recorder, ended(opened.pop()))
            case "unsampled":
                put(recorder, exchange(rollout_ref(sampled=False)))
            case "take":
                travelling += sum(map(recorder.has_span, recorder.take(3)))
            case "close":
                recorder.close()
            case ("settle", fate) if travelling:
                travelling -= 1
                recorder.settle(**{str(fate): 1})
            case _:
                pass

        most_open = max(most_open, len(opened))
        assert recorder.open_rollouts == len(opened)
        assert holds(recorder.balance())
        assert len(recorder) <= queue_size + max(queue_size // 4, most_open)


class Interrupted(Recorder):
    """A recorder in which a whole record comes and goes before each counter is read."""

    armed = False

    def __getattribute__(self, name: str) -> object:
        """Let a record pass, then read."""
        if type(self).armed and name in Recorder.__slots__:
            type(self).armed = False
            record_exchanges(self, 2)
            self.take(2)
            self.settle(exported=1, failed=1)
            type(self).armed = True
        return super().__getattribute__(name)


def test_the_balance_holds_while_the_counters_move_under_it() -> None:
    """Even if both sides work between any two reads, the identities hold."""
    recorder = Interrupted(queue_size=10)

    Interrupted.armed = True
    balance = recorder.balance()
    Interrupted.armed = False

    assert balance.started > 0
    assert balance.queued > 0
    assert holds(balance)


def test_the_balance_holds_in_every_glimpse_of_another_thread() -> None:
    """A reader that looks while both sides work never sees the identities broken."""
    recorder = Recorder(queue_size=64)
    seen: list[Balance] = []
    done = threading.Event()

    def consume() -> None:
        while not done.is_set() or len(recorder):
            taken = recorder.take(7)
            recorder.settle(exported=len(taken) // 2)
            recorder.settle(failed=len(taken) - len(taken) // 2)

    def watch() -> None:
        while not done.is_set():
            seen.append(recorder.balance())

    threads = [threading.Thread(target=target) for target in (consume, watch)]
    for thread in threads:
        thread.start()
    record_exchanges(recorder, 20_000)
    done.set()
    for thread in threads:
        thread.join()

    assert all(map(holds, seen))
    assert recorder.balance().queued == 0
    assert recorder.balance().ended == 20_000


def _as_exchange(record: Record) -> RolloutStarted:
    assert not isinstance(record, RolloutEnded | ExchangeRejected)
    return RolloutStarted(record.rollout, record.span_id)


def test_failures_never_take_the_places_of_roots() -> None:
    """However many failures wait, the end of every open rollout still fits."""
    recorder = Recorder(queue_size=8)
    for number in range(20):
        put(recorder, started(rollout_ref(span_id=number + 1)))
    for _ in range(100):
        put(recorder, failed_exchange())

    for number in range(20):
        put(recorder, ended(rollout_ref(span_id=number + 1)))

    waiting = recorder.take(1000)
    assert sum(isinstance(record, RolloutEnded) for record in waiting) == 20
    assert recorder.balance().dropped == 140 - len(waiting)


def test_an_ordinary_record_gives_way_to_a_failure() -> None:
    """Where the reserve is used up, the oldest ordinary record is dropped instead."""
    recorder = Recorder(queue_size=8)
    record_exchanges(recorder, 8)
    dropped: list[Record] = []
    recorder.on_drop = dropped.append

    for _ in range(4):
        put(recorder, failed_exchange())

    assert [record.span_id for record in map(_as_exchange, dropped)] == [1, 2]
    assert len(recorder) == 10
    assert recorder.balance().dropped == 2
