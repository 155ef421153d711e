"""Attach to PrimeIntellect verifiers, unmodified."""

import logging
from collections.abc import Callable, Collection
from typing import Final

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from otel_intercept.errors import ConfigurationError
from otel_intercept.instrumentation.verifiers import (
    contrib,
    legacy,
    v1,
    versions,
    workers,
)
from otel_intercept.instrumentation.verifiers.host import Host, Options
from otel_intercept.instrumentation.verifiers.owned import OwnedTelemetry
from otel_intercept.instrumentation.verifiers.patches import Patches
from otel_intercept.rollout import Rollout
from otel_intercept.shield import shielded
from otel_intercept.telemetry import Telemetry

__all__ = ["VerifiersInstrumentor"]

_logger: Final = logging.getLogger("otel_intercept.instrumentation")


class VerifiersInstrumentor(BaseInstrumentor):
    """Makes each rollout of verifiers' interception servers a trace.

    ``opentelemetry-instrument`` finds it by its entry point; by hand it is
    ``VerifiersInstrumentor().instrument()``, before any server starts. verifiers is not
    imported for it: it is patched when it is imported. Without verifiers nothing
    happens; with a release that is not supported one WARNING says which are.

    There is one instrumentor per process, whatever is constructed.
    """

    _applied: "_Applied | None" = None

    def instrumentation_dependencies(self) -> Collection[str]:
        """Return nothing: the releases are checked here, with one WARNING at most."""
        return ()

    def instrument(
        self,
        *,
        telemetry: Telemetry | None = None,
        redact_state: bool = False,
        redact_responses: bool = False,
        skip_dep_check: bool = False,
        raise_exception_on_conflict: bool = False,
    ) -> None:
        """Instrument verifiers in this process, and in those that it spawns.

        Args:
            telemetry: Where rollouts are recorded; it stays the caller's to shut down.
                By default the global SDK providers where the application has set them,
                else telemetry from the environment variables, which is shut down by
                `uninstrument`, at exit and on SIGTERM.
            redact_state: Whether error texts on verifiers' state become ours. The
                classes stay.
            redact_responses: Whether raw 5xx bodies to the agent become ours.
            skip_dep_check: Passed by ``opentelemetry-instrument``, where a mistake in
                the environment must not break the program that it starts.
            raise_exception_on_conflict: No conflict is ever found; see
                `instrumentation_dependencies`.

        Raises:
            ConfigurationError: An environment variable has a value that is not allowed.
                Under ``opentelemetry-instrument`` this is one WARNING instead, and
                nothing is changed.
        """
        if self.is_instrumented_by_opentelemetry:
            super().instrument()
            return
        version = versions.installed_version()
        if version is None:
            _logger.debug("verifiers is not installed")
            return
        if not any(versions.support_of(version)):
            _logger.warning(
                "this release of verifiers is not supported, nothing is instrumented: "
                "supported are %s",
                versions.SUPPORTED,
            )
            return
        options = Options(redact_state, redact_responses)
        try:
            applied = _Applied(telemetry, options, versions.support_of(version))
        except ConfigurationError as mistake:
            if not skip_dep_check:
                raise
            _logger.warning("verifiers is not instrumented: %s", _own_words(mistake))
            return
        self._applied = applied
        super().instrument(
            skip_dep_check=skip_dep_check,
            raise_exception_on_conflict=raise_exception_on_conflict,
        )

    def rollout_of(self, server: object, rollout_id: str) -> Rollout | None:
        """Return an open rollout of one of verifiers' servers, such as to join it.

        Args:
            server: The interception server. Rollout ids are unique to it only.
            rollout_id: The id that the rollout is registered under.

        Returns:
            The rollout, or None if none is open under this id.
        """
        return None if self._applied is None else self._applied.find(server, rollout_id)

    def _uninstrument(self) -> None:
        applied, self._applied = self._applied, None
        if applied is not None:
            applied.undo()


class _Applied:
    """What one call of ``instrument`` did, and how to undo it."""

    def __init__(
        self,
        telemetry: Telemetry | None,
        options: Options,
        support: versions.Support,
    ) -> None:
        self._owned = None if telemetry is not None else OwnedTelemetry()
        if self._owned is not None:
            telemetry = self._owned.telemetry
        self._host = Host(telemetry or Telemetry(), options)
        self._patches = Patches()
        if not self._host.telemetry.enabled and options == Options():
            _logger.debug("nothing is to be exported: verifiers is left as it is")
            return
        if support.legacy:
            legacy.patch(self._patches, self._host)
        if support.v1:
            v1.patch(self._patches, self._host)
        workers.patch(self._patches, self._host, begin_worker)
        contrib.patch(self._patches)

    def find(self, server: object, rollout_id: str) -> Rollout | None:
        """Return an open rollout of a server, or None."""
        return self._host.served(server).registry.get(rollout_id)

    def undo(self) -> None:
        """Restore verifiers, and end what is open as aborted. Blocks for the export."""
        self._patches.undo()
        self._host.close_all()
        if self._owned is not None:
            self._owned.close()


def begin_worker(options: Options) -> Callable[[], None]:
    """Instrument a process that verifiers spawned, however it may be already.

    Args:
        options: Those of the process that spawned it.

    Returns:
        What ends it, and exports all there is. Neither raises.
    """
    instrumentor = VerifiersInstrumentor()

    @shielded
    def end() -> None:
        if instrumentor.is_instrumented_by_opentelemetry:
            instrumentor.uninstrument()

    @shielded
    def begin() -> None:
        instrumentor.instrument(
            redact_state=options.redact_state,
            redact_responses=options.redact_responses,
            skip_dep_check=True,
        )

    # Under opentelemetry-instrument it is at work already, without our options.
    end()
    begin()
    return end


def _own_words(problem: ConfigurationError) -> str:
    """Return what a mistake of ours says, which by contract repeats no value."""
    return str(problem)
