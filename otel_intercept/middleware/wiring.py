"""What one instrumented app needs at request time."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from otel_intercept import failure as failures
from otel_intercept.idle import IdleRollouts
from otel_intercept.middleware.access_log import shorten_access_line
from otel_intercept.middleware.serving import Serving
from otel_intercept.registry import RolloutRegistry
from otel_intercept.rollout import Rollout

Resolver = Callable[[web.Request], str | None]
"""Returns a request's rollout id, or None for a request that is no rollout's."""

_logger: Final = logging.getLogger("otel_intercept.middleware")


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one instrumented app was wired with.

    Args:
        app: The app.
        registry: Where the rollouts are open.
        rollout_id: The ``match_info`` key of the rollout id, or what finds it.
        implicit: Opens rollouts by itself, if the caller does not.
        serving: What is known of its requests.
        find: Returns the open rollout of an id, or None.
        recorded: Whether telemetry is on: what handlers do may have spans then.
    """

    app: web.Application
    registry: RolloutRegistry
    rollout_id: str | Resolver
    implicit: IdleRollouts | None
    serving: Serving
    find: Callable[[str], Rollout | None]
    recorded: bool


WIRING: Final = web.AppKey("otel_intercept.wiring", Wiring)


def resolve(wiring: Wiring, request: web.Request) -> str | None:
    """Return the rollout id of a request; None for a request that is no rollout's."""
    find = wiring.rollout_id
    if isinstance(find, str):
        return request.match_info.get(find)
    try:
        rollout_id = find(request)
    except Exception as exc:  # noqa: BLE001 - a resolver's fault is not the agent's
        failures.triage(exc)
        _logger.warning("the rollout_id function raised; the request is not observed")
        # It may be a rollout's, so the agent's text stays out of the access log.
        shorten_access_line(wiring.serving.places.of(request).describe(request))
        return None
    return rollout_id if isinstance(rollout_id, str) else None
