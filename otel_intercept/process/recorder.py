"""The process recorder: what telemetry hands its records to when a helper exports."""

from collections.abc import Iterable

from otel_intercept.forks import after_fork
from otel_intercept.process.back_off import BackOff
from otel_intercept.process.channel import Channel
from otel_intercept.process.framing import Kind
from otel_intercept.process.keeper import Keeper
from otel_intercept.process.orders import Configure
from otel_intercept.process.wake import Wake
from otel_intercept.settings import Settings
from otel_intercept.translate.guard import Guard
from otel_intercept.translate.sampling import is_sampled


class ProcessRecorder:
    """Hands records to a helper process, which translates, measures and exports.

    What was put is in a pipe when ``put`` returns, unless the pipe is full: so it gets
    exported even if this process is killed right after. The helper then also ends what
    was open, as ``aborted``. A helper that dies is started again; what it had not
    exported counts as failed. In a fork of this process everything is dropped.

    The threads are those of `Telemetry`.

    Attributes:
        intake: Where the event loop hands records over.

    Args:
        settings: How to sample and queue; the rest is for the helper.
        configuration: What the helper is told of where to export to.
        spans: Whether the helper exports spans.
        back_off: When to start a helper that has died again.

    Raises:
        ConfigurationError: The helper cannot start, or cannot export as configured.
    """

    def __init__(
        self,
        settings: Settings,
        configuration: Configure,
        *,
        spans: bool,
        back_off: BackOff | None = None,
    ) -> None:
        self._sampler = settings.sampler
        self._spans = spans
        self._guard = Guard()
        wake = Wake()
        self._keeper = Keeper(configuration, back_off or BackOff(), wake)
        self.intake = Channel(settings.queue_size, spans=spans, wake=wake.set)
        self._is_forked = False
        self._is_shut_down = False
        self._keeper.start(self.intake)
        after_fork(self.disown)

    @property
    def helper_pid(self) -> int | None:
        """The process id of the helper; None while there is none."""
        return self._keeper.pid

    def sample(self, trace_id: int) -> bool:
        """Decide whether a rollout has spans."""
        return self._spans and is_sampled(self._sampler, trace_id)

    def allow_attribute_keys(self, keys: Iterable[str]) -> frozenset[str]:
        """Let operator attributes through the guard; return those that were taken."""
        accepted = self._guard.declare(keys)
        self.intake.allow(accepted)
        return accepted

    def flush(self, timeout_s: float) -> bool:
        """Export what has ended. True when all of it was confirmed in time."""
        if self._is_shut_down or self._is_forked:
            return False
        lost = self._lost()
        ask = self._keeper.ask(Kind.FLUSH, timeout_s)
        return ask.confirmed and self._lost() == lost

    def shutdown(self, timeout_s: float) -> None:
        """Export what can be within the budget, settle the rest, end the helper."""
        if self._is_shut_down or self._is_forked:
            return
        self._is_shut_down = True
        self._keeper.ask(Kind.SHUTDOWN, timeout_s)
        self._keeper.stop()
        self.intake.close()

    @property
    def held_back(self) -> int:
        """How many items of spans the export guard did not let out."""
        return self._guard.dropped + self._keeper.held_back

    @property
    def idle(self) -> bool:
        """Whether nothing is being exported, nor will be by itself."""
        return self._keeper.idle

    def disown(self) -> None:
        """Drop and count everything from now on: for a fork of the process."""
        self._is_forked = True
        self.intake.abandon()
        self._keeper.disown()

    def _lost(self) -> int:
        balance = self.intake.balance()
        return balance.failed + balance.dropped
