"""The thread that feeds, hears, restarts and ends the helper process."""

import logging
import os
import select
import threading
import time
from typing import Final

import msgspec

from otel_intercept.errors import ConfigurationError
from otel_intercept.process.asks import Ask, Asks
from otel_intercept.process.back_off import BackOff, Pauses
from otel_intercept.process.channel import Channel
from otel_intercept.process.child import Child
from otel_intercept.process.framing import Frame, Framer, Kind
from otel_intercept.process.orders import (
    Configure,
    Flush,
    decode_fates,
    decode_flushed,
    decode_logged,
)
from otel_intercept.process.wake import Wake
from otel_intercept.translate.complaints import Complaints

_SLICE: Final = 64
_NAP_S: Final = 0.0002
"""Long enough for the event loop to take the interpreter lock between two slices."""

_TICK_S: Final = 0.25
_END_S: Final = 1.0
_START_S: Final = 30.0
_MARGIN_S: Final = 0.25
"""What the helper is given less than the server waits for it."""

_LOGGERS: Final = ("otel_intercept.", "opentelemetry.", "grpc", "requests", "urllib3")

_logger: Final = logging.getLogger("otel_intercept.process")


class Keeper:
    """Owns the helper process. Private methods run in its thread, or before it starts.

    Args:
        configuration: What each helper is told first.
        back_off: When to start one again.
        wake: What makes the thread look.
    """

    def __init__(self, configuration: Configure, back_off: BackOff, wake: Wake) -> None:
        self._configuration = configuration
        self._directory = os.getcwd()  # noqa: PTH109 - a string
        self._pauses = Pauses(back_off)
        self._wake = wake
        self._asks = Asks()
        self._child: Child | None = None
        self._ready = False
        self._refused = False
        self._born_at = 0.0
        self._next_tick = 0.0
        self._ending = False
        self._done = False
        self._complaints = Complaints(_logger)
        self._thread: threading.Thread | None = None
        self.held_back = 0

    @property
    def pid(self) -> int | None:
        """The process id of the helper, or None while there is none."""
        child = self._child
        return None if child is None else child.pid

    @property
    def idle(self) -> bool:
        """Whether no helper lives, nor will by itself."""
        return self._thread is None or not self._thread.is_alive()

    def start(self, channel: Channel) -> None:
        """Start the first helper, wait until it can export, and keep it from then on.

        Blocks for a second or so, for 30 at most.

        Raises:
            ConfigurationError: It cannot start, or cannot export as configured.
        """
        deadline = time.monotonic() + _START_S
        self._spawn()
        while self._is_starting and time.monotonic() < deadline:
            self._poll(channel, deadline - time.monotonic())
        if self._child is None:
            self._wake.close()
            raise ConfigurationError(
                "the helper process cannot export: check that OTEL_INTERCEPT_FILE can "
                "be written, and the certificate, client key and client certificate "
                "of OTEL_EXPORTER_OTLP_*"
                if self._refused
                else "the helper process could not be started: use "
                "OTEL_INTERCEPT_RECORDER=thread"
            )
        # So that the first record finds the way clear, and nobody on it.
        channel.drain(_SLICE)
        channel.tell_totals()
        self._next_tick = time.monotonic() + _TICK_S
        self._thread = threading.Thread(
            target=self._run, args=(channel,), name="otel-intercept-keeper", daemon=True
        )
        self._thread.start()

    def ask(self, kind: Kind, timeout_s: float) -> Ask:
        """Have something done after all that was put, and wait for it. Blocks."""
        ask = Ask(kind, time.monotonic() + timeout_s)
        self._asks.put(ask)
        self._wake.set()
        ask.done.wait(timeout_s)
        return ask

    def stop(self) -> None:
        """End helper and thread, now. Idempotent."""
        self._done = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(_END_S * 2)

    def disown(self) -> None:
        """Let go of helper and pipes in a fork of the server, which has no thread."""
        if self._child is not None:
            self._child.disown()
        self._wake.close()

    @property
    def _is_starting(self) -> bool:
        return self._child is not None and not self._ready

    def _run(self, channel: Channel) -> None:
        while not self._done:
            try:
                self._turn(channel)
            except Exception:  # noqa: BLE001 - nobody would start the thread again
                self._complaints.warn("the keeper of the helper had an error")
                time.sleep(_TICK_S)
        if self._child is not None:
            channel.disconnect()
            self._child.end()
        self._wake.close()

    def _turn(self, channel: Channel) -> None:
        self._asks.look()
        if self._child is None:
            if self._asks.ends or not self._pauses.left_s:
                self._spawn()
        elif self._ready:
            if channel.congested and not channel.broken:
                channel.drain(_SLICE)
            if not channel.congested:
                self._tell(channel)
        elif time.monotonic() - self._born_at > _START_S:
            self._died(channel)
        self._poll(channel, self._patience_s(channel))

    def _patience_s(self, channel: Channel) -> float:
        if self._child is None:
            return min(self._pauses.left_s, _TICK_S)
        waits_for_pipe = channel.blocked or channel.broken
        if self._ready and channel.congested and not waits_for_pipe:
            return _NAP_S
        return _TICK_S

    def _poll(self, channel: Channel, timeout_s: float) -> None:
        poll = select.poll()
        poll.register(self._wake.fd, select.POLLIN)
        child = self._child
        if child is not None:
            poll.register(child.answers_fd, select.POLLIN)
            if self._ready and channel.blocked:
                poll.register(child.data_fd, select.POLLOUT)
        events = dict(poll.poll(max(timeout_s, 0.0) * 1e3))
        if self._wake.fd in events:
            self._wake.clear()
        if child is not None and child.answers_fd in events:
            frames, more = child.read()
            for frame in frames:
                self._hear(channel, child, frame)
            if not more:
                self._died(channel)

    def _hear(self, channel: Channel, child: Child, frame: Frame) -> None:
        try:
            match frame.kind:
                case Kind.READY:
                    channel.connect(child.outlet)
                    self._ready = True
                case Kind.REFUSED:
                    self._refused = True
                case Kind.FATES:
                    fates = decode_fates(frame.payload)
                    channel.hear(fates)
                    self.held_back = fates.held_back
                case Kind.FLUSHED:
                    number, confirmed = decode_flushed(frame.payload)
                    self._asks.settle(number, confirmed=confirmed)
                case Kind.LOGGED:
                    name, level, text = decode_logged(frame.payload)
                    if name.startswith(_LOGGERS):
                        logging.getLogger(name).log(level, "%s", text)
                case _:
                    self._complaints.warn("the helper said something unknown")
        except msgspec.DecodeError:
            self._complaints.warn("the helper said something malformed")

    def _tell(self, channel: Channel) -> None:
        channel.tell_open()
        asks, now = self._asks.unsent(), time.monotonic()
        if (asks or now >= self._next_tick) and channel.tell_totals():
            self._next_tick = now + _TICK_S
        for number, ask in asks:
            left_s = max(ask.deadline - now - _MARGIN_S, _MARGIN_S)
            if ask.kind is Kind.FLUSH:
                ask.sent = channel.send(Kind.FLUSH, Flush(number, left_s))
            else:
                ask.sent = self._ending = channel.send(Kind.SHUTDOWN, left_s)

    def _spawn(self) -> None:
        self._born_at = time.monotonic()
        self._ready = False
        try:
            self._child = Child(self._directory)
        except OSError:
            self._pauses.begin(0.0)
            return
        # It is some hundred bytes, and the pipe is empty.
        frame = Framer().frame(Kind.CONFIGURE, self._configuration)
        self._child.outlet.write(frame)

    def _died(self, channel: Channel) -> None:
        lost = channel.disconnect() if self._ready else 0
        if self._child is not None:
            self._child.end(_END_S if self._ending else 0.0)
        self._child, self._ready = None, False
        self._asks.helper_ended()
        if self._ending:
            self._done = True
            return
        self._pauses.begin(time.monotonic() - self._born_at)
        if self._thread is not None:
            _logger.warning(
                "the telemetry helper has ended: %d records are lost, it is restarted",
                lost,
            )
