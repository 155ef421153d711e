"""Give numbers to what many exchanges have in common, so that it is told once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from otel_intercept.process.messages import MAX_NUMBERS, to_common
from otel_intercept.record import ExchangeEnded, Request, RequestFacts
from otel_intercept.semconv import ExchangeOutcome

_Key: TypeAlias = tuple[int, int, bool, int | None, int]


@dataclass(slots=True)
class _Alike:
    """What exchanges have in common, and its number if the helper knows one."""

    request: Request | None = None
    asked: RequestFacts | None = None
    stream: bool = False
    status: int | None = None
    outcome: ExchangeOutcome | None = None
    number: int | None = None


class Commons:
    """The numbers that one helper after the other knows. For one thread at a time.

    Those who make requests and their facts remember them, so what is alike is nearly
    always the same object, and is found without a look at what is in it.

    Args:
        tell: Tells the helper what a number means; False when it was not taken.

    Attributes:
        last: What the last exchange with a number had in common with others.
    """

    def __init__(self, tell: Callable[[tuple[int, object]], bool]) -> None:
        self._tell = tell
        self.last = _Alike()
        # What is in here is held, so nothing else gets its identity.
        self._seen: dict[_Key, _Alike] = {}
        self._numbers = 0

    def start_again(self) -> None:
        """Forget all numbers: what they are given to next overwrites them."""
        self.last = _Alike()
        self._seen.clear()
        self._numbers = 0

    def of(self, record: ExchangeEnded) -> object:
        """Return what an exchange shares with others; the second time, its number."""
        common = _request, asked, stream, status, outcome = to_common(record)
        # No other exchange has the agent's own link.
        if record.request.link is not None:
            return common
        key = (id(record.request), id(asked), stream, status, id(outcome))
        alike = self._seen.get(key)
        if alike is None:
            if len(self._seen) >= MAX_NUMBERS:
                self.start_again()
            self._seen[key] = _Alike(record.request, asked, stream, status, outcome)
            return common
        if alike.number is None:
            if not self._tell((self._numbers, common)):
                return common
            alike.number = self._numbers
            self._numbers += 1
        self.last = alike
        return alike.number
