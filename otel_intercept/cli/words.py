"""What each outcome means, in a few words for whoever reads it for the first time."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from otel_intercept.semconv import ExchangeOutcome, RolloutOutcome

EXCHANGE_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        ExchangeOutcome.OK: "the answer was delivered whole",
        ExchangeOutcome.UPSTREAM_FAILED: "upstream failed, the agent was told",
        ExchangeOutcome.SILENT_EMPTY: "upstream failed, the agent got a clean 200",
        ExchangeOutcome.CUT: "the answer broke off",
        ExchangeOutcome.ERROR_FRAME: "an error inside a 200 stream",
        ExchangeOutcome.NO_TERMINAL: "the stream lacks its terminal event",
        ExchangeOutcome.HANDLER_FAILED: "the proxy's own handler raised",
        ExchangeOutcome.AGENT_GONE: "the agent left before the answer",
        ExchangeOutcome.CANCELLED: "torn down, which is no error",
        ExchangeOutcome.CLEAN_STOP: "the rollout had stopped cleanly",
        ExchangeOutcome.REJECTED: "refused, never became a model call",
    }
)

ROLLOUT_WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        RolloutOutcome.COMPLETED: "ran to its end without a failure",
        RolloutOutcome.FAILED: "its state carries a typed error",
        RolloutOutcome.CANCELLED: "was torn down while it ran",
        RolloutOutcome.STOPPED: "stopped cleanly before its end",
        RolloutOutcome.ABORTED: "was open at shutdown",
        RolloutOutcome.ABANDONED: "was idle for too long",
    }
)
