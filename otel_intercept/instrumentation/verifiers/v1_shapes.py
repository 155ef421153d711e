"""Read the objects of the v1 stack, whichever release they are from; nothing raises."""

from collections.abc import Mapping
from typing import Final, Protocol

_ERRORS: Final = "verifiers.v1.errors"


class _HasSecret(Protocol):
    def __call__(self, headers: Mapping[str, str]) -> object: ...


def secret_of(dialect: object, headers: Mapping[str, str]) -> str:
    """Return the secret that routes a request, where its dialect carries it."""
    read: _HasSecret | None = getattr(dialect, "secret", None)
    secret = read(headers) if read is not None else None
    return secret if isinstance(secret, str) else ""


def session_of(server: object, secret: str) -> object | None:
    """Return the session that is registered under a model secret."""
    sessions: object = getattr(server, "sessions", None)
    return sessions.get(secret) if isinstance(sessions, Mapping) else None


def trace_of(session: object) -> object | None:
    """Return the trace of a session."""
    trace: object = getattr(session, "trace", None)
    return trace


def trace_id_of(trace: object) -> str:
    """Return the id of a trace, empty if it has none."""
    trace_id: object = getattr(trace, "id", None)
    return trace_id if isinstance(trace_id, str) else ""


def stop_condition_of(trace: object) -> str | None:
    """Return what stopped a trace, or None while nothing has."""
    condition: object = getattr(trace, "stop_condition", None)
    return condition if isinstance(condition, str) else None


def errors_of(trace: object) -> list[object]:
    """Return the errors that a trace has recorded."""
    errors: object = getattr(trace, "errors", None)
    return errors if isinstance(errors, list) else []


def is_provider_error(error: BaseException) -> bool:
    """Tell whether verifiers says that a model call failed."""
    return _is_a(error, "ProviderError")


def is_hook_error(error: BaseException) -> bool:
    """Tell whether it is another failure of a rollout: of a task's own code, mostly."""
    return _is_a(error, "RolloutError") and not is_provider_error(error)


def facts_of(finish_reason: object, usage: object) -> dict[str, object]:
    """Return finish reason and usage as a response body of OpenAI would have them.

    verifiers leaves cache reads out of ``prompt_tokens``; ``input_tokens`` has them.
    """
    body: dict[str, object] = {}
    if finish_reason is not None:
        body["choices"] = [{"index": 0, "finish_reason": finish_reason}]
    if usage is not None:
        body["usage"] = {
            "input_tokens": getattr(usage, "input_tokens", None),
            "output_tokens": getattr(usage, "completion_tokens", None),
        }
    return body


def _is_a(error: BaseException, name: str) -> bool:
    # By name, because their module is not imported for this.
    return any(
        each.__module__ == _ERRORS and each.__qualname__ == name
        for each in type(error).__mro__
    )
