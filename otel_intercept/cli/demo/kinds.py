"""Every kind of rollout that the demo plays, and the outcomes that it must have."""

from typing import Final

from otel_intercept.cli.demo.faults import Fault
from otel_intercept.cli.demo.scenario import Host, Scenario, Turn
from otel_intercept.semconv import Dialect, ErrorType, ExchangeOutcome, RolloutOutcome

_CHAT: Final = Dialect.CHAT_COMPLETIONS
_TEXT: Final = Dialect.COMPLETIONS
_RESPONSES: Final = Dialect.RESPONSES
_MESSAGES: Final = Dialect.MESSAGES

_OK: Final = Turn()
_TOOL: Final = Turn(tool=True)
_STREAM: Final = Turn(stream=True)


def _upstream_failed(
    fault: Fault, error_type: ErrorType, *, retry: bool = False
) -> Turn:
    return Turn(fault, ExchangeOutcome.UPSTREAM_FAILED, error_type, retry=retry)


def _silent(fault: Fault, error_type: ErrorType) -> Turn:
    return Turn(fault, ExchangeOutcome.SILENT_EMPTY, error_type, stream=True)


def _completed(name: str, host: Host, dialect: Dialect, *turns: Turn) -> Scenario:
    return Scenario(name, host, dialect, RolloutOutcome.COMPLETED, turns)


def _failed(name: str, host: Host, dialect: Dialect, *turns: Turn) -> Scenario:
    return Scenario(name, host, dialect, RolloutOutcome.FAILED, turns)


HEALTHY: Final = (
    _completed("chat", Host.SERVER, _CHAT, _TOOL, _STREAM, _OK),
    _completed("completions", Host.SERVER, _TEXT, _OK, _STREAM),
    _completed("responses", Host.SERVER, _RESPONSES, _TOOL, _STREAM, _STREAM),
    _completed("messages", Host.SERVER, _MESSAGES, _TOOL, _STREAM, _OK),
    _completed("own-app", Host.APP, _CHAT, _TOOL, _STREAM, _OK),
    _completed("own-app-messages", Host.APP, _MESSAGES, _STREAM, _TOOL, _OK),
)

_TOLD: Final = (
    _failed(
        "server-error", Host.SERVER, _CHAT, _OK,
        _upstream_failed(Fault.SERVER_ERROR, ErrorType.UPSTREAM_SERVER_ERROR),
        _upstream_failed(
            Fault.SERVER_ERROR, ErrorType.UPSTREAM_SERVER_ERROR, retry=True
        ),
    ),
    _failed(
        "overloaded", Host.SERVER, _MESSAGES, _STREAM,
        _upstream_failed(Fault.OVERLOADED, ErrorType.UPSTREAM_OVERLOADED),
    ),
    _failed(
        "rate-limited", Host.SERVER, _CHAT, _TOOL, _OK,
        _upstream_failed(Fault.RATE_LIMITED, ErrorType.UPSTREAM_RATE_LIMITED),
    ),
    _failed(
        "bad-key", Host.SERVER, _RESPONSES,
        _upstream_failed(Fault.BAD_KEY, ErrorType.UPSTREAM_AUTH),
    ),
    _failed(
        "bad-request", Host.SERVER, _TEXT, _OK,
        _upstream_failed(Fault.BAD_REQUEST, ErrorType.UPSTREAM_BAD_REQUEST),
    ),
    _failed(
        "context-length", Host.SERVER, _RESPONSES, _STREAM,
        _upstream_failed(Fault.CONTEXT_LENGTH, ErrorType.UPSTREAM_CONTEXT_LENGTH),
    ),
    _failed(
        "content-filter", Host.SERVER, _CHAT,
        _upstream_failed(Fault.CONTENT_FILTER, ErrorType.UPSTREAM_CONTENT_FILTER),
    ),
    _failed(
        "timeout", Host.SERVER, _CHAT, _OK,
        _upstream_failed(Fault.HANG, ErrorType.UPSTREAM_TIMEOUT),
    ),
    _failed(
        "reset", Host.SERVER, _MESSAGES, _TOOL,
        _upstream_failed(Fault.RESET, ErrorType.UPSTREAM_CONNECTION),
    ),
    _failed(
        "cut-body", Host.SERVER, _CHAT, _STREAM,
        _upstream_failed(Fault.CUT_BODY, ErrorType.UPSTREAM_TRUNCATED),
    ),
    _failed(
        "html", Host.SERVER, _RESPONSES, _OK,
        _upstream_failed(Fault.HTML, ErrorType.UPSTREAM_BAD_RESPONSE),
    ),
    _failed(
        "loop-bug", Host.SERVER, _CHAT, _OK,
        _upstream_failed(Fault.LOOP_BUG, ErrorType.OTHER),
    ),
    _failed(
        "app-overloaded", Host.APP, _CHAT, _STREAM,
        _upstream_failed(Fault.OVERLOADED, ErrorType.UPSTREAM_OVERLOADED),
    ),
)  # fmt: skip

