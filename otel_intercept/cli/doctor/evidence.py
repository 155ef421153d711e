"""What doctor knows when it judges: what was injected, and what was seen of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from otel_intercept.cli.doctor.plan import Probe
from otel_intercept.sdk import SpanLine


@dataclass(frozen=True, slots=True, kw_only=True)
class Wiring:
    """What can be seen of an app without a request.

    Args:
        route: The route that is probed; its rollout id is ``{rollout_id}``.
        route_found: Whether the app has that route, for POST.
        instrumented: Whether an app that the route leads through is instrumented.
        key: The ``match_info`` key of the wiring; None for a function.
        placeholders: What the route's template can give.
        wanted: Whether the wiring's ``rollout_id`` is the one that was asked for.
        same_registry: Whether the app is instrumented for the registry that it was
            given; True if it was given none.
        foreign_outside: Whether middleware of another instrumentation stands around
            the instrumented app, where it cannot be kept silent.
        telemetry_enabled: Whether the registry's telemetry records anything.
    """

    route: str
    route_found: bool = True
    instrumented: bool = True
    key: str | None = None
    placeholders: tuple[str, ...] = ()
    wanted: bool = True
    same_registry: bool = True
    foreign_outside: bool = False
    telemetry_enabled: bool = True

    @property
    def finds_rollouts(self) -> bool:
        """Whether the rollout id of a request can be found."""
        return self.key is None or self.key in self.placeholders

    @property
    def sound(self) -> bool:
        """Whether anything can be seen of requests at all."""
        return (
            self.route_found
            and self.instrumented
            and self.same_registry
            and self.finds_rollouts
            and self.telemetry_enabled
        )


class Injected(NamedTuple):
    """One probe as it was sent and answered.

    Args:
        probe: Which one.
        rollout_id: The rollout that it belongs to.
        trace_id: The trace of the agent's ``traceparent``, 32 hex digits.
        span_id: The span of the agent's ``traceparent``, 16 hex digits: exchange spans
            link to it.
        status: The HTTP status that the agent got, or None without an answer.
        leaked: Whether the agent's answer has the planted text of the upstream.
        called: Whether the app called the upstream meanwhile.
        in_registry: Whether the app's registry has the rollout open; None if unknown.
    """

    probe: Probe
    rollout_id: str
    trace_id: str
    span_id: str
    status: int | None = 200
    leaked: bool = False
    called: bool = True
    in_registry: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Everything that was injected and seen.

    Args:
        injected: The probes, in their order.
        spans: Every span that arrived, foreign ones among them.
        route: The route that was probed.
        rejected: How many requests the app counted as rejected.
        planted_seen: Whether a planted secret stands in the telemetry.
        passes_texts: Whether the agent may see the texts of the upstream.
        wiring: What was seen of the app itself; None for a server elsewhere.
    """

    injected: Sequence[Injected]
    spans: Sequence[SpanLine]
    route: str
    rejected: int = 0
    planted_seen: bool = False
    passes_texts: bool = False
    wiring: Wiring | None = None
