"""Which values of request and response bodies may be kept."""

import json
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from otel_intercept.catalogue import SPAN_ATTRIBUTES
from otel_intercept.dialect import (
    STREAM_GRAMMARS,
    ResponseFacts,
    request_attributes,
    request_labels,
    response_attributes,
)
from otel_intercept.record import RequestFacts
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
    Dialect,
)

GRAMMAR = STREAM_GRAMMARS[Dialect.OTHER]
CANARY = "sk-canary-7f3a"
REASONS = GEN_AI_RESPONSE_FINISH_REASONS

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from([CANARY + " ", f"prompt {CANARY}", "stop", "gpt-5", 10**400])
)
KEYS = st.sampled_from(
    ["model", "stream", "max_tokens", "temperature", "top_k", "seed", "n", "usage",
     "prompt_tokens", "input_tokens", "output_tokens", "choices", "finish_reason",
     "index", "stop_reason", "status", "incomplete_details", "reason", "type",
     "message", "delta", "response", "id", "content"]
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=6)
    ),
    max_leaves=30,
)


def test_request_attributes_are_picked_from_the_allowed_keys() -> None:
    """Model, stream and sampling are taken; prompts, tools and users are not."""
    body = {
        "model": "Qwen/Qwen3-8B:free",
        "messages": [{"role": "user", "content": CANARY}],
        "tools": [{"name": CANARY}],
        "user": CANARY,
        "stop": [CANARY],
        "stream": True,
        "max_tokens": 100,
        "temperature": 1,
        "top_p": 0.9,
        "top_k": 40,
        "frequency_penalty": -0.5,
        "presence_penalty": 0.5,
        "seed": -(2**63),
        "n": 4,
    }

    facts = request_attributes(body)

    assert facts.model == "Qwen/Qwen3-8B:free"
    assert facts.stream is True
    assert dict(facts.attributes) == {
        GEN_AI_REQUEST_STREAM: True,
        GEN_AI_REQUEST_MAX_TOKENS: 100,
        GEN_AI_REQUEST_TEMPERATURE: 1.0,
        GEN_AI_REQUEST_TOP_P: 0.9,
        GEN_AI_REQUEST_TOP_K: 40.0,
        GEN_AI_REQUEST_FREQUENCY_PENALTY: -0.5,
        GEN_AI_REQUEST_PRESENCE_PENALTY: 0.5,
        GEN_AI_REQUEST_SEED: -(2**63),
        GEN_AI_REQUEST_CHOICE_COUNT: 4,
    }
    assert type(dict(facts.attributes)[GEN_AI_REQUEST_TEMPERATURE]) is float


@pytest.mark.parametrize(
    "key", ["max_tokens", "max_completion_tokens", "max_output_tokens"]
)
def test_each_spelling_of_the_token_limit_counts(key: str) -> None:
    """The dialects' three names for the token limit give one attribute."""
    facts = request_attributes({key: 7})

    assert facts.attributes == ((GEN_AI_REQUEST_MAX_TOKENS, 7),)


@pytest.mark.parametrize(
    "body",
    [
        {"stream": 1},
        {"stream": "true"},
        {"max_tokens": True},
        {"max_tokens": 1.5},
        {"max_tokens": -1},
        {"max_tokens": 2**31},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": "0.5"},
        {"temperature": False},
        {"temperature": 10**400},
        {"seed": 2**63},
        {"seed": True},
        {"n": 1},
        {"n": True},
        {"n": 2**31},
        {"temperature": [0.5]},
    ],
)
def test_request_values_of_wrong_type_or_size_are_left_out(
    body: dict[str, object],
) -> None:
    """A value that is not exactly of its type and bound leaves no attribute."""
    facts = request_attributes(body)

    assert facts == RequestFacts(None, stream=False, attributes=())


@pytest.mark.parametrize(
    ("model", "kept"),
    [
        ("gpt-5", "gpt-5"),
        ("a" * 96, "a" * 96),
        ("a" * 97, "_OTHER"),
        ("", "_OTHER"),
        (" gpt-5", "_OTHER"),
        ("gpt-5\n", "_OTHER"),
        ("gpt 5", "_OTHER"),
        ("модель", "_OTHER"),
        ("m\u0661", "_OTHER"),
        ("-gpt", "_OTHER"),
        (5, "_OTHER"),
        (["gpt-5"], "_OTHER"),
        (None, None),
    ],
)
def test_model_must_look_like_a_model(model: object, kept: str | None) -> None:
    """Text that does not look like a model name becomes _OTHER, on both sides."""
    assert request_attributes({"model": model}).model == kept
    assert (
        dict(response_attributes({"model": model})).get(GEN_AI_RESPONSE_MODEL) == kept
    )


