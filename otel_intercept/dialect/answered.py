"""Pick the allow-listed GenAI attributes of an answer: of a body, or of its events."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Annotated, Final, TypeAlias

import msgspec

from otel_intercept.dialect.grammar import StreamGrammar
from otel_intercept.dialect.values import (
    INT64,
    MAX_MODEL,
    MAX_REMEMBERED,
    mapping_of,
    model_of,
    named,
)
from otel_intercept.record import Attributes, AttributeValue
from otel_intercept.semconv import (
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    OTHER,
)

_MAX_REASONS: Final = 8
_USAGE_KEYS: Final = (
    ("prompt_tokens", GEN_AI_USAGE_INPUT_TOKENS),
    ("input_tokens", GEN_AI_USAGE_INPUT_TOKENS),
    ("completion_tokens", GEN_AI_USAGE_OUTPUT_TOKENS),
    ("output_tokens", GEN_AI_USAGE_OUTPUT_TOKENS),
)

FINISH_REASONS: Final = frozenset(
    {
        "stop",
        "length",
        "tool_calls",
        "content_filter",
        "function_call",
        "abort",
        "error",
        "end_turn",
        "max_tokens",
        "stop_sequence",
        "tool_use",
        "pause_turn",
        "refusal",
        "model_context_window_exceeded",
        "completed",
        "incomplete",
        "failed",
        "cancelled",
        "max_output_tokens",
        "max_messages",
        "steered",
    }
)
"""Why models stop, in the four dialects and in vLLM (``abort``, ``error``)."""

_UNFINISHED: Final = frozenset({"queued", "in_progress"})


class ResponseFacts:
    """The safe facts of one response, gathered from its body or from its events.

    Later usage and models replace earlier ones, because streams repeat them with
    growing counts. Not for use by several threads at once.
    """

    __slots__ = ("_reasons", "_values")

    def __init__(self) -> None:
        self._values: dict[str, AttributeValue] = {}
        self._reasons: dict[int, str] = {}

    @property
    def attributes(self) -> Attributes:
        """What has been gathered so far, under ``gen_ai.*`` names."""
        if not self._reasons:
            return tuple(self._values.items())
        reasons = tuple(self._reasons.values())
        return (*self._values.items(), (GEN_AI_RESPONSE_FINISH_REASONS, reasons))

    def add(self, body: object) -> None:
        """Add a whole response body of any dialect. Never raises on JSON values."""
        fields = mapping_of(body)
        self._add(fields, _finish_reasons(fields))

    def add_event(self, event: Mapping[str, object], grammar: StreamGrammar) -> None:
        """Add what one stream event's JSON data carries; most events carry nothing."""
        kind = event.get("type")
        if type(kind) is str and kind in grammar.carriers:
            # Anthropic spreads over the event what OpenAI puts in one object.
            self.add({"usage": event.get("usage")})
            for part in ("message", "delta", "response"):
                self.add(event.get(part))
        elif grammar.choices:
            reasons = _choice_reasons(event)
            if reasons:
                self._add(event, reasons)
            elif event.get("usage") is not None:
                self.add(event)

    def _add(
        self, fields: Mapping[str, object], reasons: Iterable[tuple[int, str]]
    ) -> None:
        _add_model_and_usage(self._values, fields)
        for index, reason in reasons:
            if index in self._reasons or len(self._reasons) < _MAX_REASONS:
                self._reasons[index] = reason


_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=MAX_MODEL)]
_Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=INT64 - 1)]


class _UsualUsage(msgspec.Struct, frozen=True, gc=False):
    prompt_tokens: _Tokens
    completion_tokens: _Tokens
    input_tokens: None = None
    output_tokens: None = None


class _UsualChoice(msgspec.Struct, frozen=True, gc=False):
    finish_reason: _Name


class _UsualAnswer(msgspec.Struct, frozen=True, gc=False):
    """What is read of a chat completion that has it all, and one choice."""

    model: _Name
    usage: _UsualUsage
    choices: Annotated[list[_UsualChoice], msgspec.Meta(min_length=1, max_length=1)]


def response_attributes(body: object) -> Attributes:
    """Pick the allow-listed attributes of a whole response body of any dialect.

    Never raises on JSON values; never returns an id or a text of the model.
    """
    try:
        # One call finds all, where a look-up of each costs four times as much.
        usual = msgspec.convert(body, _UsualAnswer)
    except msgspec.ValidationError:
        facts = ResponseFacts()
        facts.add(body)
        return facts.attributes
    usage = usual.usage
    model, reasons = _words(usual.model, usual.choices[0].finish_reason)
    return (
        model,
        (GEN_AI_USAGE_INPUT_TOKENS, usage.prompt_tokens),
        (GEN_AI_USAGE_OUTPUT_TOKENS, usage.completion_tokens),
        reasons,
    )


# Typed, since what is no plain text is not let out, but may equal one.
@lru_cache(maxsize=MAX_REMEMBERED, typed=True)
def _words(model: str, reason: str) -> tuple[tuple[str, str], tuple[str, tuple[str]]]:
    reasons = (GEN_AI_RESPONSE_FINISH_REASONS, (_reason(reason),))
    return (GEN_AI_RESPONSE_MODEL, named(model)), reasons


def _add_model_and_usage(
    values: dict[str, AttributeValue], fields: Mapping[str, object]
) -> None:
    model = model_of(fields.get("model"))
    if model is not None:
        values[GEN_AI_RESPONSE_MODEL] = model
    usage = fields.get("usage")
    if usage is None:
        return
    usage = mapping_of(usage)
    for key, name in _USAGE_KEYS:
        tokens = usage.get(key)
        if type(tokens) is int and 0 <= tokens < INT64:
            values[name] = tokens


def _finish_reasons(body: Mapping[str, object]) -> list[tuple[int, str]]:
    reasons = _choice_reasons(body)
    if reasons or "choices" in body:
        return reasons
    reason = body.get("stop_reason")
    if reason is None:
        reason = _response_status(body)
    return [] if reason is None else [(0, _reason(reason))]


def _choice_reasons(body: Mapping[str, object]) -> list[tuple[int, str]]:
    choices = body.get("choices")
    found: list[tuple[int, str]] = []
    if not isinstance(choices, list):
        return found
    for position, choice in enumerate(choices[:_MAX_REASONS]):
        fields = mapping_of(choice)
        reason = fields.get("finish_reason")
        if reason is not None:
            index = fields.get("index")
            place = index if type(index) is int else position
            found.append((place, _reason(reason)))
    return found


def _response_status(body: Mapping[str, object]) -> object:
    status = body.get("status")
    if type(status) is str and status in _UNFINISHED:
        return None
    why = mapping_of(body.get("incomplete_details")).get("reason")
    return status if why is None else why


def _reason(value: object) -> str:
    return value if type(value) is str and value in FINISH_REASONS else OTHER
