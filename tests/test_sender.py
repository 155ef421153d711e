"""Requests overlap when the collector is slow, and every record keeps its one fate."""

import asyncio
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otel_intercept.sdk import configure, read_spans
from otel_intercept.sdk.otlp_proto import spans_of_request
from otel_intercept.telemetry import Balance, Settings, Telemetry
from otel_intercept.translate.encoder import SpanEncoder
from otel_intercept.translate.outlets import EncodedSpanExporter
from otel_intercept.translate.sender import MAX_POSTS
from otel_intercept.translate.translator import Translator
from otel_intercept.turns import TURNS, note_loop
from tests.collectors import Answer, HttpCollector
from tests.samples import (
    ended,
    exchange,
    record_exchanges,
    rollout_ref,
    started,
    wait_until,
)
from tests.stopwatch import Stopwatch


class Posts(EncodedSpanExporter):
    """An exporter that does what a function says, and knows how many calls overlap."""

    def __init__(self, action: Callable[[int], bool]) -> None:
        self._action = action
        self._lock = threading.Lock()
        self._running = 0
        self.most = 0
        self.sizes: list[int] = []
        self.results: dict[int, bool] = {}

    def export_encoded(self, request: bytes) -> bool:
        """Note the request, and do what the function says of its number."""
        with self._lock:
            number = len(self.sizes)
            self.sizes.append(len(spans_of_request(request) or ()))
            self._running += 1
            self.most = max(self.most, self._running)
        try:
            taken = self.results[number] = self._action(number)
        finally:
            with self._lock:
                self._running -= 1
        return taken

    def shutdown(self) -> None:
        """Do nothing."""


def names() -> set[str]:
    """Return the names of our living threads."""
    return {
        thread.name
        for thread in threading.enumerate()
        if thread.name.startswith("otel-intercept")
    }


def test_no_two_of_our_threads_work_one_right_after_the_other() -> None:
    """A request begins with a nap, and the thread that began it takes one as well."""
    noted: list[tuple[str, str]] = []
    kinds = {
        threading.Thread.start.__code__: "start",
        Translator.spans_of.__code__: "work",
        SpanEncoder.request.__code__: "work",
    }

    def note(frame: FrameType, event: str, arg: object) -> None:
        kind = kinds.get(frame.f_code) if event == "call" else None
        if event == "c_call" and arg is time.sleep:
            kind = "nap"
        if kind is not None:
            noted.append((threading.current_thread().name, kind))

    threading.setprofile(note)
    try:
        telemetry = Telemetry(
            span_exporter=Posts(lambda _: True), settings=Settings(export_batch_size=64)
        )
        record_exchanges(telemetry, 256)
        telemetry.shutdown()
    finally:
        threading.setprofile(None)

    own = [kind for name, kind in noted if name == "otel-intercept"]
    posts = [kind for name, kind in noted if name == "otel-intercept-post"]
    assert own.count("start") == posts.count("work") > 0
    assert [own[at + 1] for at, kind in enumerate(own) if kind == "start"] == [
        "nap"
    ] * own.count("start")
    assert posts.count("nap") == posts.count("work")
    assert posts[0] == "nap"


def test_beside_a_busy_loop_a_short_request_is_waited_for() -> None:
    """Where threads wait too long for the lock, two work at once only if they must."""
    loop = asyncio.new_event_loop()

    async def starve() -> None:
        note_loop()

    loop.run_until_complete(starve())
    assert TURNS.pauses is not None
    TURNS.pauses.want()
    crowded: list[bool] = []

    def answer(_: int) -> bool:
        crowded.append(len(exporter.sizes) - len(exporter.results) > 1)
        time.sleep(0.02)
        return True

    exporter = Posts(answer)
    telemetry = Telemetry(
        span_exporter=exporter,
        settings=Settings(schedule_delay_s=0.02, export_batch_size=10),
    )
    for number in range(1, 13):
        record_exchanges(telemetry, 10)
        assert wait_until(lambda n=number: len(exporter.sizes) == n)
    telemetry.shutdown()
    TURNS.pauses.stop()
    loop.close()

    # Not never: the machine may stand still for as long as one waits.
    assert crowded.count(True) < 4


