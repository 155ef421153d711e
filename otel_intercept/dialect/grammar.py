"""Tell which API shape the agent speaks, and how that shape's event streams end.

The four dialects are OpenAI chat completions, completions and responses, and Anthropic
messages. What this page says of streams is what the SDKs of both providers act on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from otel_intercept.semconv import Dialect

DONE: Final = b"[DONE]"
"""Data that ends a stream in every dialect: many hosts end all their routes with it."""

_MAX_WORD: Final = 64
_HTTP_STATUSES: Final = range(100, 600)

_SUFFIXES: Final = (
    ("/chat/completions", Dialect.CHAT_COMPLETIONS),
    ("/completions", Dialect.COMPLETIONS),
    ("/responses", Dialect.RESPONSES),
    ("/messages", Dialect.MESSAGES),
)


@dataclass(frozen=True, slots=True)
class StreamGrammar:
    """What the events of one dialect's stream mean.

    An event's kind is its ``event:`` name and, where ``typed``, the ``type`` of its
    JSON data. In every dialect a truthy top-level ``error`` makes an error frame too.

    Args:
        typed: Whether the JSON data names its kind in ``type``.
        choices: Whether usage and finish reasons stand at the top, as in chat chunks.
        errors: Kinds that make the SDK raise, or that report a failed response.
        terminals: Kinds that end the stream cleanly.
        keepalives: Kinds that only keep the connection open.
        carriers: Kinds whose data holds usage, finish reasons or the model.
        needles: At least one of these bytes stands in every event that is not merely
            a chunk of text, unless the JSON writes plain letters as escapes.
    """

    typed: bool
    choices: bool
    errors: frozenset[str]
    terminals: frozenset[str]
    keepalives: frozenset[str]
    carriers: frozenset[str]
    needles: tuple[bytes, ...]

    @property
    def special_names(self) -> frozenset[bytes]:
        """The ``event:`` names, as on the wire, that are not merely chunks."""
        kinds = self.errors | self.terminals | self.keepalives
        return frozenset(kind.encode() for kind in kinds)


_CHAT: Final = StreamGrammar(
    typed=False,
    choices=True,
    errors=frozenset({"error"}),
    terminals=frozenset(),
    keepalives=frozenset({"ping", "keepalive"}),
    carriers=frozenset(),
    needles=(b'"error"', b'"usage"', b'"finish_reason"'),
)
# OpenAI sends undocumented ``keepalive`` events in long responses.
_RESPONSES: Final = StreamGrammar(
    typed=True,
    choices=False,
    errors=frozenset({"error", "response.failed"}),
    terminals=frozenset({"response.completed", "response.incomplete"}),
    keepalives=frozenset({"ping", "keepalive"}),
    carriers=frozenset(
        {"response.completed", "response.incomplete", "response.failed"}
    ),
    needles=(
        b'"error"',
        b'"response.completed"',
        b'"response.incomplete"',
        b'"response.failed"',
        b'"ping"',
        b'"keepalive"',
    ),
)
# One needle stands for message_start, message_delta and message_stop.
_MESSAGES: Final = StreamGrammar(
    typed=True,
    choices=False,
    errors=frozenset({"error"}),
    terminals=frozenset({"message_stop"}),
    keepalives=frozenset({"ping", "keepalive"}),
    carriers=frozenset({"message_start", "message_delta"}),
    needles=(b'"error"', b'"message_', b'"ping"', b'"keepalive"'),
)
_ANY: Final = StreamGrammar(
    typed=True,
    choices=True,
    errors=_RESPONSES.errors | _MESSAGES.errors,
    terminals=_RESPONSES.terminals | _MESSAGES.terminals,
    keepalives=_MESSAGES.keepalives,
    carriers=_RESPONSES.carriers | _MESSAGES.carriers,
    needles=tuple(
        dict.fromkeys(_CHAT.needles + _RESPONSES.needles + _MESSAGES.needles)
    ),
)

STREAM_GRAMMARS: Final[Mapping[Dialect, StreamGrammar]] = MappingProxyType(
    {
        Dialect.CHAT_COMPLETIONS: _CHAT,
        Dialect.COMPLETIONS: _CHAT,
        Dialect.RESPONSES: _RESPONSES,
        Dialect.MESSAGES: _MESSAGES,
        Dialect.OTHER: _ANY,
    }
)
"""The stream grammar of each dialect; an unknown route may speak any of them."""


def dialect_of(path: str) -> Dialect:
    """Tell the dialect from the end of a path or route template, without its query."""
    path = path.rstrip("/")
    for suffix, dialect in _SUFFIXES:
        if path.endswith(suffix):
            return dialect
    return Dialect.OTHER


def operation_of(dialect: Dialect) -> Literal["chat", "text_completion"]:
    """Give ``gen_ai.operation.name``; an unknown dialect counts as chat."""
    return "text_completion" if dialect is Dialect.COMPLETIONS else "chat"


def provider_of(dialect: Dialect) -> Literal["openai", "anthropic"]:
    """Give ``gen_ai.provider.name``: whose API it is, not who runs the model."""
    return "anthropic" if dialect is Dialect.MESSAGES else "openai"


def error_words(event: Mapping[str, object]) -> tuple[str | None, str | None]:
    """Find type and code in an error frame, where OpenAI, Anthropic, vLLM or TGI do.

    Returns:
        The upstream's own words, each at most 64 characters or None. A code that is
        an HTTP status comes as its digits. Look them up in a closed map; never export.
    """
    error = event.get("error")
    response = event.get("response")
    if not error and isinstance(response, Mapping):
        error = response.get("error")
    if isinstance(error, Mapping):
        return _word(error.get("type")), _word(error.get("code"))
    return _word(event.get("error_type", event.get("type"))), _word(event.get("code"))


def _word(value: object) -> str | None:
    if type(value) is str and len(value) <= _MAX_WORD:
        return value
    if type(value) is int and value in _HTTP_STATUSES:
        return str(value)
    return None
