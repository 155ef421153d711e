"""Watch LLM rollouts through an aiohttp interception proxy, safely and cheaply."""

from otel_intercept.errors import (
    ConfigurationError,
    InterceptionError,
    NotIntercepted,
    OtelInterceptError,
    RolloutError,
    RolloutExistsError,
    StreamInterrupted,
)
from otel_intercept.exchange import Exchange
from otel_intercept.failure import Failure
from otel_intercept.middleware import exchange_from, instrument_app
from otel_intercept.registry import RolloutRegistry
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import ErrorType, ExchangeOutcome, Phase, RolloutOutcome
from otel_intercept.telemetry import Telemetry

__all__ = [
    "ConfigurationError",
    "ErrorType",
    "Exchange",
    "ExchangeOutcome",
    "Failure",
    "InterceptionError",
    "NotIntercepted",
    "OtelInterceptError",
    "Phase",
    "Rollout",
    "RolloutError",
    "RolloutExistsError",
    "RolloutOutcome",
    "RolloutRegistry",
    "StreamInterrupted",
    "Telemetry",
    "exchange_from",
    "instrument_app",
]
