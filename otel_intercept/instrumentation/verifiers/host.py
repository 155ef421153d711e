"""What the hooks share: the telemetry, and the rollouts of each server."""

import weakref
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from otel_intercept.middleware.serving import Serving
from otel_intercept.registry import RolloutRegistry
from otel_intercept.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Options:
    """What may be changed about the host, on the operator's wish alone.

    Args:
        redact_state: Whether error texts on the host's state become ours.
        redact_responses: Whether raw error bodies to the agent become ours.
    """

    redact_state: bool = False
    redact_responses: bool = False


@dataclass(slots=True)
class Served:
    """One interception server: its rollouts, and how its exchanges are served.

    Rollout ids are unique to a server only, so each has a registry of its own.

    Attributes:
        last: By route, whether aiohttp gets what the wrapped handler returns next.
    """

    registry: RolloutRegistry
    serving: Serving = field(default_factory=Serving)
    last: dict[web.AbstractRoute, bool] = field(default_factory=dict)

    def forget_routes(self) -> None:
        """Forget the routes of a server that has stopped: their handlers hold it."""
        self.last.clear()
        self.serving.places.clear()


class Host:
    """The instrumented process.

    What was made while it was instrumented outlives that; every hook looks at
    ``active`` first, and is out of the way once that is False.

    Args:
        telemetry: Where its rollouts are recorded.
        options: What is to be changed.

    Attributes:
        known: What `served` has returned for each server that lives, by its ``id``.
    """

    def __init__(self, telemetry: Telemetry, options: Options) -> None:
        self.telemetry: Final = telemetry
        self.options: Final = options
        self.active = True
        # By identity, for as long as each lives: a weak dictionary takes four times as
        # long to look up, and asks servers for hashes of their own.
        self.known: Final[dict[int, Served]] = {}

    def served(self, server: object) -> Served:
        """Return what is known of a server; it is forgotten with the server.

        Raises:
            TypeError: It is of a class that nothing can refer to weakly.
        """
        known = self.known.get(id(server))
        if known is None:
            known = Served(RolloutRegistry(self.telemetry))
            weakref.finalize(server, self._forget, id(server))
            self.known[id(server)] = known
        return known

    def _forget(self, key: int) -> None:
        registry = self.known.pop(key).registry
        self.telemetry.remove_shutdown_callback(registry.close_all)
        registry.close_all()

    def close_all(self) -> None:
        """End every rollout of every server as aborted, and observe no more."""
        self.active = False
        for served in list(self.known.values()):
            served.registry.close_all()
