"""Keep our own mistakes out of the traffic that we watch."""

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

P = ParamSpec("P")

_logger = logging.getLogger("otel_intercept.shield")


def shielded(observe: Callable[P, None]) -> Callable[P, None]:
    """Make an observing function that cannot raise an ``Exception``.

    What it would have raised is counted as one constant WARNING: the exception may hold
    text of the traffic. ``BaseException`` passes. What runs for every request calls
    `confess` by itself instead: a wrapper costs as much as many of these functions do.
    """

    @functools.wraps(observe)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            observe(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess(name)

    name = observe.__qualname__
    return call


def confess(name: str) -> None:
    """Say in one constant WARNING which function of ours made a mistake."""
    _logger.warning("telemetry failed in %s; please report it", name)
