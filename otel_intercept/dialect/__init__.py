"""The four API shapes that agents speak: their streams, attributes and errors."""

from otel_intercept.dialect.answered import ResponseFacts, response_attributes
from otel_intercept.dialect.grammar import (
    DONE,
    STREAM_GRAMMARS,
    StreamGrammar,
    dialect_of,
    error_words,
    operation_of,
    provider_of,
)
from otel_intercept.dialect.requested import request_attributes, request_labels
from otel_intercept.dialect.wire_errors import (
    error_body,
    error_frame,
    error_headers,
    error_message,
)

__all__ = [
    "DONE",
    "STREAM_GRAMMARS",
    "ResponseFacts",
    "StreamGrammar",
    "dialect_of",
    "error_body",
    "error_frame",
    "error_headers",
    "error_message",
    "error_words",
    "operation_of",
    "provider_of",
    "request_attributes",
    "request_labels",
    "response_attributes",
]
