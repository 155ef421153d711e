"""With a helper process the same leaves as with a thread, and the server stays free."""

import asyncio
import contextlib
import os
import random
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from opentelemetry.sdk.trace.export import ConsoleSpanExporter

from otel_intercept import RolloutRegistry, Telemetry
from otel_intercept.errors import ConfigurationError
from otel_intercept.process.back_off import BackOff
from otel_intercept.process.child import Child
from otel_intercept.process.framing import Framer, Kind
from otel_intercept.process.messages import to_ref, to_wire
from otel_intercept.process.orders import Configure
from otel_intercept.process.recorder import ProcessRecorder
from otel_intercept.sdk import configure
from otel_intercept.semconv import Dialect
from otel_intercept.settings import Settings
from tests.collectors import Answer, Collector, HttpCollector
from tests.conftest import Serve
from tests.samples import (
    ended,
    exchange,
    record_exchanges,
    rollout_ref,
    started,
    wait_until,
)
from tests.stopwatch import Stopwatch
from tests.test_truth_matrix import ROUTES, SHAPES, play
from tests.watched import attributes_of, helpers_of, is_alive, process_environ
from tests.watched_server import make_app

KILLS = int(os.environ.get("HELPER_KILLS", "4"))
SERVER = Span.SPAN_KIND_SERVER
CANARY = "sk-canary-7d21"

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Collect OTLP over HTTP."""
    with HttpCollector() as server:
        yield server


def assert_true(telemetry: Telemetry) -> None:
    """Check both equations of the balance sheet."""
    balance = telemetry.balance()
    assert balance.started == balance.ended + balance.open
    fates = balance.exported + balance.failed + balance.dropped + balance.queued
    assert balance.ended == fates
    assert min(balance) >= 0


def shown(spans: list[Span]) -> Counter[str]:
    """Return what spans say, without ids and times, and whose children they are."""
    names = {span.span_id: span.name for span in spans}
    timed = ("max_gap_s", "time_to_first_chunk_s")
    return Counter(
        repr(
            (
                span.name,
                span.kind,
                names.get(span.parent_span_id),
                span.status.code,
                [link.trace_id for link in span.links],
                {
                    key: value
                    for key, value in attributes_of(span).items()
                    if not key.endswith(timed)
                },
                [
                    (event.name, sorted(f"{item}" for item in event.attributes))
                    for event in span.events
                ],
            )
        )
        for span in spans
    )


def counted(metrics: list[Metric]) -> Counter[str]:
    """Return the counts of the series as they stand after the last export."""
    latest: Counter[str] = Counter()
    for metric in metrics:
        for number in metric.sum.data_points:
            labels = sorted(f"{item}" for item in number.attributes)
            if metric.name != "intercept.records" or "traces" in f"{labels}":
                latest[f"{metric.name} {labels}"] = number.as_int
        for histogram in metric.histogram.data_points:
            labels = sorted(f"{item}" for item in histogram.attributes)
            latest[f"{metric.name} {labels}"] = histogram.count
    return latest


async def play_all(telemetry: Telemetry, dialect: Dialect, serve: Serve) -> None:
    """Play every shape of an exchange, one after the other."""
    for shape in SHAPES.values():
        await play(serve, telemetry, dialect, shape)


@pytest.mark.parametrize("dialect", list(ROUTES))
async def test_a_helper_exports_what_a_thread_exports(
    dialect: Dialect, serve: Serve
) -> None:
    """Spans, events, counters and log records are the same but for ids and times."""
    seen = []
    for recorder in ("thread", "process"):
        with HttpCollector() as collector:
            environ = process_environ(
                collector,
                OTEL_INTERCEPT_RECORDER=recorder,
                OTEL_INTERCEPT_FINGERPRINT_KEY="0123456789abcdef",
                OTEL_INTERCEPT_FAILURE_LOGS="true",
            )
            with configure(environ) as telemetry:
                await play_all(telemetry, dialect, serve)
            seen.append(
                (
                    shown(collector.spans()),
                    counted(collector.metrics()),
                    Counter(log.event_name for log in collector.logs()),
                    telemetry.balance(),
                )
            )

    assert seen[0] == seen[1]
    assert seen[0][0].total() > 2 * len(SHAPES)


def test_the_balance_is_true_from_the_first_record_to_the_last(
    collector: Collector,
) -> None:
    """What was put counts as queued until the helper has confirmed its export."""
    with configure(process_environ(collector)) as telemetry:
        record_exchanges(telemetry, 10)
        put = telemetry.balance()
        flushed = telemetry.flush()
        confirmed = telemetry.balance()
        telemetry.begin(True)

    assert (put.ended, put.queued) == (10, 10)
    assert flushed
    assert (confirmed.exported, confirmed.queued) == (10, 0)
    assert (telemetry.balance().started, telemetry.balance().open) == (11, 1)
    assert_true(telemetry)
    assert telemetry.idle


def test_a_collector_that_refuses_is_accounted_for(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """A flush that exports nothing is false, and what failed shows in this process."""
    collector.answer = Answer(status=400)

    with configure(process_environ(collector)) as telemetry:
        record_exchanges(telemetry, 3)
        flushed = telemetry.flush()

    assert not flushed
    assert telemetry.balance().failed == 3
    assert_true(telemetry)
    assert "spans were not exported (HTTP 400" in caplog.text


def test_operator_attributes_come_out(collector: Collector) -> None:
    """The guard in the helper knows the keys of a rollout before its first record."""
    with configure(process_environ(collector)) as telemetry:
        registry = RolloutRegistry(telemetry)
        registry.open("r-1", attributes={"team.name": "blue", "team.size": 4})
        registry.close("r-1")

    marker, root = (attributes_of(span) for span in collector.spans())
    for attributes in (marker, root):
        assert attributes["team.name"] == "blue"
        assert attributes["team.size"] == 4


def test_rollouts_that_are_not_sampled_are_counted_only(collector: Collector) -> None:
    """The server decides on sampling; the helper still measures."""
    environ = process_environ(collector, OTEL_TRACES_SAMPLER="always_off")

    with configure(environ) as telemetry:
        registry = RolloutRegistry(telemetry)
        registry.open("r-1")
        registry.close("r-1")
        registry.reject(Dialect.MESSAGES)

    counts = counted(collector.metrics())
    assert collector.spans() == []
    assert set(telemetry.balance()) == {0}
    assert sum(n for key, n in counts.items() if "intercept.rollouts " in key) == 1
    assert sum(n for key, n in counts.items() if "rejected" in key) == 1


async def requests_until(url: str, stop: asyncio.Event) -> tuple[int, int]:
    """Send one request after the other; return how many, and how many failed."""
    sent = failed = 0
    async with aiohttp.ClientSession(url) as session:
        while not stop.is_set():
            route = "/rollout/r-1/v1/chat/completions"
            async with session.post(route, json={"wait_s": 0}) as answer:
                await answer.read()
            sent += 1
            failed += answer.status != 200
    return sent, failed


@pytest.mark.timeout(120)
async def test_a_helper_that_is_killed_fails_no_request(
    collector: Collector, serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    """Traffic goes on, the loss is counted, and the next helper knows what is open."""
    stop, settings = asyncio.Event(), Settings()
    recorder = ProcessRecorder(
        settings,
        Configure(process_environ(collector), {}, {}),
        spans=True,
        back_off=BackOff(first_s=0.05, most_s=0.2),
    )
    telemetry = Telemetry.through(recorder, settings)
    registry = RolloutRegistry(telemetry)
    registry.open("r-1", attributes={"team": "blue"})
    running = asyncio.create_task(requests_until(await serve(make_app(registry)), stop))
    for _ in range(KILLS):
        await asyncio.sleep(random.uniform(0.1, 0.6))  # noqa: S311 - a point in time
        (helper,) = helpers_of(os.getpid())
        os.kill(helper, signal.SIGKILL)
        assert_true(telemetry)
        await asyncio.to_thread(wait_for_another, helper)
    await asyncio.sleep(0.5)
    stop.set()
    sent, failed = await running
    registry.close("r-1")
    flushed = await asyncio.to_thread(telemetry.flush, 20)
    await asyncio.to_thread(telemetry.shutdown)

    balance = telemetry.balance()
    exchanges = {span.span_id for span in collector.spans() if span.kind == SERVER}
    (root,) = [span for span in collector.spans() if span.name == "rollout"]
    assert flushed
    assert failed == 0
    assert balance.ended == sent + 2
    assert balance.dropped == balance.queued == balance.open == 0
    assert_true(telemetry)
    # What was exported before the helper could say so counts as failed.
    assert balance.exported <= len({span.span_id for span in collector.spans()})
    assert len(exchanges) >= sent - balance.failed
    assert attributes_of(root)["intercept.rollout.exchanges"] == sent
    assert attributes_of(root)["team"] == "blue"
    assert caplog.text.count("the telemetry helper has ended") == KILLS


def wait_for_another(helper: int) -> bool:
    """Wait until there is a helper that can export, other than this one."""
    return wait_until(lambda: helpers_of(os.getpid()) not in ([], [helper]))


def test_a_second_helper_ends_what_the_first_one_saw_open(
    collector: Collector,
) -> None:
    """After a restart the helper is told of open rollouts, so it can still end them."""
    program = (
        "import os, signal, sys, time\n"
        "from otel_intercept import RolloutRegistry\n"
        "from otel_intercept.sdk import configure\n"
        "from otel_intercept.record import Request\n"
        "from otel_intercept.semconv import Dialect, Phase\n"
        "from tests.watched import helpers_of\n"
        "from tests.samples import wait_until\n"
        "with configure() as telemetry:\n"
        "    rollout = RolloutRegistry(telemetry).open('r-1')\n"
        "    request = Request('POST', '/v1/x', 'http', Dialect.MESSAGES)\n"
        "    rollout.start_exchange(request, agent_present=lambda _: True).finish()\n"
        "    rollout.start_exchange(request, agent_present=lambda _: True)\n"
        "    rollout.fail(ValueError('x'), phase=Phase.HANDLER)\n"
        "    telemetry.flush()\n"
        "    (first,) = helpers_of(os.getpid())\n"
        "    os.kill(first, signal.SIGKILL)\n"
        "    wait_until(lambda: helpers_of(os.getpid()) not in ([], [first]))\n"
        "    telemetry.flush()\n"
        "    time.sleep(2)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )

    run_program(program, process_environ(collector))

    assert wait_until(lambda: "rollout" in [span.name for span in collector.spans()])
    (root,) = [span for span in collector.spans() if span.name == "rollout"]
    attributes = attributes_of(root)
    assert attributes["intercept.rollout.outcome"] == "aborted"
    assert attributes["intercept.rollout.exchanges"] == 2
    assert attributes["intercept.rollout.failures"] == 1
    assert attributes["error.type"] == "handler_error"
    exchanges = {
        attributes_of(span)["intercept.exchange.index"]: span.end_time_unix_nano
        for span in collector.spans()
        if span.kind == SERVER
    }
    assert exchanges[1] == root.end_time_unix_nano > exchanges[0]


def run_program(program: str, environ: dict[str, str]) -> "subprocess.Popen[str]":
    """Run a program to its end, which may be a violent one."""
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{Path(__file__).parent.parent}", **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.wait(60)
    return process


@pytest.mark.parametrize(
    "death",
    [
        pytest.param("os._exit(3)", id="os._exit"),
        pytest.param("os.execv(sys.executable, [sys.executable, '-V'])", id="exec"),
        pytest.param("os.kill(os.getpid(), 11)", id="crash"),
        pytest.param("os.killpg(0, 9)", id="whole group"),
        pytest.param("os.killpg(0, 2)", id="Ctrl-C, not handled"),
        pytest.param(
            "os.fork() or (time.sleep(99), os._exit(0)); os._exit(0)",
            id="fork lives on",
        ),
    ],
)
def test_any_death_ends_what_was_open(collector: Collector, death: str) -> None:
    """However a server goes, its helper lives on until it has ended the rollouts."""
    program = (
        "import os, signal, sys, time\n"
        "os.setsid()\n"
        "signal.signal(signal.SIGINT, signal.SIG_DFL)\n"
        "from otel_intercept import RolloutRegistry\n"
        "from otel_intercept.sdk import configure\n"
        "with configure() as telemetry:\n"
        "    RolloutRegistry(telemetry).open('r-1')\n"
        f"    {death}\n"
    )

    process = run_program(program, process_environ(collector))

    ended = wait_until(lambda: len(collector.spans()) == 2)
    # A fork that has outlived it.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    assert ended
    outcomes = [
        attributes_of(span).get("intercept.rollout.outcome")
        for span in collector.spans()
    ]
    assert sorted(outcomes, key=str) == [None, "aborted"]


def test_a_fork_has_no_helper_and_says_so(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """In a fork everything is dropped, counted and reported, and the parent goes on."""
    program = (
        "import logging, os, sys\n"
        "logging.basicConfig(stream=sys.stdout, level='WARNING')\n"
        "from otel_intercept.sdk import configure\n"
        "from tests.samples import record_exchanges\n"
        "with configure() as telemetry:\n"
        "    record_exchanges(telemetry, 1)\n"
        "    if not os.fork():\n"
        "        record_exchanges(telemetry, 2)\n"
        "        print(telemetry.flush(), telemetry.shutdown(), flush=True)\n"
        "        os._exit(0)\n"
        "    os.wait()\n"
        "print(telemetry.balance().exported)\n"
    )

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={
            "PYTHONPATH": f"{Path(__file__).parent.parent}",
            **process_environ(collector),
        },
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stderr == ""
    assert done.stdout.count("make it after the fork") == 1
    assert "False Balance(started=3, ended=3, open=0, exported=0" in done.stdout
    assert "failed=0, dropped=3, queued=0)" in done.stdout
    assert done.stdout.endswith("\n1\n")
    assert len(collector.spans()) == 1


def test_a_helper_that_hangs_blocks_nothing(collector: Collector) -> None:
    """While it hangs the queue is bounded, put stays quick, and drops are counted."""
    environ = process_environ(collector, OTEL_BSP_MAX_QUEUE_SIZE="2000")
    number, slow = 30_000, 0
    with configure(environ) as telemetry:
        (helper,) = helpers_of(os.getpid())
        telemetry.begin(True)
        telemetry.begin(True)
        telemetry.put(started())
        os.kill(helper, signal.SIGSTOP)
        for index in range(number):
            telemetry.begin(True)
            before = time.perf_counter()
            telemetry.put(exchange(span_id=index + 1))
            slow += time.perf_counter() - before > 0.1
        stuck = telemetry.balance()
        flushed = telemetry.flush(0.3)
        os.kill(helper, signal.SIGCONT)
        telemetry.flush(30)
        again = telemetry.flush(30)
        balance = telemetry.balance()
        telemetry.put(ended())

    assert not flushed
    assert again
    assert stuck.dropped > number / 2
    assert balance.queued == 0
    assert balance.exported == number + 1 - balance.dropped
    assert_true(telemetry)
    # One that waited for the helper would wait for ever, or each for some time; a
    # machine that stands still holds up the few that it meets.
    assert slow < 10
    counts = counted(collector.metrics())
    exchanges = [n for key, n in counts.items() if "intercept.exchanges " in key]
    assert sum(exchanges) == number


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"OTEL_TRACES_EXPORTER": "console"}, id="console"),
        pytest.param({"OTEL_INTERCEPT_FILE": "/proc/none/spans.jsonl"}, id="file"),
        pytest.param({"OTEL_INTERCEPT_RECORDER": "thred"}, id="word"),
    ],
)
def test_what_a_helper_cannot_do_is_said_at_once(
    collector: Collector, more: dict[str, str]
) -> None:
    """A configuration that cannot work is refused before any traffic, by name."""
    with (
        pytest.raises(ConfigurationError, match="OTEL_INTERCEPT_") as caught,
        configure(process_environ(collector, **more)),
    ):
        pass

    assert "/proc/none" not in str(caught.value)
    assert helpers_of(os.getpid()) == []


def test_objects_cannot_cross() -> None:
    """An exporter that exists in this process cannot be used by another one."""
    with pytest.raises(ConfigurationError, match="configure"):
        Telemetry(
            span_exporter=ConsoleSpanExporter(), settings=Settings(recorder="process")
        )


def test_a_helper_that_cannot_be_configured_is_reported() -> None:
    """A helper that refuses its configuration leaves nothing behind."""
    configure_ = Configure({"OTEL_SDK_DISABLED": "true"}, {}, {})

    with pytest.raises(ConfigurationError, match="helper process cannot export"):
        ProcessRecorder(Settings(), configure_, spans=True)

    assert helpers_of(os.getpid()) == []


def test_nothing_to_export_needs_no_helper() -> None:
    """Without any exporter telemetry is disabled, and no process starts."""
    environ = {
        "OTEL_INTERCEPT_RECORDER": "process",
        "OTEL_TRACES_EXPORTER": "none",
        "OTEL_METRICS_EXPORTER": "none",
    }

    with configure(environ) as telemetry:
        assert not telemetry.enabled
        assert helpers_of(os.getpid()) == []


def test_the_server_loads_no_exporter(collector: Collector) -> None:
    """GRPC and requests are for the helper; the server does not pay for them."""
    program = (
        "import sys\n"
        "from otel_intercept.sdk import configure\n"
        "with configure() as telemetry:\n"
        "    names = 'grpc', 'requests', 'urllib3', 'opentelemetry.exporter'\n"
        "    print(telemetry.enabled, [n for n in names if n in sys.modules])\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        env=process_environ(collector),
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.stdout == "True []\n"


@pytest.mark.parametrize("ends", ["shutdown", "kill"])
def test_no_secret_can_be_seen_of_the_helper(
    collector: Collector, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command line, environment, outputs and what is exported hold no canary."""
    program = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from otel_intercept import RolloutRegistry\n"
        "from otel_intercept.sdk import configure\n"
        "from otel_intercept.semconv import Phase\n"
        "from tests.watched import helpers_of\n"
        "with configure() as telemetry:\n"
        "    (helper,) = helpers_of(os.getpid())\n"
        "    for name in 'cmdline', 'environ':\n"
        "        print(repr(Path(f'/proc/{helper}/{name}').read_bytes()))\n"
        "    print([os.readlink(f'/proc/{helper}/fd/{fd}') for fd in (1, 2)])\n"
        "    rollout = RolloutRegistry(telemetry).open('r-1')\n"
        f"    rollout.fail(ValueError('{CANARY}'), phase=Phase.HANDLER)\n"
        "    sys.stdout.flush()\n"
        f"    {ends == 'kill'} and os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    environ = process_environ(
        collector,
        OTEL_EXPORTER_OTLP_ENDPOINT=f"{collector.url}/{CANARY}",
        OTEL_EXPORTER_OTLP_HEADERS=f"authorization={CANARY}",
        OTEL_INTERCEPT_FINGERPRINT_KEY=f"{CANARY}{CANARY}",
        OTEL_RESOURCE_ATTRIBUTES="team=blue",
        SECRET=CANARY,
    )
    collector.answer = Answer(status=500, reason=CANARY, body=CANARY.encode())

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": f"{Path(__file__).parent.parent}", **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert "otel_intercept.sdk.helper" in done.stdout
    assert "['/dev/null', '/dev/null']" in done.stdout
    assert CANARY not in done.stdout + done.stderr
    assert wait_until(lambda: collector.spans() != [])
    assert all(CANARY.encode() not in got.body for got in collector.received)


