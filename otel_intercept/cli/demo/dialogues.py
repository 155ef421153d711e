"""The four dialogues: how an agent asks, calls its tool and goes on, in each dialect.

`ask` returns whether the answer had any text or tool call. With `Fault.AGENT_CUTS` it
closes the stream after the first event, as a killed agent would.
"""

import json
from typing import Final, Protocol

import anthropic
import openai
from anthropic.types import MessageParam, ToolParam, ToolUseBlock
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionMessageParam,
)
from openai.types.responses import FunctionToolParam, ResponseInputItemParam

from otel_intercept.cli.demo.answers import MODEL, TOOL
from otel_intercept.cli.demo.faults import Fault
from otel_intercept.cli.demo.scenario import Turn

_MAX_TOKENS: Final = 64
_PROMPT: Final = "What is 20 plus 22?"
_SCHEMA: Final[dict[str, object]] = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
}
_CHAT_TOOL: Final[ChatCompletionFunctionToolParam] = {
    "type": "function",
    "function": {"name": TOOL, "description": "Add.", "parameters": _SCHEMA},
}
_RESPONSES_TOOL: Final[FunctionToolParam] = {
    "type": "function",
    "name": TOOL,
    "description": "Add.",
    "parameters": _SCHEMA,
    "strict": False,
}
_MESSAGES_TOOL: Final[ToolParam] = {
    "name": TOOL,
    "description": "Add.",
    "input_schema": {"type": "object", "properties": _SCHEMA["properties"]},
}


class Dialogue(Protocol):
    """One agent's side of a rollout."""

    async def ask(self, turn: Turn) -> bool:
        """Ask once; raise what the SDK raises."""
        ...


class ChatDialogue:
    """Chat completions, by the OpenAI SDK."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._create = client.chat.completions.create
        self._history: list[ChatCompletionMessageParam] = [
            {"role": "user", "content": _PROMPT}
        ]

    async def ask(self, turn: Turn) -> bool:
        """Ask once; a tool that is called is run, and its result kept for the next."""
        if turn.stream:
            return await self._ask_stream(turn)
        tools = [_CHAT_TOOL] if turn.tool else openai.omit
        answer = await self._create(model=MODEL, messages=self._history, tools=tools)
        message = answer.choices[0].message
        for call in message.tool_calls or []:
            if call.type == "function":
                self._use(call)
        return bool(message.content or message.tool_calls)

    def _use(self, call: ChatCompletionMessageFunctionToolCall) -> None:
        name, arguments = call.function.name, call.function.arguments
        self._history += [
            {
                "role": "assistant",
                "tool_calls": [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    }
                ],
            },
            {
                "role": "tool",
                "tool_call_id": call.id,
                "content": add(json.loads(arguments)),
            },
        ]

    async def _ask_stream(self, turn: Turn) -> bool:
        filled = False
        stream = await self._create(model=MODEL, messages=self._history, stream=True)
        async with stream:
            async for chunk in stream:
                filled = filled or any(choice.delta.content for choice in chunk.choices)
                if turn.fault is Fault.AGENT_CUTS:
                    break
        return filled


class CompletionsDialogue:
    """Plain completions, by the OpenAI SDK."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._create = client.completions.create

    async def ask(self, turn: Turn) -> bool:
        """Ask once; this dialect has no tools."""
        if not turn.stream:
            answer = await self._create(model=MODEL, prompt=_PROMPT)
            return bool(answer.choices[0].text)
        filled = False
        async with await self._create(
            model=MODEL, prompt=_PROMPT, stream=True
        ) as stream:
            async for chunk in stream:
                filled = filled or any(choice.text for choice in chunk.choices)
        return filled


class ResponsesDialogue:
    """Responses, by the OpenAI SDK."""

    def __init__(self, client: openai.AsyncOpenAI) -> None:
        self._create = client.responses.create
        self._history: list[ResponseInputItemParam] = [
            {"role": "user", "content": _PROMPT}
        ]

    async def ask(self, turn: Turn) -> bool:
        """Ask once; a tool that is called is run, and its result kept for the next."""
        if turn.stream:
            return await self._ask_stream()
        tools = [_RESPONSES_TOOL] if turn.tool else openai.omit
        answer = await self._create(model=MODEL, input=self._history, tools=tools)
        for item in answer.output:
            if item.type != "function_call":
                continue
            self._history += [
                {
                    "type": "function_call",
                    "call_id": item.call_id,
                    "name": item.name,
                    "arguments": item.arguments,
                },
                {
                    "type": "function_call_output",
                    "call_id": item.call_id,
                    "output": add(json.loads(item.arguments)),
                },
            ]
        return bool(answer.output)

    async def _ask_stream(self) -> bool:
        filled = False
        async with await self._create(
            model=MODEL, input=self._history, stream=True
        ) as stream:
            async for event in stream:
                filled = filled or event.type == "response.output_text.delta"
        return filled


class MessagesDialogue:
    """Messages, by the Anthropic SDK."""

    def __init__(self, client: anthropic.AsyncAnthropic) -> None:
        self._create = client.messages.create
        self._history: list[MessageParam] = [{"role": "user", "content": _PROMPT}]

    async def ask(self, turn: Turn) -> bool:
        """Ask once; a tool that is called is run, and its result kept for the next."""
        if turn.stream:
            return await self._ask_stream()
        answer = await self._create(
            model=MODEL,
            max_tokens=_MAX_TOKENS,
            messages=self._history,
            tools=[_MESSAGES_TOOL] if turn.tool else anthropic.omit,
        )
        for block in answer.content:
            if isinstance(block, ToolUseBlock):
                self._use(block)
        return bool(answer.content)

    def _use(self, block: ToolUseBlock) -> None:
        self._history += [
            {
                "role": "assistant",
                "content": [
                    {
                        "type": "tool_use",
                        "id": block.id,
                        "name": block.name,
                        "input": block.input,
                    }
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": block.id,
                        "content": add(block.input),
                    }
                ],
            },
        ]

    async def _ask_stream(self) -> bool:
        filled = False
        async with await self._create(
            model=MODEL,
            max_tokens=_MAX_TOKENS,
            messages=self._history,
            stream=True,
        ) as stream:
            async for event in stream:
                filled = filled or event.type == "content_block_delta"
        return filled


def add(arguments: dict[str, object]) -> str:
    """Run the agent's only tool."""
    return str(sum(number for number in arguments.values() if type(number) is int))
