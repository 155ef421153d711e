"""See the futures that the legacy server answers from, where it puts them down.

Its own functions that complete a future are imported by name all over, so only the
future itself tells of every answer.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

from otel_intercept.current import current_exchange
from otel_intercept.exchange import Exchange
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Phase
from otel_intercept.shield import shielded

Seen: TypeAlias = Callable[[object, object], None]
"""Takes the rollout id of an intercept, and the intercept."""


class WatchedIntercepts(dict[object, object]):
    """The server's table of intercepts, which tells of each that is put into it.

    Args:
        intercepts: What the table holds so far; of that it tells nothing.
        seen: Called with each new intercept. It must not raise, nor keep it: intercepts
            hold whole prompts.
    """

    def __init__(self, intercepts: Mapping[object, object], seen: Seen) -> None:
        super().__init__(intercepts)
        self._seen = seen

    def __setitem__(self, request_id: object, intercept: object) -> None:
        super().__setitem__(request_id, intercept)
        if isinstance(intercept, dict):
            self._seen(intercept.get("rollout_id"), intercept)


def watch(intercept: object, rollout: Rollout) -> None:
    """Learn the upstream's result from the future of an intercept.

    It counts for the exchange whose handler is running; without one, as on a server
    that was started before it was instrumented, a failure counts for the rollout.
    """
    if not isinstance(intercept, dict):
        return
    future = intercept.get("response_future")
    if not isinstance(future, asyncio.Future):
        return
    streaming = bool(intercept.get("stream"))
    exchange = current_exchange()
    if exchange is None or exchange.rollout is not rollout:
        future.add_done_callback(partial(_fail_rollout, rollout, streaming))
        return
    exchange.describe_request({"model": intercept.get("model"), "stream": streaming})
    future.add_done_callback(partial(_describe_answer, exchange))
    _ = exchange.watch(future)


@shielded
def _fail_rollout(
    rollout: Rollout,
    streaming: bool,  # noqa: FBT001 - bound by position
    future: "asyncio.Future[object]",
) -> None:
    exc = None if future.cancelled() else future.exception()
    if exc is not None:
        rollout.fail(exc, phase=Phase.RESPONSE_FUTURE, streaming=streaming)


@shielded
def _describe_answer(exchange: Exchange, future: "asyncio.Future[object]") -> None:
    if future.cancelled() or future.exception() is not None:
        return
    answer = future.result()
    exchange.describe_response(
        answer if isinstance(answer, Mapping) else _facts_of(answer)
    )


def _facts_of(answer: object) -> dict[str, object]:
    """Return the facts of verifiers' own response, or of an OpenAI completion."""
    usage = getattr(answer, "usage", None)
    choices = getattr(answer, "choices", None)
    if not isinstance(choices, list):
        choices = [getattr(answer, "message", None)]
    return {
        "model": getattr(answer, "model", None),
        "usage": {
            name: getattr(usage, name, None)
            for name in ("prompt_tokens", "completion_tokens")
        },
        "choices": [
            {"finish_reason": getattr(choice, "finish_reason", None)}
            for choice in choices
        ],
    }
