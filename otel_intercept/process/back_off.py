"""Say when a helper that has died may be started again."""

import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackOff:
    """How long to wait between two helpers.

    Args:
        first_s: The first pause; each further one is twice as long.
        most_s: The longest.
        healthy_s: A helper that has lived so long is followed by a first pause again.
    """

    first_s: float = 0.1
    most_s: float = 30.0
    healthy_s: float = 10.0


class Pauses:
    """The pauses between the helpers of one server. For one thread.

    Args:
        back_off: How long they are.
    """

    def __init__(self, back_off: BackOff) -> None:
        self._back_off = back_off
        self._pause_s = back_off.first_s
        self._until = 0.0

    @property
    def left_s(self) -> float:
        """Seconds until the next helper may start."""
        return max(self._until - time.monotonic(), 0.0)

    def begin(self, lived_s: float) -> None:
        """Begin a pause, after a helper that has lived so long."""
        if lived_s >= self._back_off.healthy_s:
            self._pause_s = self._back_off.first_s
        self._until = time.monotonic() + self._pause_s
        self._pause_s = min(self._pause_s * 2, self._back_off.most_s)
