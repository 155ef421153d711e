"""Which dialect a route speaks, and the words of its error frames."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otel_intercept.dialect import (
    STREAM_GRAMMARS,
    dialect_of,
    error_words,
    operation_of,
    provider_of,
)
from otel_intercept.semconv import Dialect

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=80),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
    ),
    max_leaves=20,
)
ERROR_EVENTS = st.dictionaries(
    st.sampled_from(["error", "response", "type", "code", "error_type"]),
    JSON | st.dictionaries(st.sampled_from(["error", "type", "code"]), JSON),
)


@pytest.mark.parametrize(
    ("path", "dialect"),
    [
        ("/rollout/r1/v1/chat/completions", Dialect.CHAT_COMPLETIONS),
        ("/v1/chat/completions/", Dialect.CHAT_COMPLETIONS),
        ("/v1/completions", Dialect.COMPLETIONS),
        ("/rollout/{rollout_id}/v1/responses", Dialect.RESPONSES),
        ("/v1/messages", Dialect.MESSAGES),
        ("/v1/messages/count_tokens", Dialect.OTHER),
        ("/v1/nochat/mycompletions", Dialect.OTHER),
        ("/v1/embeddings", Dialect.OTHER),
        ("", Dialect.OTHER),
    ],
)
def test_dialect_is_told_from_the_end_of_the_path(path: str, dialect: Dialect) -> None:
    """The last whole segments of a path or template decide the dialect."""
    assert dialect_of(path) is dialect


@pytest.mark.parametrize(
    ("dialect", "operation", "provider"),
    [
        (Dialect.CHAT_COMPLETIONS, "chat", "openai"),
        (Dialect.COMPLETIONS, "text_completion", "openai"),
        (Dialect.RESPONSES, "chat", "openai"),
        (Dialect.MESSAGES, "chat", "anthropic"),
        (Dialect.OTHER, "chat", "openai"),
    ],
)
def test_dialect_gives_the_genai_names(
    dialect: Dialect, operation: str, provider: str
) -> None:
    """Each dialect has the operation and provider of the GenAI conventions."""
    assert operation_of(dialect) == operation
    assert provider_of(dialect) == provider


def test_every_dialect_has_a_stream_grammar() -> None:
    """No dialect is left without rules, and each has a needle for errors."""
    assert set(STREAM_GRAMMARS) == set(Dialect)
    assert all(b'"error"' in rules.needles for rules in STREAM_GRAMMARS.values())


@pytest.mark.parametrize("dialect", Dialect)
def test_every_special_type_has_a_needle(dialect: Dialect) -> None:
    """Where the data names its kind, each special kind is found by a needle."""
    grammar = STREAM_GRAMMARS[dialect]
    kinds = grammar.errors | grammar.terminals | grammar.keepalives

    found = {
        kind
        for kind in kinds
        if any(needle in b'"%s"' % kind.encode() for needle in grammar.needles)
    }

    assert not grammar.typed or found == kinds


@pytest.mark.parametrize(
    ("event", "words"),
    [
        (
            {"error": {"type": "server_error", "code": "server_is_overloaded"}},
            ("server_error", "server_is_overloaded"),
        ),
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "no"}},
            ("overloaded_error", None),
        ),
        (
            {"type": "error", "code": "rate_limit_exceeded", "message": "no"},
            ("error", "rate_limit_exceeded"),
        ),
        (
            {
                "type": "response.failed",
                "response": {"error": {"code": "server_error"}},
            },
            (None, "server_error"),
        ),
        (
            {"error": {"type": "BadRequestError", "code": 400}},
            ("BadRequestError", "400"),
        ),
        ({"error": "Model is busy", "error_type": "overloaded"}, ("overloaded", None)),
        ({"error": "Model is busy"}, (None, None)),
        ({"error": {"type": "x" * 65, "code": 10**20}}, (None, None)),
        ({"error": {"type": ["a"], "code": True}}, (None, None)),
        ({"error": [1]}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_error_words_are_found_where_providers_put_them(
    event: dict[str, object], words: tuple[str | None, str | None]
) -> None:
    """Type and code come out of every known shape, bounded and of exact type."""
    assert error_words(event) == words


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(event=ERROR_EVENTS)
def test_error_words_never_raise_and_are_bounded(event: dict[str, object]) -> None:
    """Whatever JSON an upstream sends, the words are short strings or None."""
    words = error_words(event)

    assert all(
        word is None or (type(word) is str and len(word) <= 64) for word in words
    )
