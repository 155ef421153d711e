"""Build and serve the relay's app."""

from typing import Final, get_args

import aiohttp
from aiohttp import web

from otel_intercept.errors import ConfigurationError
from otel_intercept.idle import MAX_OPEN, IdleRollouts
from otel_intercept.middleware.instrument import wire_app
from otel_intercept.registry import RolloutRegistry
from otel_intercept.server.credential import Credential
from otel_intercept.server.interception import CLIENT_MAX_SIZE
from otel_intercept.server.relay.calls import RAW_BODIES, ErrorBodies, RelayCalls
from otel_intercept.server.relay.control import RelayControl
from otel_intercept.server.relay.wire import upstream_base
from otel_intercept.server.runner import quiet_runner

_BASE: Final = "/rollout/{rollout_id}/v1/"
_ROUTES: Final = ("chat/completions", "completions", "responses", "messages")


def make_relay_app(
    registry: RolloutRegistry,
    *,
    upstream: str,
    idle_close_s: float = 900.0,
    max_rollouts: int = MAX_OPEN,
    error_bodies: ErrorBodies = "redact",
    control_secret: str | None = None,
    upstream_key: str | None = None,
    connect_timeout_s: float = 30.0,
    read_timeout_s: float | None = 900.0,
    client_max_size: int = CLIENT_MAX_SIZE,
) -> web.Application:
    """Make the app that relays ``/rollout/{id}/v1/…`` to an upstream's ``/v1/…``.

    Bodies pass unchanged in both directions, piece by piece and no faster than the
    agent reads. A rollout opens with its first request, or by ``PUT /rollout/{id}``,
    and closes by ``DELETE`` or when idle. Nothing is retried. Anyone who reaches the
    relay can use ``upstream_key``. Serve the app with `relay_runner`.

    Args:
        registry: Where the rollouts are opened.
        upstream: Base URL of an OpenAI- or Anthropic-compatible API, with or without
            its ``/v1``.
        idle_close_s: Seconds without a running exchange after which a rollout is
            closed as ``abandoned``.
        max_rollouts: Open rollouts beyond which a request opens none and gets a 503.
        error_bodies: Whether answers of 400 and above reach the agent as the dialect's
            redacted error, or as they are. The status is the upstream's either way.
        control_secret: What ``PUT``, ``GET`` and ``DELETE /rollout/{id}`` must carry.
        upstream_key: Sent to the upstream in place of the agent's credential.
        connect_timeout_s: Seconds to connect to the upstream.
        read_timeout_s: Seconds that the upstream may be silent; None for no limit.
        client_max_size: Bytes of a request body beyond which it is refused with 413.

    Raises:
        ConfigurationError: ``upstream`` is no usable URL, ``idle_close_s`` is not
            positive, or ``error_bodies`` is none of the two.
    """
    if error_bodies not in get_args(ErrorBodies):
        raise ConfigurationError("error_bodies must be 'redact' or 'pass'")
    rollouts = IdleRollouts(registry, idle_close_s, max_open=max_rollouts)
    relay = RelayCalls(
        upstream_base(upstream),
        upstream_key=upstream_key,
        error_bodies=error_bodies,
        timeout=aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_read=read_timeout_s
        ),
    )

    def rollout_id(request: web.Request) -> str | None:
        resource = request.match_info.route.resource
        if resource is None or not resource.canonical.startswith(_BASE):
            return None
        return request.match_info["rollout_id"]

    app = web.Application(client_max_size=client_max_size)
    app[RAW_BODIES] = False
    for name in (*_ROUTES, "{tail:.*}"):
        app.router.add_route("*", _BASE + name, relay.handle)
    credential = Credential(control_secret) if control_secret else None
    app.add_routes(RelayControl(rollouts, credential).routes())
    app.cleanup_ctx.append(relay.serve)
    wire_app(app, registry, rollout_id=rollout_id, implicit=rollouts)
    return app


def relay_runner(
    app: web.Application, *, shutdown_timeout_s: float = 5.0
) -> web.AppRunner:
    """Make a runner that leaves compressed request bodies alone and logs no text.

    Under any other runner such bodies reach the upstream decompressed.

    Args:
        app: What `make_relay_app` has made.
        shutdown_timeout_s: Seconds that running exchanges have at cleanup.
    """
    app[RAW_BODIES] = True
    return quiet_runner(
        app, shutdown_timeout_s=shutdown_timeout_s, auto_decompress=False
    )
