"""Instrument the processes that verifiers starts for its environments.

They are spawned: nothing of the parent is there but what is pickled to them, and they
end by SIGTERM. So their target is replaced by one that instruments before it.
"""

import multiprocessing.context
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from otel_intercept.instrumentation.verifiers.host import Host, Options
from otel_intercept.instrumentation.verifiers.patches import Patches

_HOST_PACKAGE: Final = "verifiers."
_SPAWNED: Final = (
    multiprocessing.context.SpawnProcess,
    multiprocessing.context.ForkServerProcess,
)


Begin: TypeAlias = Callable[[Options], Callable[[], None]]
"""Instruments a process, and returns what ends that; neither ever raises."""


@dataclass(frozen=True, slots=True)
class Worker:
    """The target of a spawned process: instruments it, then runs what it is for.

    Telemetry comes from the environment variables there. It is flushed when the target
    returns or raises, which is how verifiers' own SIGTERM handlers end it; SIGTERM
    before those are installed is handled by the telemetry itself.

    Args:
        target: What the process is for. It must be picklable, as it had to be before.
        options: Those of the parent.
        begin: Instruments the process it runs in. It must be picklable.
    """

    target: Callable[..., object]
    options: Options
    begin: Begin

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run the target; what it returns or raises goes on unchanged."""
        end = self.begin(self.options)
        try:
            return self.target(*args, **kwargs)
        finally:
            end()


def patch(patches: Patches, host: Host, begin: Begin) -> None:
    """Have each process that verifiers spawns from now on instrument itself."""

    def working(target: object) -> object:
        module = getattr(target, "__module__", None)
        theirs = isinstance(module, str) and module.startswith(_HOST_PACKAGE)
        if not (theirs and callable(target)):
            return target
        return Worker(target, host.options, begin)

    def init(
        wrapped: Callable[..., object],
        process: object,
        args: tuple[object, ...],
        kwargs: Mapping[str, object],
    ) -> object:
        if not isinstance(process, _SPAWNED) or not host.active:
            return wrapped(*args, **kwargs)
        # BaseProcess(group=None, target=None, ...)
        if len(args) > 1:
            group, target, *others = args
            return wrapped(group, working(target), *others, **kwargs)
        target = working(kwargs.get("target"))
        return wrapped(*args, **{**kwargs, "target": target})

    patches.wrap("multiprocessing.process", "BaseProcess.__init__", init)
