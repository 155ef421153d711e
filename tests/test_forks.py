"""In a fork no thread of ours runs: nothing is exported there, and somebody is told."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.collectors import Collector, HttpCollector
from tests.watched import process_environ

PROGRAM = """\
import logging, os, signal, sys, time
logging.basicConfig(stream=sys.stdout, level="INFO")
from otel_intercept import RolloutRegistry
from otel_intercept.sdk import configure
from tests.samples import record_exchanges

with configure() as telemetry:
    registry = RolloutRegistry(telemetry)
    registry.open("of the parent")
    record_exchanges(telemetry, 1)
    if not os.fork():
        {child}
    os.wait()
    registry.close_all()
    telemetry.flush()
"""

READER = """\
import os
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from otel_intercept import Telemetry
from tests.samples import record_exchanges

reader = InMemoryMetricReader()
telemetry = Telemetry(metric_reader=reader)
record_exchanges(telemetry, 1)
if not os.fork():
    print(reader.get_metrics_data().resource_metrics, flush=True)
    os._exit(0)
os.wait()
print(len(reader.get_metrics_data().resource_metrics))
"""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Collect OTLP over HTTP."""
    with HttpCollector() as server:
        yield server


def run(program: str, environ: dict[str, str]) -> str:
    """Run a program in which every warning is an error; return what it printed."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        env={"PYTHONPATH": f"{Path(__file__).parent.parent}", **environ},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout


def threaded(collector: Collector) -> dict[str, str]:
    """Return an environment in which a thread exports, to this collector."""
    return process_environ(
        collector, OTEL_INTERCEPT_RECORDER="thread", OTEL_BSP_SCHEDULE_DELAY="30000"
    )


def test_a_fork_of_a_process_with_a_thread_says_so(collector: Collector) -> None:
    """In it everything is dropped, counted and reported; the parent goes on."""
    child = (
        "record_exchanges(telemetry, 2); registry.open('of the child'); "
        "print(telemetry.flush(), telemetry.shutdown(), flush=True); os._exit(0)"
    )

    printed = run(PROGRAM.format(child=child), threaded(collector))

    assert printed.count("make it after the fork") == 1
    # An exchange and a marker that waited are the parent's; five are of the child.
    assert "False Balance(started=7, ended=7, open=0, exported=0" in printed
    assert "failed=0, dropped=7, queued=0)" in printed
    assert sorted(span.name for span in collector.spans()) == [
        "POST /rollout/{rollout_id}/v1/chat/completions",
        "rollout",
        "rollout.started",
    ]


def test_a_fork_that_records_nothing_is_not_warned_of(collector: Collector) -> None:
    """Most forks never serve a request: they are as quiet as without us."""
    printed = run(PROGRAM.format(child="os._exit(0)"), threaded(collector))

    assert "make it after the fork" not in printed
    assert len(collector.spans()) == 3


def test_a_fork_that_ends_of_itself_leaves_the_rest_to_its_parent(
    collector: Collector,
) -> None:
    """It leaves the block of `configure`, and nothing waits there or is exported."""
    printed = run(PROGRAM.format(child="sys.exit(0)"), threaded(collector))

    assert printed.count("telemetry balance:") == 2
    assert len(collector.spans()) == 3


def test_no_metrics_leave_a_fork(collector: Collector) -> None:
    """A reader of the SDK lives on in it, and would use the parent's connection."""
    child = (
        "os.kill(os.getppid(), signal.SIGSTOP); time.sleep(0.3); "
        "began_ns = time.time_ns(); time.sleep(0.5); "
        "print('silent', began_ns, time.time_ns(), flush=True); "
        "os.kill(os.getppid(), signal.SIGCONT); os._exit(0)"
    )
    environ = threaded(collector) | {"OTEL_METRIC_EXPORT_INTERVAL": "50"}

    printed = run(PROGRAM.format(child=child), environ)

    (silent,) = [line for line in printed.splitlines() if line.startswith("silent")]
    began_ns, ended_ns = map(int, silent.split()[1:])
    times = [
        point.time_unix_nano
        for metric in collector.metrics()
        for point in metric.sum.data_points
    ]
    assert times
    assert all(it.body for it in collector.received)
    assert not [it for it in times if began_ns < it < ended_ns]


def test_telemetry_that_is_made_in_a_fork_is_whole(collector: Collector) -> None:
    """What the warning says to do works."""
    child = (
        "made = configure()\n"
        "        with made as own:\n"
        "            record_exchanges(own, 1)\n"
        "        os._exit(0)"
    )

    printed = run(PROGRAM.format(child=child), threaded(collector))

    assert "make it after the fork" not in printed
    assert len(collector.spans()) == 4


def test_a_reader_reads_nothing_in_a_fork() -> None:
    """The SDK's readers go on there, and would write over the parent's series."""
    assert run(READER, {}) == "[]\n1\n"