@pytest.mark.parametrize("in_step", [True, False])
def test_noise_does_not_stop_a_helper(collector: Collector, in_step: bool) -> None:
    """Frames without sense are skipped; what is no frame ends the helper, cleanly."""
    framer, noise = Framer(), random.Random(7)  # noqa: S311 - as good as any
    configure_ = Configure(process_environ(collector), {}, {"service.name": "x"})
    marker = started()
    kind, message = to_wire(marker, to_ref(marker.rollout))
    child = Child(f"{Path.cwd()}")
    sent = [framer.frame(Kind.CONFIGURE, configure_)]
    kinds = [number for number in range(256) if number != Kind.SHUTDOWN]
    sent += [
        struct.pack("<IBB", 9, noise.choice(kinds), 1) + noise.randbytes(9)
        for _ in range(200)
    ]
    sent += [framer.frame(kind, message, counts=True), b"" if in_step else b"\xff" * 9]

    taken = [child.outlet.write(frame) for frame in sent if frame]
    reached = collector.wait_for("traces")
    child.end(10)

    assert all(taken)
    assert reached
    names = [span.name for span in collector.spans()]
    assert names == ["rollout.started", "rollout"][: 2 if in_step else 1]


def test_a_rollout_without_a_start_can_still_end(collector: Collector) -> None:
    """Records of a rollout that was never put as started name it in full."""
    ref = rollout_ref(rollout_id="r-9", span_id=9)

    with configure(process_environ(collector)) as telemetry:
        telemetry.begin(True)
        telemetry.put(exchange(ref))
        telemetry.begin(True)
        telemetry.put(ended(ref))

    assert [attributes_of(span)["intercept.rollout.id"] for span in collector.spans()]
    assert telemetry.balance().exported == 2


