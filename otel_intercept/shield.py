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
    text of the traffic. ``BaseException`` passes.
    """

    @functools.wraps(observe)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            observe(*args, **kwargs)
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            _logger.warning("telemetry failed in %s; please report it", name)

    name = observe.__qualname__
    return call
