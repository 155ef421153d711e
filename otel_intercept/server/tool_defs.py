"""Write a rollout's tool definitions in the words of one protocol."""

from typing import Final

from otel_intercept.server.json_values import JsonObject, field, items, jsonable

TOOL_PROTOCOLS: Final = frozenset(
    {None, "vf", "openai_chat_completions", "openai_responses", "anthropic_messages"}
)
"""The protocols that can be asked for; None and ``vf`` give definitions as they are."""


def tool_defs_for(tool_defs: object, protocol: str | None) -> list[object]:
    """Write definitions that have name, description, parameters and maybe strict.

    Args:
        tool_defs: A list of objects or dicts, or None.
        protocol: One of `TOOL_PROTOCOLS`.

    Raises:
        TypeError: A definition has no JSON form.
    """
    tools = items(tool_defs)
    match protocol:
        case "openai_chat_completions":
            return [{"type": "function", "function": _openai(tool)} for tool in tools]
        case "openai_responses":
            return [{"type": "function", **_openai(tool)} for tool in tools]
        case "anthropic_messages":
            return [_anthropic(tool) for tool in tools]
        case _:
            return [jsonable(tool) for tool in tools]


def _openai(tool: object) -> JsonObject:
    definition = _common(tool) | {"parameters": jsonable(field(tool, "parameters"))}
    strict = field(tool, "strict")
    return definition if strict is None else definition | {"strict": strict}


def _anthropic(tool: object) -> JsonObject:
    return _common(tool) | {"input_schema": jsonable(field(tool, "parameters"))}


def _common(tool: object) -> JsonObject:
    return {"name": field(tool, "name"), "description": field(tool, "description")}
