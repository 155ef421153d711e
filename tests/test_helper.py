"""What a helper does, looked at from within: its loop on real pipes, in a thread."""

import logging
import os
import select
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from otel_intercept.process.framing import Frame, Framer, FrameReader, Kind
from otel_intercept.process.messages import SpanRecord, to_ref, to_wire
from otel_intercept.process.orders import (
    Configure,
    Fates,
    Flush,
    Flushed,
    Logged,
    decode_fates,
    decode_flushed,
    decode_logged,
)
from otel_intercept.sdk.answers import Answers, LogRelay
from otel_intercept.sdk.helper import Helper
from tests.collectors import Answer, Collector, HttpCollector
from tests.samples import ended, exchange, rollout_ref, started
from tests.stopwatch import Stopwatch
from tests.watched import attributes_of, process_environ

CANARY = "sk-canary-55f0"


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Collect OTLP over HTTP."""
    with HttpCollector() as server:
        yield server


@dataclass
class Server:
    """The other side of a helper: what a server does with the two pipes.

    Args:
        data_in: Where frames are written.
        answers_out: Where answers are read.
        thread: What the helper runs in.
    """

    data_in: int
    answers_out: int
    thread: threading.Thread
    reader: FrameReader = field(default_factory=FrameReader)
    heard: list[Frame] = field(default_factory=list)

    def say(self, kind: Kind, message: object, *, counts: bool = False) -> None:
        os.write(self.data_in, Framer().frame(kind, message, counts=counts))

    def put(self, record: SpanRecord) -> None:
        kind, message = to_wire(record, to_ref(record.rollout))
        self.say(kind, message, counts=True)

    def hear(self, kind: Kind, timeout_s: float = 30.0) -> Frame:
        """Wait for an answer of a kind; others are kept in `heard`."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if select.select([self.answers_out], [], [], 0.1)[0]:
                data = os.read(self.answers_out, 65536)
                for frame in self.reader.feed(data):
                    self.heard.append(frame)
            for frame in self.heard:
                if frame.kind == kind:
                    return frame
        raise AssertionError(f"no {kind.name} in time")

    def close(self) -> None:
        """Close the pipe, as the death of a server does, and wait for the helper."""
        if self.data_in >= 0:
            os.close(self.data_in)
            self.data_in = -1
        self.thread.join(15)
        assert not self.thread.is_alive()


@contextmanager
def helper() -> Iterator[Server]:
    """Run a helper's loop in a thread."""
    data_out, data_in = os.pipe()
    answers_out, answers_in = os.pipe()
    one = Helper(data_out, Answers(answers_in))
    server = Server(data_in, answers_out, threading.Thread(target=one.run))
    server.thread.start()
    try:
        yield server
    finally:
        server.close()
        for fd in (data_out, answers_out, answers_in):
            os.close(fd)


def configure(collector: Collector, **more: str) -> Configure:
    """Return what a helper is told first."""
    environ = process_environ(collector, **more)
    return Configure(environ, {}, {"service.name": "watched"})


def test_a_flush_confirms_and_tells_the_fates(collector: Collector) -> None:
    """What came before a flush is exported when it is confirmed, with allowed keys."""
    ref = rollout_ref(attributes=(("team", "blue"), ("colour", "red")))
    with helper() as server:
        server.say(Kind.CONFIGURE, configure(collector))
        server.hear(Kind.READY)
        server.say(Kind.DECLARE, ("team",))
        server.put(started(ref))
        server.put(ended(ref))
        server.say(Kind.FLUSH, Flush(3, 5.0))
        flushed = decode_flushed(server.hear(Kind.FLUSHED).payload)
        fates = decode_fates(server.hear(Kind.FATES).payload)
        server.say(Kind.SHUTDOWN, 1.0)
        server.thread.join(10)

    assert flushed == Flushed(3, True)
    assert fates == Fates(2, 0, 0, 2)
    for span in collector.spans():
        assert attributes_of(span)["team"] == "blue"
        assert "colour" not in attributes_of(span)


def test_the_end_of_the_pipe_is_the_end_of_what_was_open(collector: Collector) -> None:
    """When the pipe closes, what is open is ended and exported."""
    with helper() as server:
        server.say(Kind.CONFIGURE, configure(collector))
        server.hear(Kind.READY)
        server.put(started())
        server.close()
        fates = decode_fates(server.hear(Kind.FATES).payload)

    assert fates.exported + fates.failed == 2
    outcomes = [
        attributes_of(span).get("intercept.rollout.outcome")
        for span in collector.spans()
    ]
    assert outcomes == [None, "aborted"]