_SILENT: Final = (
    _failed(
        "silent-500", Host.SERVER, _CHAT, _TOOL, _STREAM,
        _silent(Fault.SERVER_ERROR, ErrorType.UPSTREAM_SERVER_ERROR),
    ),
    _failed(
        "silent-overloaded", Host.SERVER, _MESSAGES, _STREAM,
        _silent(Fault.OVERLOADED, ErrorType.UPSTREAM_OVERLOADED),
    ),
    _failed(
        "silent-timeout", Host.SERVER, _RESPONSES,
        _silent(Fault.HANG, ErrorType.UPSTREAM_TIMEOUT),
    ),
    _failed(
        "silent-cut", Host.SERVER, _CHAT, _STREAM,
        _silent(Fault.CUT_STREAM, ErrorType.UPSTREAM_TRUNCATED),
    ),
    _failed(
        "silent-frame", Host.SERVER, _CHAT, _OK,
        _silent(Fault.ERROR_FRAME, ErrorType.UPSTREAM_ERROR_FRAME),
    ),
    _failed(
        "empty-stream", Host.APP, _CHAT, _STREAM,
        _silent(Fault.EMPTY_STREAM, ErrorType.UPSTREAM_EMPTY),
    ),
)  # fmt: skip

_BROKEN: Final = (
    _failed(
        "cut-stream", Host.APP, _MESSAGES, _OK,
        Turn(
            Fault.CUT_STREAM, ExchangeOutcome.CUT, ErrorType.UPSTREAM_TRUNCATED,
            stream=True,
        ),
    ),
    _failed(
        "agent-cuts", Host.SERVER, _CHAT, _OK,
        Turn(
            Fault.AGENT_CUTS, ExchangeOutcome.CUT, ErrorType.AGENT_DISCONNECTED,
            stream=True,
        ),
    ),
    _failed(
        "error-frame", Host.APP, _CHAT, _STREAM,
        Turn(
            Fault.ERROR_FRAME, ExchangeOutcome.ERROR_FRAME,
            ErrorType.UPSTREAM_ERROR_FRAME, stream=True,
        ),
    ),
    _failed(
        "no-terminal", Host.APP, _CHAT, _OK,
        Turn(
            Fault.NO_TERMINAL, ExchangeOutcome.NO_TERMINAL,
            ErrorType.UPSTREAM_TRUNCATED, stream=True,
        ),
    ),
    _failed(
        "handler-bug", Host.APP, _CHAT, _STREAM,
        Turn(
            Fault.HANDLER_BUG, ExchangeOutcome.HANDLER_FAILED, ErrorType.HANDLER_ERROR
        ),
    ),
)  # fmt: skip

_NO_ERROR: Final = (
    _completed(
        "agent-leaves", Host.SERVER, _CHAT, _OK,
        Turn(Fault.AGENT_LEAVES, ExchangeOutcome.AGENT_GONE),
    ),
    _completed(
        "agent-key", Host.SERVER, _MESSAGES, _OK,
        Turn(Fault.AGENT_KEY, ExchangeOutcome.REJECTED),
    ),
    Scenario(
        "teardown", Host.SERVER, _CHAT, RolloutOutcome.CANCELLED,
        (_STREAM, Turn(Fault.TEARDOWN, ExchangeOutcome.CANCELLED)),
    ),
    Scenario(
        "clean-stop", Host.SERVER, _CHAT, RolloutOutcome.STOPPED,
        (_OK, Turn(Fault.CLEAN_STOP, ExchangeOutcome.CLEAN_STOP)),
    ),
    Scenario(
        "aborted", Host.SERVER, _MESSAGES, RolloutOutcome.ABORTED, (_STREAM, _OK)
    ),
    Scenario(
        "abandoned", Host.APP, _RESPONSES, RolloutOutcome.ABANDONED, (_OK, _STREAM)
    ),
)  # fmt: skip

KINDS: Final = (*HEALTHY, *_TOLD, *_SILENT, *_BROKEN, *_NO_ERROR)
"""Every kind; each is played at least once."""
