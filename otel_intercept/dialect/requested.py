"""Pick the allow-listed GenAI attributes of a request."""

from collections.abc import Mapping
from functools import lru_cache
from math import isfinite
from typing import Annotated, Final, TypeAlias

import msgspec

from otel_intercept.dialect.values import (
    INT64,
    MAX_MODEL,
    MAX_REMEMBERED,
    mapping_of,
    model_of,
)
from otel_intercept.record import AttributeValue, RequestFacts
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
)

_INT32: Final = 2**31

# Of the integers, those that a float tells apart: equal keys must mean the same.
_Number: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)] | float | None

_FLOATS: Final = (
    ("temperature", GEN_AI_REQUEST_TEMPERATURE),
    ("top_p", GEN_AI_REQUEST_TOP_P),
    ("top_k", GEN_AI_REQUEST_TOP_K),
    ("frequency_penalty", GEN_AI_REQUEST_FREQUENCY_PENALTY),
    ("presence_penalty", GEN_AI_REQUEST_PRESENCE_PENALTY),
)
_MAX_TOKENS_KEYS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


class _Usual(msgspec.Struct, frozen=True, gc=False):
    """The keys that are read of a request, each with a value that is short and usual.

    A rollout asks with the same settings each time, so what they say is remembered.
    """

    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL)] | None = None
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


def request_attributes(body: object) -> RequestFacts:
    """Pick the allow-listed request attributes. Never raises on JSON values."""
    try:
        return _remembered(msgspec.convert(body, _Usual))
    except (msgspec.ValidationError, OverflowError):
        return _pick(mapping_of(body))


def request_labels(body: object) -> RequestFacts:
    """Pick what metrics need of `request_attributes`, which is less."""
    if type(body) is dict:
        model = body.get("model")
        if type(model) is str and len(model) <= MAX_MODEL:
            return _labels(model, body.get("stream") is True)
    fields = mapping_of(body)
    stream = fields.get("stream") is True
    return RequestFacts(model_of(fields.get("model")), stream, ())


@lru_cache(maxsize=MAX_REMEMBERED)
def _labels(model: str, stream: bool) -> RequestFacts:  # noqa: FBT001 - a part of the cache's key
    return RequestFacts(model_of(model), stream, ())


@lru_cache(maxsize=MAX_REMEMBERED)
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
    if type(seed) is int and -INT64 <= seed < INT64:
        found.append((GEN_AI_REQUEST_SEED, seed))
    count = fields.get("n")
    # The conventions want the count only where it is not 1.
    if type(count) is int and 1 < count < _INT32:
        found.append((GEN_AI_REQUEST_CHOICE_COUNT, count))
    return RequestFacts(model_of(fields.get("model")), stream is True, tuple(found))


def _finite(value: object) -> float | None:
    if type(value) is int and -_INT32 <= value < _INT32:
        return float(value)
    if type(value) is float and isfinite(value):
        return value
    return None
