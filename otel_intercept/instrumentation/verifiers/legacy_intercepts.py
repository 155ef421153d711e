"""See the futures that the legacy server answers from, where it puts them down.

Its own functions that complete a future are imported by name all over, so only the
future itself tells of every answer.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import lru_cache, partial

from otel_intercept.current import current_exchange
from otel_intercept.dialect.requested import request_attributes
from otel_intercept.dialect.values import MAX_MODEL, MAX_REMEMBERED
from otel_intercept.exchange import Exchange
from otel_intercept.instrumentation.verifiers.host import Host
from otel_intercept.record import RequestFacts
from otel_intercept.registry import RolloutRegistry
from otel_intercept.rollout import Rollout
from otel_intercept.semconv import Phase
from otel_intercept.shield import confess, shielded


class WatchedIntercepts(dict[object, object]):
    """The server's table of intercepts, which sees the future of each that comes in.

    It keeps no intercept for longer than the server does: they hold whole prompts.

    Args:
        intercepts: What the table holds so far; none of that is looked at.
        host: Who observes the server.
        registry: Where its rollouts are open.
    """

    def __init__(
        self,
        intercepts: Mapping[object, object],
        host: Host,
        registry: RolloutRegistry,
    ) -> None:
        super().__init__(intercepts)
        self._host = host
        self._registry = registry

    def __setitem__(self, request_id: object, intercept: object) -> None:
        dict.__setitem__(self, request_id, intercept)
        try:
            if self._host.active and isinstance(intercept, dict):
                rollout_id = intercept.get("rollout_id")
                future = intercept.get("response_future")
                if isinstance(rollout_id, str) and isinstance(future, asyncio.Future):
                    rollout = self._registry.get(rollout_id)
                    if rollout is not None:
                        model, stream = intercept.get("model"), intercept.get("stream")
                        _watch(future, rollout, model, stream=bool(stream))
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("WatchedIntercepts")


class _Answered:
    """The future of an intercept, as its exchange watches it.

    It describes the answer before it tells of it, so that asyncio has one to tell.

    Args:
        exchange: What the answer is described to.
        future: The future.
    """

    __slots__ = ("_exchange", "_future", "_tell")

    _tell: "Callable[[_Answered], object]"

    def __init__(self, exchange: Exchange, future: "asyncio.Future[object]") -> None:
        self._exchange = exchange
        self._future = future

    def done(self) -> bool:
        return self._future.done()

    def exception(self) -> BaseException | None:
        return self._future.exception()

    def add_done_callback(self, callback: "Callable[[_Answered], object]", /) -> None:
        self._tell = callback
        self._future.add_done_callback(self._ended)

    def _ended(self, future: "asyncio.Future[object]") -> None:
        try:
            if not future.cancelled() and future.exception() is None:
                answer = future.result()
                self._exchange.describe_response(
                    answer
                    if type(answer) is dict or isinstance(answer, Mapping)
                    else _facts_of(answer)
                )
        except Exception:  # noqa: BLE001 - the traffic must not pay for our mistake
            confess("_Answered._ended")
        self._tell(self)


def _watch(
    future: "asyncio.Future[object]", rollout: Rollout, model: object, *, stream: bool
) -> None:
    """Learn the upstream's result from the future of an intercept.

    It counts for the exchange whose handler is running; without one, as on a server
    that was started before it was instrumented, a failure counts for the rollout.
    """
    exchange = current_exchange()
    if exchange is None or exchange.rollout is not rollout:
        future.add_done_callback(partial(_fail_rollout, rollout, stream))
        return
    if type(model) is str and len(model) <= MAX_MODEL:
        # Agents ask for few models, and nothing else is read of an intercept.
        exchange.asked_for(_asked(model, stream))
    else:
        exchange.describe_request({"model": model, "stream": stream})
    _ = exchange.watch(_Answered(exchange, future))


@lru_cache(maxsize=MAX_REMEMBERED)
def _asked(model: str, stream: bool) -> RequestFacts:  # noqa: FBT001 - a part of the cache's key
    return request_attributes({"model": model, "stream": stream})


@shielded
def _fail_rollout(
    rollout: Rollout,
    streaming: bool,  # noqa: FBT001 - bound by position
    future: "asyncio.Future[object]",
) -> None:
    exc = None if future.cancelled() else future.exception()
    if exc is not None:
        rollout.fail(exc, phase=Phase.RESPONSE_FUTURE, streaming=streaming)


def _facts_of(answer: object) -> dict[str, object]:
    """Return the facts of verifiers' own response, or of an OpenAI completion."""
    usage = getattr(answer, "usage", None)
    # Theirs has this one, and takes long to say what it has not.
    message = getattr(answer, "message", None)
    choices = [message] if message is not None else getattr(answer, "choices", None)
    if not isinstance(choices, list):
        choices = [message]
    return {
        "model": getattr(answer, "model", None),
        "usage": {
            "prompt_tokens": getattr(usage, "prompt_tokens", None),
            "completion_tokens": getattr(usage, "completion_tokens", None),
        },
        "choices": [
            {"finish_reason": getattr(choice, "finish_reason", None)}
            for choice in choices
        ],
    }
