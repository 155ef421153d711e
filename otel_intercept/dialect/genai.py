"""Pick the allow-listed GenAI attributes from request and response bodies.

Bodies hold prompts, completions and ids, so nothing is copied by default: each value
has a named key, an exact type and a bound, and each string is from a closed set or
looks like a model name.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from math import isfinite
from typing import Annotated, Final, TypeAlias

import msgspec

from otel_intercept.dialect.grammar import StreamGrammar
from otel_intercept.record import Attributes, AttributeValue, RequestFacts
from otel_intercept.semconv import (
    GEN_AI_REQUEST_CHOICE_COUNT,
    GEN_AI_REQUEST_FREQUENCY_PENALTY,
    GEN_AI_REQUEST_MAX_TOKENS,
    GEN_AI_REQUEST_PRESENCE_PENALTY,
    GEN_AI_REQUEST_SEED,
    GEN_AI_REQUEST_STREAM,
    GEN_AI_REQUEST_TEMPERATURE,
    GEN_AI_REQUEST_TOP_K,
    GEN_AI_REQUEST_TOP_P,
    GEN_AI_RESPONSE_FINISH_REASONS,
    GEN_AI_RESPONSE_MODEL,
    GEN_AI_USAGE_INPUT_TOKENS,
    GEN_AI_USAGE_OUTPUT_TOKENS,
    OTHER,
)

_MODEL: Final = re.compile(r"[A-Za-z0-9][\w.:/@+-]{0,95}", re.ASCII)
_MAX_MODEL: Final = 96
_INT64: Final = 2**63
_INT32: Final = 2**31
_MAX_REASONS: Final = 8

# Of the integers, those that a float tells apart: equal keys must mean the same.
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)] | float | None

_MAX_REMEMBERED: Final = 1024

_FLOATS: Final = (
    ("temperature", GEN_AI_REQUEST_TEMPERATURE),
    ("top_p", GEN_AI_REQUEST_TOP_P),
    ("top_k", GEN_AI_REQUEST_TOP_K),
    ("frequency_penalty", GEN_AI_REQUEST_FREQUENCY_PENALTY),
    ("presence_penalty", GEN_AI_REQUEST_PRESENCE_PENALTY),
)
_MAX_TOKENS_KEYS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")
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
        fields = _mapping(body)
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


class _Usual(msgspec.Struct, frozen=True, gc=False):
    """The keys that are read of a request, each with a value that is short and usual.

    A rollout asks with the same settings each time, so what they say is remembered.
    """

    model: Annotated[str, msgspec.Meta(max_length=_MAX_MODEL)] | None = None
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    max_output_tokens: int | None = None
    temperature: _Number = None
    top_p: _Number = None
    top_k: _Number = None
    frequency_penalty: _Number = None
    presence_penalty: _Number = None
    seed: int | None = None
    n: int | None = None


_Name: TypeAlias = Annotated[str, msgspec.Meta(max_length=_MAX_MODEL)]
_Tokens: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=_INT64 - 1)]


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


def request_attributes(body: object) -> RequestFacts:
    """Pick the allow-listed request attributes. Never raises on JSON values."""
    try:
        return _remembered(msgspec.convert(body, _Usual))
    except (msgspec.ValidationError, OverflowError):
        return _pick(_mapping(body))


def request_labels(body: object) -> RequestFacts:
    """Pick what metrics need of `request_attributes`, which is less."""
    if type(body) is dict:
        model = body.get("model")
        if type(model) is str and len(model) <= _MAX_MODEL:
            return _labels(model, body.get("stream") is True)
    fields = _mapping(body)
    stream = fields.get("stream") is True
    return RequestFacts(_model(fields.get("model")), stream, ())


@lru_cache(maxsize=_MAX_REMEMBERED)
def _labels(model: str, stream: bool) -> RequestFacts:  # noqa: FBT001 - a part of the cache's key
    return RequestFacts(_model(model), stream, ())


@lru_cache(maxsize=_MAX_REMEMBERED)
def _remembered(usual: _Usual) -> RequestFacts:
    return _pick(msgspec.structs.asdict(usual))


def _pick(fields: Mapping[str, object]) -> RequestFacts:
    found: list[tuple[str, AttributeValue]] = []
    stream = fields.get("stream")
    if type(stream) is bool:
        found.append((GEN_AI_REQUEST_STREAM, stream))
    for key in _MAX_TOKENS_KEYS:
        limit = fields.get(key)
        if type(limit) is int and 0 <= limit < _INT32:
            found.append((GEN_AI_REQUEST_MAX_TOKENS, limit))
            break
    for key, name in _FLOATS:
        given = fields.get(key)
        # Most of them are not given, and a call would cost more than the rest.
        number = None if given is None else _finite(given)
        if number is not None:
            found.append((name, number))
    seed = fields.get("seed")
    if type(seed) is int and -_INT64 <= seed < _INT64:
        found.append((GEN_AI_REQUEST_SEED, seed))
    count = fields.get("n")
    # The conventions want the count only where it is not 1.
    if type(count) is int and 1 < count < _INT32:
        found.append((GEN_AI_REQUEST_CHOICE_COUNT, count))
    return RequestFacts(_model(fields.get("model")), stream is True, tuple(found))


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
@lru_cache(maxsize=_MAX_REMEMBERED, typed=True)
def _words(model: str, reason: str) -> tuple[tuple[str, str], tuple[str, tuple[str]]]:
    reasons = (GEN_AI_RESPONSE_FINISH_REASONS, (_reason(reason),))
    return (GEN_AI_RESPONSE_MODEL, _named(model)), reasons


def _add_model_and_usage(
    values: dict[str, AttributeValue], fields: Mapping[str, object]
) -> None:
    model = _model(fields.get("model"))
    if model is not None:
        values[GEN_AI_RESPONSE_MODEL] = model
    usage = fields.get("usage")
    if usage is None:
        return
    usage = _mapping(usage)
    for key, name in _USAGE_KEYS:
        tokens = usage.get(key)
        if type(tokens) is int and 0 <= tokens < _INT64:
            values[name] = tokens


def _mapping(value: object) -> Mapping[str, object]:
    # Bodies are dicts nearly always, and the check for Mapping is slow.
    if type(value) is dict:
        return value
    return value if isinstance(value, Mapping) else {}


def _model(value: object) -> str | None:
    return None if value is None else _named(value)


def _named(value: object) -> str:
    if type(value) is str and len(value) <= _MAX_MODEL:
        return _model_name(value)
    return OTHER


@lru_cache(maxsize=_MAX_REMEMBERED)
def _model_name(text: str) -> str:
    return text if _MODEL.fullmatch(text) else OTHER


def _finite(value: object) -> float | None:
    if type(value) is int and -_INT32 <= value < _INT32:
        return float(value)
    if type(value) is float and isfinite(value):
        return value
    return None


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
        fields = _mapping(choice)
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
    why = _mapping(body.get("incomplete_details")).get("reason")
    return status if why is None else why


def _reason(value: object) -> str:
    return value if type(value) is str and value in FINISH_REASONS else OTHER
