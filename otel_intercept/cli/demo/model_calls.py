"""The training loop's own model calls: the real SDK clients, without their retries."""

from collections.abc import AsyncIterator, Mapping
from typing import Final, TypeAlias

import anthropic
import openai
from anthropic.types import Message, RawMessageStreamEvent
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response

from otel_intercept.cli.demo.agents import Clients
from otel_intercept.cli.demo.faults import FAULT_HEADER, Fault
from otel_intercept.server import Intercept

Answer: TypeAlias = ChatCompletion | Completion | Response | Message

LIVE_PROTOCOLS: Final = frozenset({"openai_chat_completions", "anthropic_messages"})
"""The dialects whose streams are passed on chunk by chunk; the rest is synthesized."""

_PATIENCE_S: Final = 30.0
_SHORT_PATIENCE_S: Final = 0.5
"""For an upstream that is known to hang."""

_ASKED: Final = ("model", "messages", "prompt", "input", "system", "tools")


class ModelCalls:
    """Forwards intercepted requests to an upstream.

    Args:
        clients: The SDK clients to use; their retries are off.
        url: The upstream, without ``/v1``.
        api_key: The upstream's key.
    """

    def __init__(self, clients: Clients, url: str, api_key: str) -> None:
        self._openai = clients.openai.with_options(
            base_url=f"{url}/v1", api_key=api_key
        )
        self._anthropic = clients.anthropic.with_options(base_url=url, api_key=api_key)

    async def whole(self, intercept: Intercept, fault: Fault) -> Answer:
        """Return the upstream's answer in one piece; raises what the SDK raises."""
        body = _body_of(intercept)
        client = self._openai_for(fault)
        match intercept["protocol"]:
            case "anthropic_messages":
                return await self._anthropic_for(fault).post(
                    "/v1/messages", cast_to=Message, body=body
                )
            case "openai_responses":
                return await client.post("/responses", cast_to=Response, body=body)
            case "openai_completions":
                return await client.post("/completions", cast_to=Completion, body=body)
            case "openai_chat_completions":
                return await client.post(
                    "/chat/completions", cast_to=ChatCompletion, body=body
                )

    async def chunks(
        self, intercept: Intercept, fault: Fault
    ) -> AsyncIterator[Mapping[str, object]]:
        """Yield the upstream's events as they come; raises what the SDK raises."""
        body = _body_of(intercept) | {"stream": True}
        if intercept["protocol"] == "anthropic_messages":
            events = await self._anthropic_for(fault).post(
                "/v1/messages",
                cast_to=Message,
                body=body,
                stream=True,
                stream_cls=anthropic.AsyncStream[RawMessageStreamEvent],
            )
            async with events:
                async for event in events:
                    yield event.model_dump(mode="json")
            return
        chunks = await self._openai_for(fault).post(
            "/chat/completions",
            cast_to=ChatCompletion,
            body=body,
            stream=True,
            stream_cls=openai.AsyncStream[ChatCompletionChunk],
        )
        async with chunks:
            async for chunk in chunks:
                yield chunk.model_dump(mode="json", exclude_none=True)

    def _openai_for(self, fault: Fault) -> openai.AsyncOpenAI:
        headers = {FAULT_HEADER: fault.value}
        return self._openai.with_options(
            default_headers=headers, timeout=_patience(fault)
        )

    def _anthropic_for(self, fault: Fault) -> anthropic.AsyncAnthropic:
        headers = {FAULT_HEADER: fault.value}
        return self._anthropic.with_options(
            default_headers=headers, timeout=_patience(fault)
        )


def _body_of(intercept: Intercept) -> dict[str, object]:
    return {key: intercept[key] for key in _ASKED if intercept[key] is not None}


def _patience(fault: Fault) -> float:
    return _SHORT_PATIENCE_S if fault is Fault.HANG else _PATIENCE_S
