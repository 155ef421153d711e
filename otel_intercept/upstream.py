"""See how upstream calls end: as futures, or as ``with`` blocks."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from otel_intercept.clock import Clock
from otel_intercept.failure import Failure
from otel_intercept.ids import new_span_id
from otel_intercept.record import UpstreamWait
from otel_intercept.semconv import Phase

T = TypeVar("T")

Ended: TypeAlias = Callable[[int, BaseException | None, Phase], None]
"""Takes the start (``perf_counter_ns``), what was raised, and the phase."""

MAX_WAITS: Final = 16
"""Upstream waits kept per exchange; of more retries the first ones are kept."""


class _Pending(Protocol):
    @property
    def pending_since(self) -> int | None: ...

    def look(self) -> None: ...


class Upstream:
    """The upstream calls of one exchange: what is pending, and how long each took.

    Args:
        ended: Called once for each call that has ended.
        clock: The exchange's.
    """

    __slots__ = ("_clock", "_ended", "_pending", "waits")

    def __init__(self, ended: Ended, clock: Clock) -> None:
        self._clock = clock
        self._ended = ended
        self._pending: tuple[_Pending, ...] = ()
        self.waits: tuple[UpstreamWait, ...] = ()

    def watch(self, future: "asyncio.Future[T]") -> None:
        """Report the end of a future, which thereby counts as retrieved."""
        self._pending += (_Watch(future, self._ended),)

    def call(self) -> "UpstreamCall":
        """Return a block whose end is reported."""
        return UpstreamCall(self._ended)

    def look(self) -> None:
        """Report futures that have ended, before asyncio tells of them."""
        for pending in self._pending:
            pending.look()

    def let_go(self) -> None:
        """Keep no future any longer, only how long each was waited for until now.

        Those that end later are still reported.
        """
        watches, self._pending = self._pending, ()
        for watch in watches:
            if watch.pending_since is not None:
                self.waited(watch.pending_since, None)

    def waited(self, started: int, failure: Failure | None) -> None:
        """Keep one wait that ends now, within the bound."""
        if len(self.waits) < MAX_WAITS:
            wait = UpstreamWait(
                new_span_id(),
                self._clock.at_ns(started),
                self._clock.now_ns(),
                failure.error_type if failure is not None else None,
            )
            self.waits += (wait,)


class _Watch(Generic[T]):
    """A future whose end is reported once.

    asyncio tells of a future's end only in the next turn of the loop, while a handler
    that awaits a future that is done goes on at once, so the end can also be looked up.
    """

    __slots__ = ("_ended", "_future", "_started")

    def __init__(self, future: "asyncio.Future[T]", ended: Ended) -> None:
        self._future: asyncio.Future[T] | None = future
        self._ended = ended
        self._started = time.perf_counter_ns()
        future.add_done_callback(self._done)

    @property
    def pending_since(self) -> int | None:
        """When the watch began (``perf_counter_ns``), or None once it is over."""
        return None if self._future is None else self._started

    def look(self) -> None:
        """Report the end if it has come, and let go of the future then. Idempotent."""
        if self._future is not None and self._future.done():
            self._done(self._future)

    def _done(self, future: "asyncio.Future[T]") -> None:
        if self._future is None:
            return
        self._future = None
        cancelled = future.cancelled()
        exc = asyncio.CancelledError() if cancelled else future.exception()
        self._ended(self._started, exc, Phase.RESPONSE_FUTURE)


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
        self._ended(self._started, exc, Phase.UPSTREAM_CALL)
