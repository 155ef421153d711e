"""Every error that is raised at callers or kept on a rollout's state."""

from typing import Final

from otel_intercept.failure import Failure


class OtelInterceptError(Exception):
    """The root of all errors of this package.

    ::

        OtelInterceptError
        ├── RolloutError                      outcomes: kept on the state, never raised
        │   ├── InterceptionError
        │   └── StreamInterrupted
        ├── RolloutExistsError (ValueError)   mistakes: raised at the caller
        ├── NotIntercepted (LookupError)
        └── ConfigurationError (ValueError)
    """


class RolloutError(OtelInterceptError):
    """A rollout failed; what happened is in ``failure``.

    It is made fresh for the state and never raised, so it has no cause, context or
    traceback that could hold the raw exception. ``str`` and ``repr`` are made of enum
    words only. Pickling and copying keep the class and the failure, and nothing else.

    Args:
        failure: The safe descriptor of the failure.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure: Final = failure

    def __reduce__(self) -> tuple[type["RolloutError"], tuple[Failure]]:
        return type(self), (self.failure,)

    def __str__(self) -> str:
        failure = self.failure
        return f"{failure.error_type} in {failure.phase} ({failure.origin})"

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self})"


class InterceptionError(RolloutError):
    """An exchange failed before any byte of its answer: the agent got an HTTP error."""


class StreamInterrupted(RolloutError):
    """An answer broke off, or ended cleanly although it was wrong or empty."""


class RolloutExistsError(OtelInterceptError, ValueError):
    """A rollout of this id is open already."""


class NotIntercepted(OtelInterceptError, LookupError):
    """The request is not an exchange of an open rollout."""


class ConfigurationError(OtelInterceptError, ValueError):
    """A setting or an argument cannot work; the message says which and why."""
