"""Instrument the processes that verifiers starts for its environments.

They are spawned: nothing of the parent is there but what is pickled to them, and they
end by SIGTERM. So their target is replaced by one that instruments before it.
"""

import multiprocessing.context
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from otel_intercept.instrumentation.verifiers.host import Host, Options
from otel_intercept.instrumentation.verifiers.patches import Patches
from otel_intercept.shield import shielded

if TYPE_CHECKING:
    from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor

_HOST_PACKAGE: Final = "verifiers."
_SPAWNED: Final = (
    multiprocessing.context.SpawnProcess,
    multiprocessing.context.ForkServerProcess,
)


@dataclass(frozen=True, slots=True)
class Worker:
    """The target of a spawned process: instruments it, then runs what it is for.

    Telemetry comes from the environment variables there. It is flushed when the target
    returns or raises, which is how verifiers' own SIGTERM handlers end it; SIGTERM
    before those are installed is handled by the telemetry itself.

    Args:
        target: What the process is for. It must be picklable, as it had to be before.
        options: Those of the parent.
    """

    target: Callable[..., object]
    options: Options

    def __call__(self, *args: object, **kwargs: object) -> object:
        """Run the target; what it returns or raises goes on unchanged."""
        # Imported late: the instrumentor itself imports this module.
        from otel_intercept.instrumentation.verifiers import VerifiersInstrumentor

        instrumentor = VerifiersInstrumentor()
        _start(instrumentor, self.options)
        try:
            return self.target(*args, **kwargs)
        finally:
            _stop(instrumentor)


def patch(patches: Patches, host: Host) -> None:
    """Have each process that verifiers spawns from now on instrument itself."""

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
            return wrapped(group, _working(target, host.options), *others, **kwargs)
        target = _working(kwargs.get("target"), host.options)
        return wrapped(*args, **{**kwargs, "target": target})

    patches.wrap("multiprocessing.process", "BaseProcess.__init__", init)


@shielded
def _start(instrumentor: "VerifiersInstrumentor", options: Options) -> None:
    # Under opentelemetry-instrument it is at work already, without our options.
    _stop(instrumentor)
    instrumentor.instrument(
        redact_state=options.redact_state,
        redact_responses=options.redact_responses,
        skip_dep_check=True,
    )


@shielded
def _stop(instrumentor: "VerifiersInstrumentor") -> None:
    if instrumentor.is_instrumented_by_opentelemetry:
        instrumentor.uninstrument()


def _working(target: object, options: Options) -> object:
    module = getattr(target, "__module__", None)
    if not (
        callable(target)
        and isinstance(module, str)
        and module.startswith(_HOST_PACKAGE)
    ):
        return target
    return Worker(target, options)
