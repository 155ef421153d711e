"""See how upstream calls end: as futures, or as ``with`` blocks."""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

from otel_intercept.delivery import Delivery
from otel_intercept.failure import Failure
from otel_intercept.ids import new_span_id
from otel_intercept.record import UpstreamWait
from otel_intercept.semconv import Phase

T = TypeVar("T")

Ended: TypeAlias = Callable[[int, BaseException | None, Phase], None]
"""Takes the start (``perf_counter_ns``), what was raised, and the phase."""

MAX_WAITS: Final = 16
"""Upstream waits kept per exchange; of more retries the first ones are kept."""

_RESPONSE_FUTURE: Final = Phase.RESPONSE_FUTURE
_UPSTREAM_CALL: Final = Phase.UPSTREAM_CALL


class Pending(Protocol):
    """A future whose end is still to be reported, or has been."""

    @property
    def pending_since(self) -> int | None:
        """When the watch began, or None once it is over."""
        ...

    def look(self) -> None:
        """Report the end if it has come."""
        ...


class UpstreamCalls(Delivery):
    """The upstream calls of an exchange: what is pending, and how long each took."""

    __slots__ = ("_pending", "_waits")

    _pending: tuple[Pending, ...]
    _waits: tuple[UpstreamWait, ...]

    def _look_upstream(self) -> None:
        """Report futures that have ended, before asyncio tells of them."""
        for pending in self._pending:
            pending.look()

    def _let_go(self) -> None:
        """Keep no future any longer, only how long each was waited for until now.

        Those that end later are still reported.
        """
        watches, self._pending = self._pending, ()
        for watch in watches:
            since = watch.pending_since
            if since is not None:
                self._waited(since, None)

    def _waited(self, started: int, failure: Failure | None) -> None:
        """Keep one wait that ends now, within the bound."""
        if len(self._waits) < MAX_WAITS:
            wait = UpstreamWait(
                new_span_id(),
                self._at_ns(started),
                self._now_ns(),
                None if failure is None else failure.error_type,
            )
            self._waits += (wait,)


class Watch(Generic[T]):
    """A future whose end is reported once.

    asyncio tells of a future's end only in the next turn of the loop, while a handler
    that awaits a future that is done goes on at once, so the end can also be looked up.

    Args:
        future: Counts as retrieved once its end is reported.
        ended: Called with the end.
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
        self._ended(self._started, exc, _RESPONSE_FUTURE)


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
        self._ended(self._started, exc, _UPSTREAM_CALL)
