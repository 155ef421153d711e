"""Run a foreign call that may hang or raise, and wait for it only so long."""

import threading
import time
from collections.abc import Callable


def within(seconds: float, call: Callable[[], object]) -> bool:
    """Run ``call`` in a daemon thread; True when it returned in time, and not False.

    False also when it raised. A call that hangs is left behind: its thread ends with
    it, or with the process.
    """
    returned = threading.Event()
    ended = threading.Event()

    def run() -> None:
        try:
            if call() is not False:
                returned.set()
        except BaseException:  # noqa: BLE001, S110 - its text must not be printed
            pass
        finally:
            ended.set()

    threading.Thread(target=run, name="otel-intercept-bounded", daemon=True).start()
    return ended.wait(seconds) and returned.is_set()


def seconds_until(deadline: float) -> float:
    """Return the seconds left until a time of the monotonic clock; 0 when past."""
    return max(deadline - time.monotonic(), 0.0)
