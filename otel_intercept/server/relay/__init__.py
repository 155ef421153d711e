"""An observing relay between agents and an upstream that exists."""

from otel_intercept.server.relay.app import make_relay_app, relay_runner
from otel_intercept.server.relay.calls import ErrorBodies

__all__ = ["ErrorBodies", "make_relay_app", "relay_runner"]
