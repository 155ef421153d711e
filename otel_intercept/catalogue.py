"""What each span, event and attribute of ours means: the source of what may leave.

The export guard lets through what stands here, and the reference page is made from it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from otel_intercept import semconv
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    Origin,
    Phase,
    RolloutOutcome,
)


class Place(StrEnum):
    """Where an attribute can stand."""

    ROLLOUT = "rollout"
    STARTED = "rollout.started"
    EXCHANGE = "exchange"
    CALL = "model call"
    FAILURE = "failure"
    EXCEPTION = "exception event"


AttributeType = Literal["string", "boolean", "int", "double", "string[]"]
Stability = Literal["ours", "stable", "development"]


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute key.

    Args:
        key: The key.
        value_type: The type of its values, in OpenTelemetry's words.
        description: What it says, with the unit if it has one.
        places: Where it can stand.
        values: The closed set of its values; None when it is open.
        stability: ``ours`` is our contract; else that of the semantic conventions.
    """

    key: str
    value_type: AttributeType
    description: str
    places: tuple[Place, ...]
    values: type[StrEnum] | None = None
    stability: Stability = "ours"


@dataclass(frozen=True, slots=True)
class Span:
    """One kind of span.

    Args:
        place: What it is called here.
        name: Its name, with placeholders in braces.
        kind: Its OpenTelemetry kind.
        description: When there is one, and what it spans.
    """

    place: Place
    name: str
    kind: Literal["INTERNAL", "SERVER", "CLIENT"]
    description: str


_EVERYWHERE: Final = (
    Place.ROLLOUT, Place.STARTED, Place.EXCHANGE, Place.CALL, Place.FAILURE,
)  # fmt: skip
_EXCHANGE: Final = (Place.EXCHANGE,)
_FAILED: Final = (Place.ROLLOUT, Place.EXCEPTION)
_CALL: Final = (Place.CALL, Place.EXCHANGE)
"""On the exchange only when it never waited for an upstream."""


def _gen_ai(key: str, kind: AttributeType, description: str) -> Attribute:
    return Attribute(key, kind, description, _CALL, stability="development")


SPANS: Final = (
    Span(
        Place.ROLLOUT, semconv.SPAN_ROLLOUT, "INTERNAL",
        "The root: from opening a rollout to closing it. ERROR when it failed.",
    ),
    Span(
        Place.STARTED, semconv.SPAN_ROLLOUT_STARTED, "INTERNAL",
        "Without length, exported at once: shows rollouts that run, or were killed.",
    ),
    Span(
        Place.EXCHANGE, "{method} {route template}", "SERVER",
        "One intercepted request and its answer. ERROR when its outcome is an error.",
    ),
    Span(
        Place.CALL, "{operation} {model}", "CLIENT",
        "The wait for the upstream; one for each call that an exchange made.",
    ),
    Span(
        Place.FAILURE, semconv.SPAN_FAILURE, "INTERNAL",
        "Without length: a failure outside any open exchange. Links to a late one's.",
    ),
)  # fmt: skip

