"""Show the rollouts while they are being played."""

from types import TracebackType
from typing import Final, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from otel_intercept.cli.demo.faults import WORDS, Fault
from otel_intercept.cli.demo.loop import Played
from otel_intercept.cli.demo.plan import Planned

_STEPS: Final = 4
_BAR_WIDTH: Final = 24


class Progress:
    """A live view on a terminal; a line at every quarter elsewhere.

    Use it as a context manager. Confined to the event loop's thread, except that the
    view is drawn from another one.

    Args:
        console: Where to show it.
        total: How many rollouts there are.
    """

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._running: dict[str, tuple[Planned, int]] = {}
        self._failed = 0
        self._done = 0
        self._live = Live(
            console=console,
            get_renderable=self.view,
            transient=True,
            auto_refresh=True,
        )

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()
        if not self._console.is_terminal:
            self._console.print()

    def turn(self, planned: Planned, number: int) -> None:
        """Show that a rollout's exchange has begun."""
        self._running = {**self._running, planned.rollout_id: (planned, number)}

    def ended(self, played: Played) -> None:
        """Show that a rollout is over."""
        gone = played.planned.rollout_id
        # A new dict each time, since the view is drawn from another thread.
        self._running = {
            name: item for name, item in self._running.items() if name != gone
        }
        self._done += 1
        self._failed += played.error is not None
        quarter = self._done * _STEPS // self._total
        if not self._console.is_terminal and (
            quarter > (self._done - 1) * _STEPS // self._total
        ):
            self._console.print(f"  {self._summary()}")

    def _summary(self) -> str:
        return f"{self._done} of {self._total} rollouts played, {self._failed} failed"

    def view(self) -> RenderableType:
        """Return what is shown now."""
        bar = ProgressBar(total=self._total, completed=self._done, width=_BAR_WIDTH)
        head = Table.grid(padding=(0, 1))
        head.add_row(bar, self._summary())
        rows = Table.grid(padding=(0, 2))
        for planned, number in self._running.values():
            scenario = planned.scenario
            turn = scenario.turns[min(number, len(scenario.turns)) - 1]
            injected = "" if turn.fault is Fault.NONE else WORDS[turn.fault]
            rows.add_row(
                Text(planned.rollout_id, style="bold", no_wrap=True),
                Text(f"{number}/{len(scenario.turns)}"),
                Text(injected, style="red", no_wrap=True, overflow="ellipsis"),
            )
        return Group(head, rows)
