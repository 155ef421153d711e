"""See how upstream calls end: as futures, or as ``with`` blocks."""

import asyncio
import concurrent.futures
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Protocol, TypeAlias

from otel_intercept.delivery import Delivery
from otel_intercept.failure import Failure
from otel_intercept.ids import draw_span_id, new_span_id
from otel_intercept.owner import Intake
from otel_intercept.record import UpstreamWait
from otel_intercept.semconv import Phase
from otel_intercept.shield import confess, shielded
from otel_intercept.timings import Timings
from otel_intercept.trouble import Trouble

Ended: TypeAlias = Callable[[int, BaseException | None], None]
"""Takes the start (``perf_counter_ns``), and what was raised."""

MAX_WAITS: Final = 16
"""Upstream waits kept per exchange; of more retries the first ones are kept."""

UNHEARD: Final = -1
"""Stands for the start of a wait whose end asyncio was not asked to tell of."""

_RESPONSE_FUTURE: Final = Phase.RESPONSE_FUTURE
_UPSTREAM_CALL: Final = Phase.UPSTREAM_CALL
# What a future raises to say so, depending on whose it is.
_CANCELLED: Final = (asyncio.CancelledError, concurrent.futures.CancelledError)

UNTIMED: Final = (UpstreamWait(0, 0, 0, None),)
"""Stands for one wait that went well, of which nobody will ask when it was."""


class Watched(Protocol):
    """A future, whatever it ends with."""

    def done(self) -> bool:
        """Whether it has ended."""

    def exception(self) -> BaseException | None:
        """Return what it failed with. Raises a cancellation if it was cancelled."""

    def add_done_callback(self, callback: "Callable[[Watched], None]", /) -> object:
        """Have a function called in a later turn of the loop, once it has ended."""


Watch: TypeAlias = tuple[Watched, int | None]
"""A future, and since when it is waited for."""