def test_what_is_no_frame_ends_the_helper_but_no_rollout(collector: Collector) -> None:
    """A helper that cannot follow leaves open work to the next one."""
    with helper() as server:
        server.say(Kind.CONFIGURE, configure(collector))
        server.hear(Kind.READY)
        server.put(started())
        os.write(server.data_in, b"\xff" * 20)
        server.thread.join(15)

    assert [span.name for span in collector.spans()] == ["rollout.started"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Kind.CONFIGURE, Configure({"OTEL_SDK_DISABLED": "true"}, {}, {})),
        (Kind.CONFIGURE, Configure({"OTEL_TRACES_EXPORTER": "x"}, {}, {})),
        (Kind.CONFIGURE, "nonsense"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    kind: Kind, message: object
) -> None:
    """The server learns that it has no helper, and not why: that may be a secret."""
    with helper() as server:
        server.say(kind, message)
        refused = server.hear(Kind.REFUSED)
        server.thread.join(10)

    assert refused.payload == b"\xc0"


def test_a_helper_without_a_configuration_ends() -> None:
    """Whatever else comes first, nothing is exported."""
    with helper() as server:
        server.put(started())
        server.thread.join(10)

        assert not server.thread.is_alive()


def test_a_malformed_end_is_an_end(collector: Collector) -> None:
    """A shutdown whose seconds cannot be read still is one."""
    with helper() as server:
        server.say(Kind.CONFIGURE, configure(collector))
        server.hear(Kind.READY)
        server.put(exchange())
        server.say(Kind.FLUSH, "soon")
        server.say(Kind.SHUTDOWN, "now")
        server.thread.join(15)

        assert decode_fates(server.hear(Kind.FATES).payload).exported == 1


def test_warnings_go_to_the_server_without_what_hangs_on_them() -> None:
    """A line of the helper's log arrives as name, level and text, and nothing else."""
    out, into = os.pipe()
    logger = logging.getLogger("otel_intercept.sdk.relayed")
    relay = LogRelay(Answers(into))
    logger.addHandler(relay)

    raised = ValueError(CANARY)
    logger.warning("spans were not exported (HTTP %d)", 503, exc_info=raised)
    logger.info(CANARY)
    data = os.read(out, 65536)
    os.close(out)
    logger.warning("nobody listens")
    logger.removeHandler(relay)
    os.close(into)

    (frame,) = FrameReader().feed(data)
    assert CANARY.encode() not in data
    assert decode_logged(frame.payload) == Logged(
        "otel_intercept.sdk.relayed",
        logging.WARNING,
        "spans were not exported (HTTP 503)",
    )


def test_a_server_that_does_not_listen_holds_nobody_up() -> None:
    """When the way back is full an answer is given up after a second."""
    out, into = os.pipe()
    answers = Answers(into)
    for _ in range(20_000):
        try:
            os.write(into, b"x" * 4096)
        except BlockingIOError:
            break

    before = time.monotonic()
    with Stopwatch() as watch:
        answers.send(Kind.READY)
    at_most_s = time.monotonic() - before
    os.close(out)
    os.close(into)

    assert at_most_s > 0.5
    assert watch.took_s < 3


def test_a_collector_that_hangs_does_not_stop_the_reading(
    collector: Collector,
) -> None:
    """While a flush waits for the collector, frames are read and counted."""
    collector.answer = Answer(hang=True)
    with helper() as server:
        server.say(
            Kind.CONFIGURE, configure(collector, OTEL_EXPORTER_OTLP_TIMEOUT="30")
        )
        server.hear(Kind.READY)
        server.put(exchange())
        server.say(Kind.FLUSH, Flush(1, 1.0))
        server.put(exchange(span_id=2))
        flushed = decode_flushed(server.hear(Kind.FLUSHED).payload)
        server.say(Kind.SHUTDOWN, 0.5)
        server.thread.join(15)
        while server.heard:
            server.heard.pop()
        fates = decode_fates(server.hear(Kind.FATES).payload)

    assert flushed == Flushed(1, False)
    assert fates.failed + fates.dropped == 2