@pytest.mark.parametrize(
    ("body", "attributes"),
    [
        (
            {
                "id": CANARY,
                "model": "gpt-5",
                "choices": [
                    {"index": 0, "finish_reason": "stop", "message": CANARY},
                    {"index": 1, "finish_reason": "length"},
                    {"index": 2, "finish_reason": None},
                ],
                "usage": {"prompt_tokens": 3, "completion_tokens": 4},
            },
            {
                GEN_AI_RESPONSE_MODEL: "gpt-5",
                GEN_AI_USAGE_INPUT_TOKENS: 3,
                GEN_AI_USAGE_OUTPUT_TOKENS: 4,
                REASONS: ("stop", "length"),
            },
        ),
        (
            {
                "id": CANARY,
                "type": "message",
                "model": "claude-5",
                "content": [{"type": "text", "text": CANARY}],
                "stop_reason": "tool_use",
                "usage": {"input_tokens": 3, "output_tokens": 4},
            },
            {
                GEN_AI_RESPONSE_MODEL: "claude-5",
                GEN_AI_USAGE_INPUT_TOKENS: 3,
                GEN_AI_USAGE_OUTPUT_TOKENS: 4,
                REASONS: ("tool_use",),
            },
        ),
        (
            {"status": "completed", "incomplete_details": None},
            {REASONS: ("completed",)},
        ),
        (
            {
                "status": "incomplete",
                "incomplete_details": {"reason": "max_output_tokens"},
            },
            {REASONS: ("max_output_tokens",)},
        ),
        ({"status": "in_progress"}, {}),
        ({"stop_reason": CANARY}, {REASONS: ("_OTHER",)}),
        ({"choices": [{"finish_reason": {"a": 1}}]}, {REASONS: ("_OTHER",)}),
        ({"choices": CANARY, "usage": [CANARY]}, {}),
        ({"usage": {"input_tokens": True, "output_tokens": -1}}, {}),
        ({"usage": {"input_tokens": 2**63, "output_tokens": 1.0}}, {}),
        (
            {"choices": [{"finish_reason": "stop"}] * 20},
            {REASONS: ("stop",) * 8},
        ),
        ([1, 2], {}),
        (None, {}),
    ],
)
def test_response_attributes_of_each_dialect(
    body: object, attributes: Mapping[str, object]
) -> None:
    """Model, usage and finish reasons come out of each shape, and nothing else."""
    assert dict(response_attributes(body)) == attributes


def test_a_stream_of_choices_gives_one_reason_per_choice() -> None:
    """A repeated finish reason counts once per choice, and at most eight do."""
    facts = ResponseFacts()

    for index in [0, 1, 1, *range(2, 20)]:
        choice = {"index": index, "finish_reason": "stop"}
        facts.add_event({"choices": [choice]}, GRAMMAR)

    assert facts.attributes == ((REASONS, ("stop",) * 8),)


class Same(str):
    """A text that equals another."""

    __slots__ = ()


NUMBERS = st.sampled_from([0, 7, 2**63 - 1]) | st.sampled_from(
    [None, 2**63, -1, True, 7.0, "7"]
)
WORDS = st.sampled_from(["stop", "ok", "m" * 96]) | st.sampled_from(
    [CANARY, "m" * 97, "", Same("stop"), Same("ok"), None, 7]
)


def some(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Have some of the fields, or nearly always all."""
    return st.fixed_dictionaries(fields) | st.fixed_dictionaries({}, optional=fields)


@settings(max_examples=400)
@given(
    body=some(
        model=WORDS,
        usage=some(prompt_tokens=NUMBERS, completion_tokens=NUMBERS)
        | some(
            prompt_tokens=NUMBERS,
            completion_tokens=NUMBERS,
            input_tokens=NUMBERS,
            output_tokens=NUMBERS,
        )
        | WORDS,
        choices=st.lists(some(finish_reason=WORDS), min_size=1, max_size=1)
        | st.lists(some(index=NUMBERS, finish_reason=WORDS), max_size=2)
        | WORDS,
        stop_reason=WORDS,
    )
)
def test_a_usual_answer_says_what_is_gathered_of_any(body: dict[str, object]) -> None:
    """What is found in one call is what is found by one look-up after the other."""
    facts = ResponseFacts()
    facts.add(body)

    found = response_attributes(body)

    assert found == facts.attributes
    assert all(type(value) in {str, int, tuple} for _, value in found)


def test_a_mapping_that_is_no_dict_is_read_too() -> None:
    """Frozen bodies work as plain ones do."""
    assert request_attributes(MappingProxyType({"model": "gpt-5"})).model == "gpt-5"


@pytest.mark.parametrize("make", [dict, MappingProxyType])
@given(
    body=st.dictionaries(
        st.sampled_from(["model", "stream", "n"]),
        LEAVES | st.text("ab/-", max_size=98) | st.lists(LEAVES, max_size=1),
    )
)
def test_the_labels_of_a_request_are_what_is_picked_of_it(
    make: Callable[[dict[str, object]], Mapping[str, object]], body: dict[str, object]
) -> None:
    """Metrics have the same model and stream of it as spans have."""
    facts = request_attributes(make(body))

    assert request_labels(make(body)) == replace(facts, attributes=())


def test_a_text_that_is_too_long_for_a_model_is_not_kept() -> None:
    """What agents send in place of a name is gone with their request."""
    text = "m" * 97
    before = sys.getrefcount(text)

    assert request_labels({"model": text}).model == "_OTHER"

    assert sys.getrefcount(text) == before


@given(body=JSON)
def test_a_body_that_is_no_object_has_no_labels(body: object) -> None:
    """It says nothing of what is asked for, and raises nothing."""
    facts = request_attributes(body)

    assert request_labels(body) == replace(facts, attributes=())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=JSON)
def test_arbitrary_json_neither_raises_nor_leaks(body: object) -> None:
    """Whatever JSON comes, only allow-listed keys and safe values go out."""
    facts = request_attributes(body)
    events = ResponseFacts()
    if isinstance(body, dict):
        events.add_event(body, GRAMMAR)

    found = facts.attributes + response_attributes(body) + events.attributes

    assert {name for name, _ in found} <= SPAN_ATTRIBUTES
    assert CANARY not in json.dumps([facts.model, *found])
    for _, value in found:
        assert type(value) in {str, bool, int, float, tuple}
        assert not isinstance(value, int) or -(2**63) <= value < 2**63
