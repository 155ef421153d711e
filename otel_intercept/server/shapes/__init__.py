"""The four dialects' answers: whole bodies, and event streams made from chunks."""

from collections.abc import Callable, Mapping
from typing import Final

from otel_intercept.semconv import Dialect
from otel_intercept.server.completion import (
    Completion,
    dialect_of_body,
    read_completion,
)
from otel_intercept.server.json_values import JsonObject, dumped
from otel_intercept.server.shapes.chat import ChatEncoder, chat_body
from otel_intercept.server.shapes.encoder import StreamEncoder
from otel_intercept.server.shapes.messages import messages_body
from otel_intercept.server.shapes.messages_stream import MessagesEncoder
from otel_intercept.server.shapes.responses import responses_body
from otel_intercept.server.shapes.responses_stream import ResponsesEncoder
from otel_intercept.server.shapes.text import TextEncoder, text_body

__all__ = ["StreamEncoder", "body_for", "encoder_for"]

_BODIES: Final[Mapping[Dialect, Callable[[Completion], JsonObject]]] = {
    Dialect.CHAT_COMPLETIONS: chat_body,
    Dialect.COMPLETIONS: text_body,
    Dialect.RESPONSES: responses_body,
    Dialect.MESSAGES: messages_body,
}


def body_for(dialect: Dialect, response: object) -> JsonObject:
    """Give the JSON body of an answer in a dialect's shape.

    A body that is in that shape already, or in no known one, passes unchanged.

    Raises:
        TypeError: The response is no mapping, has no ``model_dump`` and no known shape.
            What foreign objects raise while they are read passes too.
    """
    write = _BODIES.get(dialect)
    if write is None or dialect_of_body(response) is dialect:
        return dumped(response)
    completion = read_completion(response)
    return dumped(response) if completion is None else write(completion)


def encoder_for(dialect: Dialect, model: str) -> StreamEncoder:
    """Give a fresh encoder for one stream.

    Args:
        dialect: Whose events to write.
        model: What to call the model until a chunk names it.
    """
    match dialect:
        case Dialect.MESSAGES:
            return MessagesEncoder(model)
        case Dialect.RESPONSES:
            return ResponsesEncoder(model)
        case Dialect.COMPLETIONS:
            return TextEncoder()
        case _:
            return ChatEncoder()
