"""The interception server, which consumers answer, and the relay to a real upstream."""

from otel_intercept.server.interception import CLIENT_MAX_SIZE, InterceptionServer
from otel_intercept.server.intercepts import (
    ChunkQueue,
    Intercept,
    Registration,
    deliver_response,
    synthesize_stream,
)
from otel_intercept.server.relay import ErrorBodies, make_relay_app, relay_runner
from otel_intercept.server.streaming import StreamFailure

__all__ = [
    "CLIENT_MAX_SIZE",
    "ChunkQueue",
    "ErrorBodies",
    "Intercept",
    "InterceptionServer",
    "Registration",
    "StreamFailure",
    "deliver_response",
    "make_relay_app",
    "relay_runner",
    "synthesize_stream",
]
