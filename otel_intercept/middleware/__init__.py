"""Observe the rollout routes of an aiohttp app."""

from otel_intercept.middleware.instrument import exchange_from, instrument_app

__all__ = ["exchange_from", "instrument_app"]
