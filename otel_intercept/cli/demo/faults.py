"""What can go wrong in a scripted exchange, on whose side, in a few words."""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class Fault(StrEnum):
    """The one thing that goes wrong in a turn; all of them happen on real sockets."""

    NONE = "none"

    SERVER_ERROR = "server_error"
    OVERLOADED = "overloaded"
    RATE_LIMITED = "rate_limited"
    BAD_KEY = "bad_key"
    BAD_REQUEST = "bad_request"
    CONTEXT_LENGTH = "context_length"
    CONTENT_FILTER = "content_filter"
    HANG = "hang"
    RESET = "reset"
    REFUSED = "refused"
    CUT_BODY = "cut_body"
    HTML = "html"
    EMPTY_BODY = "empty_body"
    ERROR_FRAME = "error_frame"
    CUT_STREAM = "cut_stream"
    NO_TERMINAL = "no_terminal"
    EMPTY_STREAM = "empty_stream"

    AGENT_LEAVES = "agent_leaves"
    AGENT_CUTS = "agent_cuts"
    AGENT_KEY = "agent_key"

    LOOP_BUG = "loop_bug"
    HANDLER_BUG = "handler_bug"
    TEARDOWN = "teardown"
    CLEAN_STOP = "clean_stop"


WORDS: Final[Mapping[Fault, str]] = MappingProxyType(
    {
        Fault.NONE: "nothing",
        Fault.SERVER_ERROR: "upstream answers 500",
        Fault.OVERLOADED: "upstream answers 503 or 529",
        Fault.RATE_LIMITED: "upstream answers 429",
        Fault.BAD_KEY: "upstream answers 401",
        Fault.BAD_REQUEST: "upstream answers 400",
        Fault.CONTEXT_LENGTH: "the prompt is too long",
        Fault.CONTENT_FILTER: "the content filter says no",
        Fault.HANG: "upstream hangs, the call times out",
        Fault.RESET: "upstream closes the connection unanswered",
        Fault.REFUSED: "nobody listens upstream",
        Fault.CUT_BODY: "upstream cuts its body short",
        Fault.HTML: "upstream answers HTML instead of JSON",
        Fault.EMPTY_BODY: "upstream answers 200 with an empty body",
        Fault.ERROR_FRAME: "an error frame inside a 200 stream",
        Fault.CUT_STREAM: "upstream cuts its stream short",
        Fault.NO_TERMINAL: "a stream without its terminal event",
        Fault.EMPTY_STREAM: "a stream of nothing but [DONE]",
        Fault.AGENT_LEAVES: "the agent leaves before the answer",
        Fault.AGENT_CUTS: "the agent leaves in mid-stream",
        Fault.AGENT_KEY: "the agent has a wrong key",
        Fault.LOOP_BUG: "a bug in the training loop",
        Fault.HANDLER_BUG: "a bug in the proxy's handler",
        Fault.TEARDOWN: "the rollout is torn down meanwhile",
        Fault.CLEAN_STOP: "the rollout has stopped cleanly",
    }
)
"""Each fault as a reader of the report should understand it."""

FAULT_HEADER: Final = "x-scripted-fault"
"""Tells the scripted upstream which fault to play; a header of the demo alone."""

FAULT_MODEL: Final = "scripted-fault-"
"""Begins model names that tell it the same, where no header gets through."""