def test_full_batches_overlap_up_to_four() -> None:
    """While no request is answered, four are on their way, and no fifth."""
    release = threading.Event()
    exporter = Posts(lambda _: release.wait(30))
    telemetry = Telemetry(
        span_exporter=exporter,
        settings=Settings(schedule_delay_s=0.05, export_batch_size=10),
    )
    for _ in range(8):
        record_exchanges(telemetry, 10)
        wait_until(lambda: telemetry.balance().queued == 0, 0.1)

    four = wait_until(lambda: len(exporter.sizes) == MAX_POSTS)
    time.sleep(0.2)
    meanwhile = telemetry.balance()
    release.set()
    flushed = telemetry.flush()
    balance = telemetry.shutdown()

    assert four
    assert exporter.most == MAX_POSTS == 4
    assert meanwhile.queued == 80
    assert flushed
    assert balance == Balance(80, 80, 0, 80, 0, 0, 0)
    assert wait_until(lambda: not names())


def test_a_batch_that_is_not_full_waits_for_the_one_before() -> None:
    """A slow collector gets one larger request later, not many small ones."""
    release = threading.Event()
    exporter = Posts(lambda _: release.wait(30))
    settings = Settings(schedule_delay_s=0.02, export_batch_size=100)
    telemetry = Telemetry(span_exporter=exporter, settings=settings)
    record_exchanges(telemetry, 1)
    assert wait_until(lambda: exporter.sizes)

    for _ in range(5):
        record_exchanges(telemetry, 3)
        time.sleep(0.05)
    alone = list(exporter.sizes)
    release.set()
    telemetry.shutdown()

    assert alone == [1]
    assert exporter.sizes == [1, 15]


def test_a_shutdown_that_gives_up_counts_all_that_is_on_its_way() -> None:
    """Four hanging requests have failed, what waits is dropped, and it stays so."""
    release = threading.Event()
    exporter = Posts(lambda _: release.wait(30))
    settings = Settings(schedule_delay_s=0.05, export_batch_size=10)
    telemetry = Telemetry(span_exporter=exporter, settings=settings)
    for number in range(1, 5):
        record_exchanges(telemetry, 10)
        assert wait_until(lambda number=number: len(exporter.sizes) == number)
    record_exchanges(telemetry, 25)

    with Stopwatch() as watch:
        balance = telemetry.shutdown(timeout_s=0.5)
    busy = not telemetry.idle
    release.set()

    assert watch.took_s < 2.0
    assert balance == Balance(65, 65, 0, 0, 40, 25, 0)
    assert busy
    assert wait_until(lambda: telemetry.idle)
    assert telemetry.balance() == balance
    assert exporter.sizes == [10] * 4


