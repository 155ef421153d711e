"""Read one chunk of a chat completions or completions stream."""

from collections.abc import Mapping
from dataclasses import dataclass

from otel_intercept.server.completion import Usage, joined_text, read_usage
from otel_intercept.server.json_values import count, field, items, text


@dataclass(frozen=True, slots=True)
class ToolDelta:
    """A piece of one tool call; ``call_id`` and ``name`` come with the first one."""

    index: int
    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Delta:
    """What one chunk adds to the first choice; empty strings add nothing."""

    stream_id: str
    created: int | None
    model: str
    text: str
    reasoning: str
    tools: tuple[ToolDelta, ...]
    finish_reason: str | None
    usage: Usage | None


def read_chunk(chunk: Mapping[str, object]) -> Delta:
    """Read the first choice of a chunk; values of a wrong type count as absent."""
    choices = items(chunk.get("choices"))
    choice = next((c for c in choices if not field(c, "index")), None)
    delta = field(choice, "delta")
    reason = field(choice, "finish_reason")
    reasoning = text(field(delta, "reasoning_content"))
    return Delta(
        stream_id=text(chunk.get("id")),
        created=count(chunk.get("created")),
        model=text(chunk.get("model")),
        text=joined_text(field(delta, "content")) or text(field(choice, "text")),
        reasoning=reasoning or text(field(delta, "reasoning")),
        tools=tuple(
            _read_tool(position, tool)
            for position, tool in enumerate(items(field(delta, "tool_calls")))
        ),
        finish_reason=reason if isinstance(reason, str) else None,
        usage=read_usage(chunk),
    )


def _read_tool(position: int, tool: object) -> ToolDelta:
    index = count(field(tool, "index"))
    function = field(tool, "function")
    return ToolDelta(
        index=position if index is None else index,
        call_id=text(field(tool, "id")),
        name=text(field(function, "name")),
        arguments=text(field(function, "arguments")),
    )
