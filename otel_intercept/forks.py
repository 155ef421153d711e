"""Stand in for what exports where a process was forked: no thread of it runs there."""

import logging
import os
import weakref
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from otel_intercept.record import Record
from otel_intercept.recorder import Recorder

_logger: Final = logging.getLogger("otel_intercept.telemetry")


class Decisions(Protocol):
    """What needs no thread: it is decided where it is asked."""

    def sample(self, trace_id: int) -> bool:
        """Decide whether a rollout has spans."""
        ...

    def allow_attribute_keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Let operator attributes out; return those that were taken."""
        ...


class Forked:
    """Drops and counts all records in a fork, and says so when the first one comes.

    Nothing is started anew: locks may be held by threads that are gone, connections are
    the parent's, and two processes would write the same series. Not the fork itself is
    worth a warning, since most forks never serve a request.

    Args:
        recorder: Where records come. What waits there is the parent's to export.
        decisions: What goes on as before.
    """

    def __init__(self, recorder: Recorder, decisions: Decisions) -> None:
        recorder.close()
        recorder.on_drop = self._note_drop
        self._warned = False
        self.sample: Final = decisions.sample
        self.allow_attribute_keys: Final = decisions.allow_attribute_keys

    def flush(self, _timeout_s: float) -> bool:
        """Export nothing."""
        return False

    def shutdown(self, _timeout_s: float) -> None:
        """Do nothing: all belongs to the parent."""

    @property
    def held_back(self) -> int:
        """How many items were not let out: none comes that far."""
        return 0

    @property
    def idle(self) -> bool:
        """Whether nothing is being exported."""
        return True

    def _note_drop(self, _record: Record) -> None:
        if not self._warned:
            self._warned = True
            _logger.warning(
                "telemetry was made before this process was forked and exports nothing "
                "here: make it after the fork"
            )


def after_fork(method: Callable[[], None]) -> None:
    """Have a method called in each fork of this process while its object lives.

    Args:
        method: A bound method, which must neither block nor raise.
    """
    known = weakref.WeakMethod(method)

    def call() -> None:
        alive = known()
        if alive is not None:
            alive()

    os.register_at_fork(after_in_child=call)