class UpstreamCalls(Delivery):
    """The upstream calls of an exchange: what is pending, and how long each took.

    asyncio tells of a future's end only in the next turn of the loop, while a handler
    that awaits a future that is done goes on at once, so the end is also looked up.

    Without telemetry asyncio is not even asked to tell of the first future, which would
    cost more than all else then. Before the answer begins and while there is no trouble
    its end changes nothing by itself, so it is soon enough to hear of it when somebody
    asks, or when something happens that it has to come before.
    """

    __slots__ = (
        "_intake", "_pending", "_timings", "_trouble", "_waited_ns", "_waits",
    )  # fmt: skip

    _intake: Intake | None
    """Takes the record; None if telemetry is off, and there is no use for one."""

    _pending: tuple[Watch, ...]
    """What asyncio has not told of yet, and since when it is waited for
    (``perf_counter_ns``); None once its end was looked up. `UNHEARD` only stands alone,
    without telemetry, while no answer has begun and no cause of trouble is known."""

    _timings: Timings | None
    """Takes what was measured in place of a record; None if there has to be one."""

    _trouble: Trouble | None

    _waited_ns: int
    """How long the one wait took that `UNTIMED` stands for, if there is any use."""

    _waits: tuple[UpstreamWait, ...]

    @shielded
    def hear_upstream(self) -> None:
        """Take in what futures have ended with, for who asks for it or changes it."""
        if self._pending:
            self._hear()

    def _future_ended(self, future: Watched) -> None:
        """Report a future's end, unless that was looked up. For asyncio to call."""
        try:
            try:
                exc = future.exception()
            except _CANCELLED:
                exc = asyncio.CancelledError()
            pending = self._pending
            # Nearly always it is the only one, and all is well.
            if (
                exc is None
                and len(pending) == 1
                and self._trouble is None
                and not self._waits
            ):
                known, since = pending[0]
                if known is future and since is not None:
                    self._pending = ()
                    now = time.perf_counter_ns()
                    if self._timings is not None or self._intake is None:
                        self._waited_ns = now - since
                        self._waits = UNTIMED
                        return
                    try:
                        span_id = draw_span_id()
                    except IndexError:
                        span_id = new_span_id()
                    epoch_ns = self._epoch_ns
                    self._waits = (
                        UpstreamWait(
                            span_id,
                            epoch_ns + since,
                            epoch_ns + now,
                            None,
                        ),
                    )
                    return
            self._any_future_ended(future, exc)
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("Exchange.watch")

    def _any_future_ended(self, future: Watched, exc: BaseException | None) -> None:
        # One that is not among them was let go when the exchange ended.
        since: int | None = 0
        for at, (known, known_since) in enumerate(self._pending):
            if known is future:
                since = known_since
                self._pending = (*self._pending[:at], *self._pending[at + 1 :])
                break
        if since is not None:
            self._upstream_ended(since, exc, _RESPONSE_FUTURE)

    def _look_upstream(self) -> None:
        """Report futures that have ended, before asyncio tells of them."""
        pending = self._pending
        if pending and pending[0][1] == UNHEARD:
            future = pending[0][0]
            if future.done():
                self._pending = ()
                exc = _exception_of(future)
                if exc is None:
                    # What could have gone wrong before would have had it heard of.
                    self._waits = UNTIMED
                else:
                    self._upstream_ended(UNHEARD, exc, _RESPONSE_FUTURE)
            return
        for watch in pending:
            future, since = watch
            if since is None or not future.done():
                continue
            # A report may have had the others looked up on the way.
            if any(one is watch for one in self._pending):
                self._pending = tuple(
                    (future, None) if one is watch else one for one in self._pending
                )
                self._upstream_ended(since, _exception_of(future), _RESPONSE_FUTURE)

    def _hear(self) -> None:
        """Report what has ended, and have asyncio tell of what has not."""
        self._look_upstream()
        pending = self._pending
        if pending and pending[0][1] == UNHEARD:
            future = pending[0][0]
            future.add_done_callback(self._future_ended)
            self._pending = ((future, time.perf_counter_ns()),)

    def _call_ended(self, started: int, exc: BaseException | None) -> None:
        """Report that an upstream call has ended now, after what ended before it."""
        self.hear_upstream()
        self._upstream_ended(started, exc, _UPSTREAM_CALL)

    def _let_go(self) -> None:
        """Keep no future that runs, only how long each was waited for until now.

        Those that end later are still reported.
        """
        self._hear()
        watches = self._pending
        self._pending = tuple(watch for watch in watches if watch[1] is None)
        for _, since in watches:
            if since is not None:
                self._waited(since, None)

    def _waited(self, started: int, failure: Failure | None) -> None:
        """Keep one wait that ends now, within the bound."""
        if self._intake is None:
            self._waits = UNTIMED
        elif self._timings is not None and failure is None and not self._waits:
            self._waited_ns = time.perf_counter_ns() - started
            self._waits = UNTIMED
        elif len(self._waits) < MAX_WAITS:
            wait = UpstreamWait(
                new_span_id(),
                self._epoch_ns + started,
                self._now_ns(),
                None if failure is None else failure.error_type,
            )
            self._waits = (*self._timed_waits(), wait)

    def _timed_waits(self) -> tuple[UpstreamWait, ...]:
        """Return the waits for a record; what was not kept is made up."""
        if self._waits is not UNTIMED:
            return self._waits
        start_ns = self._start_ns
        end_ns = start_ns + self._waited_ns
        return (UpstreamWait(new_span_id(), start_ns, end_ns, None),)

    def _upstream_ended(
        self, started: int, exc: BaseException | None, phase: Phase
    ) -> None:
        """Take in that an upstream call has ended now."""
        raise NotImplementedError


class UpstreamCall:
    """The ``with`` block of `Exchange.upstream_call`: times it, swallows nothing."""

    __slots__ = ("_ended", "_started")

    def __init__(self, ended: Ended) -> None:
        self._ended = ended
        self._started = 0

    def __enter__(self) -> None:
        self._started = time.perf_counter_ns()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended(self._started, exc)


def _exception_of(future: Watched) -> BaseException | None:
    try:
        return future.exception()
    except _CANCELLED:
        # A new one: what was raised here holds this frame, and so itself.
        return asyncio.CancelledError()
