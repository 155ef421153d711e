"""Keep contrib's aiohttp-server instrumentation out of what we observe ourselves.

Under ``opentelemetry-instrument`` it stands in every app. On a rollout's requests it
would make a trace each, joined to whatever the agent names.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeAlias

from aiohttp import web

from otel_intercept.instrumentation.verifiers.patches import Patches
from otel_intercept.middleware.foreign import silence

Concerns: TypeAlias = Callable[[web.Request], bool]
"""Tells whether a request is one that we observe."""

_starting: Final[ContextVar[Concerns | None]] = ContextVar(
    "otel_intercept.starting", default=None
)


@contextmanager
def starting(concerns: Concerns) -> Iterator[None]:
    """Take the app that is served during this block as that of a server of verifiers.

    Args:
        concerns: Its requests that we observe; the others keep contrib's spans.
    """
    token = _starting.set(concerns)
    try:
        yield
    finally:
        _starting.reset(token)


def patch(patches: Patches) -> None:
    """Have apps that are served in a `starting` block keep contrib silent."""
    patches.wrap("aiohttp.web_runner", "AppRunner.__init__", _init)


def _init(
    wrapped: Callable[..., object],
    _runner: object,
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
) -> object:
    concerns = _starting.get()
    app = args[0] if args else kwargs.get("app")
    if concerns is not None and isinstance(app, web.Application) and not app.frozen:
        silence(app, concerns)
    return wrapped(*args, **kwargs)