def test_shutdown_is_bounded_and_leaves_no_process(collector: Collector) -> None:
    """A collector that hangs costs the budget, and no helper stays behind."""
    collector.answer = Answer(hang=True)
    environ = process_environ(collector, OTEL_EXPORTER_OTLP_TIMEOUT="60")
    with configure(environ) as telemetry:
        record_exchanges(telemetry, 3)
        (helper,) = helpers_of(os.getpid())

        with Stopwatch() as watch:
            balance = telemetry.shutdown(1.5)

    assert watch.took_s < 3.5
    assert balance.failed + balance.dropped == 3
    assert_true(telemetry)
    assert not is_alive(helper)


def test_a_text_that_cannot_be_told_is_dropped_and_counted(
    collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    """A record that cannot be encoded costs itself alone."""
    ref = rollout_ref(attributes=(("team", "t-\ud800"),), span_id=9)

    with configure(process_environ(collector)) as telemetry:
        telemetry.begin(True)
        telemetry.put(exchange(ref))
        record_exchanges(telemetry, 2)

    assert (telemetry.balance().exported, telemetry.balance().dropped) == (2, 1)
    assert "could not be told" in caplog.text


async def test_a_rollout_id_that_is_no_text_loses_the_same_with_both(
    collector: Collector,
) -> None:
    """A lone surrogate costs the attribute, never the spans, nor the sheet."""
    with HttpCollector() as other:
        by_thread = process_environ(other) | {"OTEL_INTERCEPT_RECORDER": "thread"}
        for environ in (process_environ(collector), by_thread):
            with configure(environ) as telemetry:
                registry = RolloutRegistry(telemetry)
                for rollout_id in ("r-\ud800", "\udfff", "r-\u00fc"):
                    registry.open(rollout_id)
                    registry.close(rollout_id)
            balance = telemetry.balance()
            assert (balance.exported, balance.failed, balance.dropped) == (6, 0, 0)
        expected = shown(other.spans())

    assert shown(collector.spans()) == expected
    assert expected.total() == 6
