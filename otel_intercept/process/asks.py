"""What callers in other threads wait for the helper to do: flushes, and the end."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue

from otel_intercept.process.framing import Kind


@dataclass(slots=True)
class Ask:
    """Something that a caller waits for.

    Args:
        kind: ``FLUSH`` or ``SHUTDOWN``.
        deadline: When nobody waits any more, on the monotonic clock.
    """

    kind: Kind
    deadline: float
    done: threading.Event = field(default_factory=threading.Event)
    confirmed: bool = False
    sent: bool = False

    def settle(self, *, confirmed: bool) -> None:
        """Let the caller go on."""
        self.confirmed = confirmed
        self.done.set()


class Asks:
    """Those that nobody has settled yet, by number.

    `put` is for any thread, the rest for the keeper's.
    """

    def __init__(self) -> None:
        self._asked: SimpleQueue[Ask] = SimpleQueue()
        self._waiting: dict[int, Ask] = {}
        self._number = 0

    def put(self, ask: Ask) -> None:
        """Hand one over to the keeper."""
        self._asked.put(ask)

    def look(self) -> None:
        """Take up new ones, and forget those whose callers have gone."""
        while not self._asked.empty():
            self._number += 1
            self._waiting[self._number] = self._asked.get()
        now = time.monotonic()
        late = [n for n, ask in self._waiting.items() if ask.deadline < now]
        for number in late:
            del self._waiting[number]

    @property
    def ends(self) -> bool:
        """Whether a shutdown is among them."""
        return any(ask.kind is Kind.SHUTDOWN for ask in self._waiting.values())

    def unsent(self) -> list[tuple[int, Ask]]:
        """Return those that the helper has not been told of."""
        return [(n, ask) for n, ask in self._waiting.items() if not ask.sent]

    def settle(self, number: int, *, confirmed: bool) -> None:
        """Settle one by its number, if it still waits."""
        ask = self._waiting.pop(number, None)
        if ask is not None:
            ask.settle(confirmed=confirmed)

    def helper_ended(self) -> None:
        """Settle all that the helper was told of: only its own end is confirmed."""
        for ask in self._take_sent():
            ask.settle(confirmed=ask.kind is Kind.SHUTDOWN)

    def _take_sent(self) -> Iterator[Ask]:
        for number in [n for n, ask in self._waiting.items() if ask.sent]:
            yield self._waiting.pop(number)
