"""Telemetry that an instrumentor set up itself, and so has to wind down itself."""

import atexit
import os
import signal
import threading
from contextlib import ExitStack
from types import FrameType
from typing import Final

from otel_intercept.sdk import adopt_global_providers, configure

SIGNAL_BUDGET_S: Final = 2.0
"""Seconds that SIGTERM waits for the last export."""


class OwnedTelemetry:
    """Telemetry of this process, until it is closed.

    It goes through the global SDK providers where the application has set them, else to
    where the environment variables say. It is closed at exit too. Where SIGTERM would
    end the process at once, it is closed first, within 2 seconds; then the process dies
    by SIGTERM as it would have. A host that handles SIGTERM is left alone. Python runs
    handlers between two bytecodes, so a main thread that is busy in C code dies only
    once it is back.

    Raises:
        ConfigurationError: A variable has a value that is not allowed.
    """

    def __init__(self) -> None:
        self._stack = ExitStack()
        adopted = adopt_global_providers()
        if adopted is not None:
            self._stack.callback(adopted.shutdown)
        self.telemetry: Final = adopted or self._stack.enter_context(configure())
        self._pid = os.getpid()
        self._handles_signal = (
            self.telemetry.enabled
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        )
        if self._handles_signal:
            signal.signal(signal.SIGTERM, self._die)
        # Registered after what the SDK registers for itself, so that it runs before.
        atexit.register(self.close)

    def close(self) -> None:
        """Shut the telemetry down, and give SIGTERM back. Idempotent. Blocks."""
        atexit.unregister(self.close)
        if self._pid == os.getpid():
            self._stack.close()
        if (
            self._handles_signal
            and threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGTERM) == self._die
        ):
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    def _die(self, number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        if self._pid == os.getpid():
            # In a thread, since the frame that was interrupted may hold a lock.
            last = threading.Thread(
                target=self.telemetry.shutdown, args=(SIGNAL_BUDGET_S,), daemon=True
            )
            last.start()
            last.join(SIGNAL_BUDGET_S)
        os.kill(os.getpid(), number)
