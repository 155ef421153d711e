"""What server and helper tell each other arrives whole, and nothing else is taken."""

import secrets

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import astuple, replace

from otel_intercept.failure import Failure
from otel_intercept.process.framing import (
    MAX_FRAME,
    Frame,
    Framer,
    FrameReader,
    Kind,
    OutOfStepError,
    Run,
)
from otel_intercept.process.messages import (
    MAX_NUMBERS,
    Common,
    Done,
    Ended,
    Resumed,
    Seen,
    SpanRecord,
    WireRef,
    WireRequest,
    decode_started,
    from_ref,
    to_begun,
    to_common,
    to_done,
    to_ref,
    to_wire,
)
from otel_intercept.process.orders import Totals
from otel_intercept.record import (
    AttributeValue,
    ExchangeEnded,
    FailureSeen,
    Request,
    RequestFacts,
    RolloutEnded,
    RolloutRef,
    RolloutStarted,
    StreamFacts,
    UpstreamWait,
)
from otel_intercept.recorder import Balance
from otel_intercept.sdk.black_box import BlackBox
from otel_intercept.sdk.mirror import MirrorRecorder
from otel_intercept.semconv import Dialect, ExchangeOutcome, RolloutOutcome
from tests.samples import ended, exchange, failure_seen, rollout_ref, started

IDS = st.integers(min_value=1, max_value=2**64 - 1)
TRACE_IDS = st.integers(min_value=1, max_value=2**128 - 1)
NUMBERS = st.integers(min_value=-(2**63), max_value=2**63 - 1)
TEXTS = st.text(max_size=40)
# Lone surrogates among them, which a path's percent escapes can make.
ROLLOUT_IDS = st.text(st.characters(exclude_categories=()), max_size=40)
VALUES: st.SearchStrategy[AttributeValue] = st.one_of(
    TEXTS,
    st.booleans(),
    NUMBERS,
    st.floats(allow_nan=False),
    st.lists(TEXTS, max_size=3).map(tuple),
)
ATTRIBUTES = st.lists(st.tuples(TEXTS, VALUES), max_size=4).map(tuple)
LINKS = st.none() | st.tuples(TRACE_IDS, IDS)
FAILURES = st.builds(
    Failure,
    exception_type=st.none() | TEXTS,
    cause_types=st.lists(TEXTS, max_size=3).map(tuple),
    status_code=st.none() | st.integers(100, 599),
    fingerprint=TEXTS,
)
REFS = st.builds(
    RolloutRef,
    ROLLOUT_IDS,
    TRACE_IDS,
    IDS,
    st.none() | IDS,
    st.just(True),
    NUMBERS,
    ATTRIBUTES,
    LINKS,
)
FACTS = st.builds(
    StreamFacts,
    NUMBERS,
    NUMBERS,
    NUMBERS,
    st.floats(allow_nan=False),
    st.none() | st.floats(allow_nan=False),
)
REQUESTS = st.builds(
    Request, method=TEXTS, route=TEXTS, retry_count=st.none() | NUMBERS, link=LINKS
)
ASKED = st.builds(RequestFacts, st.none() | TEXTS, st.booleans(), ATTRIBUTES)
WAITS = st.builds(UpstreamWait, IDS, NUMBERS, NUMBERS)
RECORDS: st.SearchStrategy[SpanRecord] = st.one_of(
    st.builds(RolloutStarted, REFS, IDS),
    st.builds(
        RolloutEnded,
        REFS,
        NUMBERS,
        exchanges=NUMBERS,
        failures=NUMBERS,
        failure=st.none() | FAILURES,
    ),
    st.builds(FailureSeen, REFS, IDS, NUMBERS, FAILURES, st.none() | IDS),
    st.builds(
        ExchangeEnded,
        rollout=REFS,
        span_id=IDS,
        exchange_index=NUMBERS,
        start_ns=NUMBERS,
        end_ns=NUMBERS,
        request=REQUESTS,
        asked=ASKED,
        status=st.none() | NUMBERS,
        failure_ns=st.none() | NUMBERS,
        failure=st.none() | FAILURES,
        facts=st.none() | FACTS,
        response=ATTRIBUTES,
        waits=st.lists(WAITS, max_size=2).map(tuple),
        replayed=st.booleans(),
    ),
)


def recorder() -> MirrorRecorder:
    """Return a helper's recorder."""
    return MirrorRecorder(1000, spans=True)


def frame_of(kind: Kind, message: object, *, counts: bool = False) -> Run:
    """Return a message as the other side reads it."""
    data = Framer().frame(kind, message, counts=counts)
    (run,) = FrameReader().feed_runs(data)
    return run


def tell(record: SpanRecord, *, in_full: bool = True) -> Run:
    """Return a record as the other side reads it."""
    wire = to_ref(record.rollout)
    kind, message = to_wire(record, wire if in_full else wire.span_id)
    return frame_of(kind, message, counts=True)