def test_a_panic_in_one_request_harms_no_other(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is no Exception counts as failed as well, and its text is not printed."""

    def panic_at_first(number: int) -> bool:
        if number == 0:
            raise BaseException("sk-canary-0451")  # noqa: TRY002 - that is the point
        return True

    exporter = Posts(panic_at_first)
    telemetry = Telemetry(
        span_exporter=exporter,
        settings=Settings(schedule_delay_s=0.05, export_batch_size=10),
    )
    record_exchanges(telemetry, 10)
    assert wait_until(lambda: telemetry.balance().failed == 10)
    record_exchanges(telemetry, 3)

    flushed = telemetry.flush()
    balance = telemetry.shutdown()

    output = capfd.readouterr()
    assert flushed
    assert balance == Balance(13, 13, 0, 3, 10, 0, 0)
    assert "canary" not in caplog.text + output.out + output.err


@given(
    st.lists(st.sampled_from(["take", "refuse", "raise"]), min_size=30, max_size=30),
    st.lists(st.integers(1, 12), max_size=8),
)
@settings(deadline=None, max_examples=15)
def test_overlapping_requests_settle_exactly_their_own_records(
    fates: list[str], bursts: list[int]
) -> None:
    """Whatever each request comes to, exported and failed are the records in them."""

    def act(number: int) -> bool:
        time.sleep(0.002 * (number % 3))
        if fates[number] == "raise":
            raise RuntimeError("sk-canary-0451")
        return fates[number] == "take"

    exporter = Posts(act)
    telemetry = Telemetry(
        span_exporter=exporter,
        settings=Settings(schedule_delay_s=0.001, export_batch_size=4),
    )
    for burst in bursts:
        record_exchanges(telemetry, burst)
        telemetry.balance()

    telemetry.flush()
    balance = telemetry.shutdown()

    taken = sum(
        size
        for number, size in enumerate(exporter.sizes)
        if exporter.results.get(number)
    )
    assert balance.exported == taken
    assert balance.failed == sum(bursts) - taken
    assert (balance.queued, balance.dropped) == (0, 0)


def test_a_burst_of_rollout_ends_loses_nothing_at_a_slow_collector() -> None:
    """10,000 rollouts that end at once arrive, though each answer takes 0.5 s."""
    with HttpCollector(Answer(delay_s=0.5)) as server:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
            "OTEL_METRICS_EXPORTER": "none",
        }
        with configure(environ) as telemetry:
            rollouts = [
                rollout_ref(trace_id=number, span_id=number)
                for number in range(1, 10_001)
            ]
            for rollout in rollouts:
                telemetry.begin(True)
                telemetry.begin(True)
                telemetry.put(started(rollout))
            for number, rollout in enumerate(rollouts):
                telemetry.put(ended(rollout))
                if number % 500 == 0:
                    time.sleep(0.05)
            flushed = telemetry.flush(timeout_s=30)
        balance = telemetry.balance()

    roots = {span.span_id for span in server.spans() if span.name == "rollout"}
    assert flushed
    assert balance == Balance(20_000, 20_000, 0, 20_000, 0, 0, 0)
    assert len(roots) == 10_000


def test_a_file_beside_has_what_hangs_and_what_waits(tmp_path: Path) -> None:
    """Of full batches that hang and records that wait, each is in the file once."""
    path = tmp_path / "spans.jsonl"
    environ = {
        "OTEL_INTERCEPT_FILE": str(path),
        "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10",
        "OTEL_BSP_SCHEDULE_DELAY": "20",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_METRICS_EXPORTER": "none",
    }
    with HttpCollector(Answer(hang=True)) as server:
        environ["OTEL_EXPORTER_OTLP_ENDPOINT"] = server.url
        with configure(environ) as telemetry:
            for number in range(60):
                telemetry.begin(True)
                telemetry.put(exchange(span_id=number + 1))
            wait_until(lambda: server.count("traces") == MAX_POSTS, 1.0)
            telemetry.shutdown(timeout_s=0.5)
            balance = telemetry.balance()
            # Or else the filters on the loggers of exporters stay for what may come.
            assert wait_until(lambda: telemetry.idle)

    assert len({span.span_id for span in read_spans(path)}) == 60
    assert len(list(read_spans(path))) == 60
    assert balance.failed + balance.dropped == 60


def test_what_a_file_refuses_is_not_exported() -> None:
    """A batch that the collector took and a full disk did not has failed."""
    with HttpCollector() as server:
        environ = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": server.url,
            "OTEL_INTERCEPT_FILE": "/dev/full",
            "OTEL_METRICS_EXPORTER": "none",
        }
        with configure(environ) as telemetry:
            record_exchanges(telemetry, 3)

    assert telemetry.balance() == Balance(3, 3, 0, 0, 3, 0, 0)
    assert len(server.spans()) == 3
