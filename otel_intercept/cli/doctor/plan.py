"""What doctor injects: one good call of each kind, one of each failure's shape."""

from typing import Final, NamedTuple

from otel_intercept.cli.demo.faults import Fault
from otel_intercept.semconv import ErrorType


class Probe(NamedTuple):
    """One request of doctor's agent, in a rollout of its own.

    Args:
        name: What the report calls it.
        fault: What goes wrong.
        stream: Whether the agent asks for a stream.
        error_types: The error types that tell it rightly; none where nothing fails.
    """

    name: str
    fault: Fault
    stream: bool = False
    error_types: frozenset[ErrorType] = frozenset()


_UNFINISHED: Final = frozenset(
    {
        ErrorType.UPSTREAM_TRUNCATED,
        ErrorType.UPSTREAM_CONNECTION,
        ErrorType.UPSTREAM_BAD_RESPONSE,
    }
)
_EMPTY: Final = frozenset(
    {
        ErrorType.UPSTREAM_EMPTY,
        ErrorType.UPSTREAM_BAD_RESPONSE,
        ErrorType.UPSTREAM_TRUNCATED,
    }
)
# Doctor hangs up on a call that has no deadline of its own, or a long one.
_HUNG: Final = frozenset({ErrorType.UPSTREAM_TIMEOUT, ErrorType.UPSTREAM_CONNECTION})
# Plain HTTP clients have no exception for it, so an app may have to raise its own.
_FRAME: Final = frozenset(
    {
        ErrorType.OTHER,
        ErrorType.UPSTREAM_ERROR_FRAME,
        ErrorType.UPSTREAM_SERVER_ERROR,
        ErrorType.UPSTREAM_BAD_RESPONSE,
    }
)

PROBES: Final = (
    Probe("good", Fault.NONE),
    Probe("good-stream", Fault.NONE, stream=True),
    Probe(
        "rate-limited",
        Fault.RATE_LIMITED,
        error_types=frozenset({ErrorType.UPSTREAM_RATE_LIMITED}),
    ),
    Probe(
        "server-error",
        Fault.SERVER_ERROR,
        error_types=frozenset({ErrorType.UPSTREAM_SERVER_ERROR}),
    ),
    Probe(
        "server-error-stream",
        Fault.SERVER_ERROR,
        stream=True,
        error_types=frozenset({ErrorType.UPSTREAM_SERVER_ERROR}),
    ),
    Probe("hang", Fault.HANG, error_types=_HUNG),
    Probe(
        "malformed",
        Fault.HTML,
        error_types=frozenset({ErrorType.UPSTREAM_BAD_RESPONSE}),
    ),
    Probe("empty", Fault.EMPTY_BODY, error_types=_EMPTY),
    Probe("empty-stream", Fault.EMPTY_STREAM, stream=True, error_types=_EMPTY),
    Probe("cut-stream", Fault.CUT_STREAM, stream=True, error_types=_UNFINISHED),
    Probe("no-terminal", Fault.NO_TERMINAL, stream=True, error_types=_UNFINISHED),
    Probe("error-frame", Fault.ERROR_FRAME, stream=True, error_types=_FRAME),
    Probe("agent-leaves", Fault.AGENT_LEAVES),
    # The last one: the upstream is gone after it.
    Probe(
        "refused", Fault.REFUSED, error_types=frozenset({ErrorType.UPSTREAM_CONNECTION})
    ),
)
"""Every probe, in the order in which they are made."""