@given(RECORDS)
def test_every_record_survives_the_way(record: SpanRecord) -> None:
    """A record comes out as it went in, whatever its fields hold."""
    taker = recorder()

    BlackBox(taker).take(tell(record))

    assert taker.take(2) == [record]


@pytest.mark.parametrize(
    ("wire", "record"),
    [
        (WireRef, RolloutRef),
        (WireRequest, Request),
        (Ended, RolloutEnded),
        (Seen, FailureSeen),
    ],
)
def test_no_field_is_forgotten(
    wire: type[WireRef | WireRequest | Ended | Done | Seen],
    record: type[RolloutRef | Request | RolloutEnded | ExchangeEnded | FailureSeen],
) -> None:
    """The travelling forms have the fields of the records, in the same order."""
    assert wire._fields == record.__struct_fields__


def test_an_exchange_travels_in_two_parts_that_are_the_whole() -> None:
    """What is common and what is not are the fields of the record, in their order."""
    fields = (*Done._fields[:5], *Common._fields, *Done._fields[6:])

    assert fields == ExchangeEnded.__struct_fields__
    assert Done._fields[5] == "common"


@given(RECORDS, st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_frames_are_found_however_they_are_cut(
    record: SpanRecord, sizes: list[int]
) -> None:
    """A reader that gets a few bytes at a time finds the same frames."""
    framer, reader = Framer(), FrameReader()
    kind, message = to_wire(record, to_ref(record.rollout))
    data = b"".join(framer.frame(kind, message) for _ in range(3))

    frames: list[Frame] = []
    at = 0
    while at < len(data):
        size = sizes[at % len(sizes)]
        frames.extend(reader.feed(data[at : at + size]))
        at += size

    (payload,) = frame_of(kind, message).payloads
    assert frames == [Frame(kind, False, payload)] * 3


def test_frames_of_a_kind_come_as_a_run_in_their_order() -> None:
    """A run ends where the kind or the flag changes, and at what is no frame."""
    framer = Framer()
    frames = [(Kind.FLUSH, 1, False), (Kind.FLUSH, 2, False), (Kind.FLUSH, 3, True)]
    frames += [(Kind.TOTALS, 4, True), (Kind.FLUSH, 5, False)]
    data = b"".join(framer.frame(kind, n, counts=c) for kind, n, c in frames)
    reader = FrameReader()

    runs = list(reader.feed_runs(data))
    with pytest.raises(OutOfStepError):
        next(reader.feed_runs(b"\xff" * 9))

    assert runs == [
        Run(Kind.FLUSH, False, [b"\1", b"\2"]),
        Run(Kind.FLUSH, True, [b"\3"]),
        Run(Kind.TOTALS, True, [b"\4"]),
        Run(Kind.FLUSH, False, [b"\5"]),
    ]


def test_a_frame_beyond_all_bounds_ends_the_stream() -> None:
    """A length that no sender writes is not waited for."""
    with pytest.raises(OutOfStepError):
        list(FrameReader().feed(b"\xff\xff\xff\xff\1\0" + b"x" * 10))
    with pytest.raises(ValueError, match="too long"):
        Framer().frame(Kind.DECLARE, ("x" * (MAX_FRAME + 1),))


@given(st.integers(0, 255), st.binary(max_size=200), st.booleans())
def test_noise_is_counted_and_breaks_nothing(
    kind: int, payload: bytes, counts: bool
) -> None:
    """A frame that says nothing sensible counts as one dropped record, if as any."""
    taker = recorder()

    taken = BlackBox(taker).take(Run(kind, counts, [payload]))

    balance = taker.balance()
    assert balance.ended == balance.dropped + balance.queued
    assert balance.ended <= 1
    assert taken or balance.ended == 0


def test_a_record_that_is_broken_on_the_way_is_dropped() -> None:
    """Neither a closed value that is not one nor a rollout never told gets through."""
    taker = recorder()
    box = BlackBox(taker)
    good = tell(exchange())

    (payload,) = good.payloads
    unknown = tell(exchange(), in_full=False).payloads[0]
    broken = payload.replace(b"\xa2ok", b"\xa2no")
    payloads = [broken, payload[:-1], unknown, payload]
    box.take(Run(good.kind, good.counts, payloads))

    assert broken != payload
    assert taker.balance() == Balance(4, 4, 0, 0, 0, 3, 1)


def test_what_is_open_is_ended_with_what_is_known() -> None:
    """Open exchanges end as cancelled, open rollouts as aborted, each one once."""
    taker = recorder()
    box = BlackBox(taker)
    request = Request("POST", "/v1/x", "http", Dialect.MESSAGES, 1, (7, 8))
    box.take(tell(started()))
    for span_id in (1, 2, 2):
        begun = to_begun(started().rollout.span_id, span_id, span_id, 9, request)
        box.take(frame_of(Kind.EXCHANGE_STARTED, begun))
    box.take(tell(exchange(span_id=1), in_full=False))
    box.take(tell(failure_seen(), in_full=False))
    before = taker.balance()

    now = started().rollout.start_ns + 5
    counted = box.end_all(now)

    cut, root = taker.take(10)[-2:]
    assert before == Balance(5, 3, 2, 0, 0, 0, 3)
    assert counted == (1, 1)
    assert isinstance(cut, ExchangeEnded)
    assert astuple(cut)[:6] == (rollout_ref(), 2, 2, 9, now, request)
    assert cut.outcome is ExchangeOutcome.CANCELLED
    assert root == RolloutEnded(
        rollout_ref(), now, RolloutOutcome.ABORTED, 5, 1, failure_seen().failure
    )
    assert box.end_all(now) == (0, 0)
    assert taker.balance().open == 0


def test_a_failure_that_is_replayed_is_counted_once() -> None:
    """The root that a helper makes counts a failure where the call was made only."""
    taker = recorder()
    box = BlackBox(taker)
    failure = failure_seen().failure
    box.take(tell(started()))
    for span_id in (1, 2):
        failed = exchange(span_id=span_id, failed=failure)
        box.take(tell(replace(failed, replayed=span_id == 2), in_full=False))

    box.end_all(1)

    *_, root = taker.take(10)
    assert isinstance(root, RolloutEnded)
    assert (root.failures, root.failure) == (1, failure)


def test_a_resumed_rollout_goes_on_where_it_was() -> None:
    """A helper that did not see a rollout start still knows what it is told of it."""
    taker = recorder()
    box = BlackBox(taker)
    resumed = Resumed(to_ref(rollout_ref()), 7, 2, failure_seen().failure)

    box.take(frame_of(Kind.ROLLOUT_RESUMED, resumed))
    open_rollouts = taker.open_rollouts
    box.end_all(1)

    (root,) = taker.take(2)
    assert open_rollouts == 1
    assert isinstance(root, RolloutEnded)
    assert astuple(root)[3:] == (7, 2, failure_seen().failure)
    assert root.end_ns == rollout_ref().start_ns


def test_totals_make_the_balance_that_of_the_server() -> None:
    """What never came here is in balance and tally; what is gone is closed."""
    taker = recorder()
    box = BlackBox(taker)
    box.take(tell(started()))
    tally = (("intercept.failures", ("a", "b", "c"), 4),)

    totals = Totals(5, 6, 7, tally, (started().rollout.span_id, 99))
    box.take(frame_of(Kind.TOTALS, totals))
    box.take(tell(ended()))

    assert taker.balance() == Balance(20, 20, 0, 5, 6, 7, 2)
    assert taker.own_balance() == Balance(2, 2, 0, 0, 0, 0, 2)
    assert taker.tally() == {("intercept.failures", ("a", "b", "c")): 4}
    assert box.end_all(1) == (0, 0)


def test_ids_keep_all_their_bits() -> None:
    """Trace ids of 128 bits and span ids of 64 bits come out as they went in."""
    for _ in range(100):
        ref = replace(
            rollout_ref(trace_id=secrets.randbits(128), span_id=secrets.randbits(64)),
            previous=(2**128 - 1, 2**64 - 1),
        )
        frame = tell(RolloutStarted(ref, 2**64 - 1))

        assert from_ref(decode_started(frame.payloads[0]).rollout) == ref


def test_kinds_of_both_directions_are_told_apart() -> None:
    """What is no record, or an answer, is left to others."""
    box = BlackBox(recorder())
    kinds = (Kind.DECLARE, Kind.FLUSH, Kind.SHUTDOWN, *(k for k in Kind if k >= 32))

    assert not any(box.take(Run(kind, False, [b""])) for kind in kinds)
    assert len({kind.value for kind in Kind}) == len(Kind)


def test_a_helper_keeps_no_more_kinds_in_mind_than_there_are_numbers() -> None:
    """A number beyond the bound is not taken, and what is named by it is dropped."""
    taker = recorder()
    box = BlackBox(taker)
    record = exchange()
    ref, common = to_ref(record.rollout), to_common(record)

    for number in (MAX_NUMBERS - 1, MAX_NUMBERS, -1):
        box.take(frame_of(Kind.COMMON, (number, common)))
        done = to_done(record, ref, number)
        box.take(frame_of(Kind.EXCHANGE_ENDED, done, counts=True))

    assert taker.take(4) == [record]
    assert taker.malformed == 2


def test_a_rollout_id_that_makes_no_sense_costs_its_records_alone() -> None:
    """Bytes that no id is sent as are malformed, in a start and in an exchange."""
    taker = recorder()
    box = BlackBox(taker)
    record = exchange()
    wire = to_ref(record.rollout)._replace(rollout_id=b"\xff")
    kind, start = to_wire(started(record.rollout), wire)
    done = to_done(record, wire, to_common(record))

    box.take(frame_of(kind, start, counts=True))
    box.take(frame_of(Kind.EXCHANGE_ENDED, done, counts=True))
    box.take(tell(record))

    assert taker.take(4) == [record]
    assert taker.malformed == 2
