"""The helper process: exports what its server records, and outlives it for a moment.

Started by `otel_intercept.process`, never by hand. Reads frames from its standard input
until that ends. It ignores the signals that are meant for the server, and ends by
itself: at once when told to, else within some seconds of the server's death.
"""

import contextlib
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from typing import Final, NoReturn

import msgspec

from otel_intercept.errors import ConfigurationError
from otel_intercept.process.framing import FrameReader, Kind, OutOfStepError, Run
from otel_intercept.process.orders import (
    Fates,
    Flushed,
    decode_configure,
    decode_flush,
    decode_keys,
    decode_seconds,
)
from otel_intercept.sdk.answers import Answers, LogRelay
from otel_intercept.sdk.engine import Engine

LAST_WORDS_S: Final = 5.0
"""Seconds that the helper has, once the server has died, to export what it knows."""

_WATCHDOG_S: Final = 2.0
_READ_BYTES: Final = 1 << 20
_TICK_S: Final = 0.25
_NAP_S: Final = 0.025
_DROWSY_S: Final = 1.0
"""Between two reads, and since the last frame until one may wake the helper: a write
that wakes somebody takes the server 10 to 1000 times as long as one that does not."""


class Helper:
    """Does what frames say until it is told to stop or there are no more.

    Args:
        data_fd: Where frames come from.
        answers: The way back.
    """

    def __init__(self, data_fd: int, answers: Answers) -> None:
        self._data_fd = data_fd
        self._answers = answers
        self._parent = os.getppid()
        self._reader = FrameReader()
        self._engine: Engine | None = None
        self._told = Fates(0, 0, 0, 0)

    def run(self) -> None:
        """Run until the end, which is also that of everything that exports here."""
        runs = self._runs()
        first = next(runs, None)
        if first is None or first.kind != Kind.CONFIGURE:
            return
        try:
            self._engine = engine = Engine(decode_configure(first.payloads[0]))
        except (ConfigurationError, msgspec.DecodeError):
            self._answers.send(Kind.REFUSED)
            return
        self._answers.send(Kind.READY)
        try:
            take = engine.take
            for run in runs:
                if take(run):
                    continue
                if run.kind == Kind.SHUTDOWN:
                    self._end(engine, _seconds_of(run.payloads[0]))
                    return
                for payload in run.payloads:
                    self._take_other(engine, run.kind, payload)
        except OutOfStepError:
            # The server lives; it will tell another helper what is open.
            pass
        else:
            engine.server_died()
        self._end(engine, LAST_WORDS_S)

    def _runs(self) -> Iterator[Run]:
        """Yield what comes, until the pipe has ended or the server has died.

        Raises:
            OutOfStepError: What comes are no frames.
        """
        poll = select.poll()
        poll.register(self._data_fd, select.POLLIN)
        heard_at = next_tick = 0.0
        while True:
            now = time.monotonic()
            if poll.poll(_TICK_S * 1e3 if now - heard_at > _DROWSY_S else 0):
                data = os.read(self._data_fd, _READ_BYTES)
                if not data:
                    return
                yield from self._reader.feed_runs(data)
                heard_at = now
            elif os.getppid() != self._parent:
                # Something that the server has started may still hold the pipe.
                return
            if now >= next_tick:
                next_tick = now + _TICK_S
                self._tell_fates()
            time.sleep(_NAP_S)

    def _take_other(self, engine: Engine, kind: int, payload: bytes) -> None:
        with contextlib.suppress(msgspec.DecodeError):
            if kind == Kind.FLUSH:
                flush = decode_flush(payload)
                # Reading goes on meanwhile, so that the server's pipe stays clear.
                threading.Thread(
                    target=self._flush, args=(engine, *flush), daemon=True
                ).start()
            elif kind == Kind.DECLARE:
                engine.allow_attribute_keys(decode_keys(payload))

    def _flush(self, engine: Engine, number: int, timeout_s: float) -> None:
        confirmed = engine.flush(timeout_s)
        self._tell_fates()
        self._answers.send(Kind.FLUSHED, Flushed(number, confirmed))

    def _end(self, engine: Engine, timeout_s: float) -> None:
        watchdog = threading.Timer(timeout_s + _WATCHDOG_S, os._exit, (1,))
        watchdog.daemon = True
        watchdog.start()
        engine.shutdown(timeout_s)
        self._tell_fates()
        watchdog.cancel()

    def _tell_fates(self) -> None:
        fates = self._told if self._engine is None else self._engine.fates
        if fates != self._told:
            self._told = fates
            self._answers.send(Kind.FATES, fates)


def _seconds_of(payload: bytes) -> float:
    try:
        return decode_seconds(payload)
    except msgspec.DecodeError:
        return LAST_WORDS_S


def main() -> NoReturn:
    """Run the helper, and say nothing on any output, whatever happens."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        # It never takes the processor from the server just because it has woken up.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    code = 1
    try:
        answers = Answers(int(sys.argv[1]))
        logging.raiseExceptions = False
        logging.getLogger().addHandler(LogRelay(answers))
        Helper(sys.stdin.fileno(), answers).run()
        code = 0
    finally:
        # No exit handler of a library may hold it up, and no traceback is printed.
        os._exit(code)


if __name__ == "__main__":
    main()