ATTRIBUTES: Final = (
    Attribute(
        semconv.ROLLOUT_ID, "string", "The rollout's id, as given at open.", _EVERYWHERE
    ),
    Attribute(
        semconv.ROLLOUT_OUTCOME, "string", "How the rollout ended.",
        (Place.ROLLOUT,), RolloutOutcome,
    ),
    Attribute(
        semconv.ROLLOUT_EXCHANGES, "int", "How many exchanges it had.", (Place.ROLLOUT,)
    ),
    Attribute(
        semconv.ROLLOUT_FAILURES, "int", "How many failures it had.", (Place.ROLLOUT,)
    ),
    Attribute(
        semconv.EXCHANGE_INDEX, "int", "Which exchange it was, from 0.", _EXCHANGE
    ),
    Attribute(
        semconv.EXCHANGE_OUTCOME, "string", "How the exchange ended.",
        _EXCHANGE, ExchangeOutcome,
    ),
    Attribute(
        semconv.EXCHANGE_RETRY_COUNT, "int",
        "Which retry of the same request the agent's SDK says this is.", _EXCHANGE,
    ),
    Attribute(
        semconv.EXCHANGE_DIALECT, "string", "The API shape, told from the route's end.",
        _EXCHANGE, Dialect,
    ),
    Attribute(
        semconv.EXCHANGE_STREAM, "boolean", "Whether the agent asked for a stream.",
        _EXCHANGE,
    ),
    Attribute(
        semconv.EXCHANGE_REPLAYED, "boolean",
        "True on an answer repeated from an earlier request: no model call was made.",
        _EXCHANGE,
    ),
    Attribute(
        semconv.STREAM_CHUNKS, "int", "SSE data events before the terminal one.",
        _EXCHANGE,
    ),
    Attribute(
        semconv.STREAM_BYTES, "int", "Bytes written to the agent.", _EXCHANGE
    ),
    Attribute(
        semconv.STREAM_KEEPALIVES, "int", "SSE comments written while it waited.",
        _EXCHANGE,
    ),
    Attribute(
        semconv.STREAM_MAX_GAP_S, "double",
        "Longest silence between two chunks, in seconds.", _EXCHANGE,
    ),
    Attribute(
        semconv.STREAM_TIME_TO_FIRST_CHUNK_S, "double",
        "From the request to the first chunk, in seconds.", _EXCHANGE,
    ),
    Attribute(
        semconv.ERROR_TYPE, "string", "The class of the (first) failure.",
        (*_FAILED, Place.EXCHANGE, Place.CALL, Place.FAILURE), ErrorType, "stable",
    ),
    Attribute(
        semconv.FAILURE_PHASE, "string", "Where in the exchange it broke.",
        _FAILED, Phase,
    ),
    Attribute(
        semconv.FAILURE_ORIGIN, "string", "Whose side it is on.", _FAILED, Origin
    ),
    Attribute(
        semconv.FAILURE_RETRYABLE, "boolean", "Whether a retry can help.", _FAILED
    ),
    Attribute(
        semconv.FAILURE_FINGERPRINT, "string",
        "Keyed hash of the normalised message: equal for equal failures.", _FAILED,
    ),
    Attribute(
        semconv.FAILURE_CAUSE_TYPES, "string[]",
        "Class names along the chain of causes, outermost first.", _FAILED,
    ),
    Attribute(
        semconv.FAILURE_STATUS_CODE, "int", "The HTTP status of the upstream.", _FAILED
    ),
    Attribute(
        semconv.EXCEPTION_TYPE, "string",
        "Class that can be imported under this name; never message or stack trace.",
        (Place.EXCEPTION,), stability="stable",
    ),
    Attribute(
        semconv.HTTP_REQUEST_METHOD, "string", "The method, or `_OTHER`.",
        _EXCHANGE, stability="stable",
    ),
    Attribute(
        semconv.HTTP_ROUTE, "string", "The route template.", _EXCHANGE,
        stability="stable",
    ),
    Attribute(
        semconv.HTTP_RESPONSE_STATUS_CODE, "int", "The status that the agent was sent.",
        _EXCHANGE, stability="stable",
    ),
    Attribute(
        semconv.URL_PATH, "string", "The route template too, never the path itself.",
        _EXCHANGE, stability="stable",
    ),
    Attribute(
        semconv.URL_SCHEME, "string", "`http` or `https`.", _EXCHANGE,
        stability="stable",
    ),
    _gen_ai(semconv.GEN_AI_OPERATION_NAME, "string", "`chat` or `text_completion`."),
    _gen_ai(semconv.GEN_AI_PROVIDER_NAME, "string", "The API: `openai`, `anthropic`."),
    _gen_ai(semconv.GEN_AI_CONVERSATION_ID, "string", "The rollout's id again."),
    _gen_ai(semconv.GEN_AI_REQUEST_MODEL, "string", "The model that was asked for."),
    _gen_ai(semconv.GEN_AI_REQUEST_STREAM, "boolean", "True when streaming."),
    _gen_ai(semconv.GEN_AI_REQUEST_MAX_TOKENS, "int", "Most tokens of the answer."),
    _gen_ai(semconv.GEN_AI_REQUEST_TEMPERATURE, "double", "Sampling temperature."),
    _gen_ai(semconv.GEN_AI_REQUEST_TOP_P, "double", "Nucleus sampling."),
    _gen_ai(semconv.GEN_AI_REQUEST_TOP_K, "int", "Top-k sampling."),
    _gen_ai(semconv.GEN_AI_REQUEST_FREQUENCY_PENALTY, "double", "Frequency penalty."),
    _gen_ai(semconv.GEN_AI_REQUEST_PRESENCE_PENALTY, "double", "Presence penalty."),
    _gen_ai(semconv.GEN_AI_REQUEST_SEED, "int", "The seed that was asked for."),
    _gen_ai(semconv.GEN_AI_REQUEST_CHOICE_COUNT, "int", "Choices, when more than one."),
    _gen_ai(semconv.GEN_AI_RESPONSE_MODEL, "string", "The model that answered."),
    _gen_ai(semconv.GEN_AI_RESPONSE_FINISH_REASONS, "string[]", "Why it stopped."),
    _gen_ai(semconv.GEN_AI_USAGE_INPUT_TOKENS, "int", "Tokens of the prompt."),
    _gen_ai(semconv.GEN_AI_USAGE_OUTPUT_TOKENS, "int", "Tokens of the answer."),
)  # fmt: skip

SPAN_ATTRIBUTES: Final = frozenset(attribute.key for attribute in ATTRIBUTES)
"""Every attribute key that may stand on a span or event of ours."""
