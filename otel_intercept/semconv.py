"""Every name and closed value set that leaves the process: enums, attributes, metrics.

The values are a contract with dashboards, alerts and users. ``http.*``, ``url.*`` and
``error.type`` follow the OpenTelemetry semantic conventions 1.44; ``gen_ai.*`` follows
1.41, the last tagged version of the GenAI conventions. Everything else is ours.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal


class _Word(StrEnum):
    """A closed set of words, which are looked up in every table of the hot path."""

    # An enum's own hash is a Python function; words are equal as texts, so this fits.
    __hash__ = str.__hash__


class ExchangeOutcome(_Word):
    """How an exchange ended. Exactly one per exchange."""

    OK = "ok"
    UPSTREAM_FAILED = "upstream_failed"
    SILENT_EMPTY = "silent_empty"
    CUT = "cut"
    ERROR_FRAME = "error_frame"
    NO_TERMINAL = "no_terminal"
    HANDLER_FAILED = "handler_failed"
    AGENT_GONE = "agent_gone"
    CANCELLED = "cancelled"
    CLEAN_STOP = "clean_stop"
    REJECTED = "rejected"


class RolloutOutcome(_Word):
    """How a rollout ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STOPPED = "stopped"
    ABORTED = "aborted"
    ABANDONED = "abandoned"


class ErrorType(_Word):
    """The closed vocabulary of ``error.type``: same value on span, event and metric."""

    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_CONNECTION = "upstream_connection"
    UPSTREAM_RATE_LIMITED = "upstream_rate_limited"
    UPSTREAM_OVERLOADED = "upstream_overloaded"
    UPSTREAM_SERVER_ERROR = "upstream_server_error"
    UPSTREAM_AUTH = "upstream_auth"
    UPSTREAM_BAD_REQUEST = "upstream_bad_request"
    UPSTREAM_CONTEXT_LENGTH = "upstream_context_length"
    UPSTREAM_CONTENT_FILTER = "upstream_content_filter"
    UPSTREAM_BAD_RESPONSE = "upstream_bad_response"
    UPSTREAM_EMPTY = "upstream_empty"
    UPSTREAM_ERROR_FRAME = "upstream_error_frame"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    AGENT_DISCONNECTED = "agent_disconnected"
    HANDLER_ERROR = "handler_error"
    OTHER = "_OTHER"


class Phase(_Word):
    """Where in the exchange it broke."""

    PREPARE = "prepare"
    KEEPALIVE = "keepalive"
    CHUNK = "chunk"
    RESPONSE_FUTURE = "response_future"
    EOF = "eof"
    HANDLER = "handler"
    UPSTREAM_CALL = "upstream_call"
    LATE = "late"


class Origin(_Word):
    """Whose side a failure is on."""

    UPSTREAM = "upstream"
    AGENT = "agent"
    PROXY = "proxy"


class Dialect(_Word):
    """The API shape that the agent speaks, told from the end of the route."""

    CHAT_COMPLETIONS = "chat_completions"
    COMPLETIONS = "completions"
    RESPONSES = "responses"
    MESSAGES = "messages"
    OTHER = "_OTHER"


class Fate(_Word):
    """What became of telemetry that had ended."""

    EXPORTED = "exported"
    FAILED = "failed"
    DROPPED = "dropped"


class Signal(_Word):
    """Which telemetry signal a fate is counted for."""

    TRACES = "traces"
    METRICS = "metrics"
    LOGS = "logs"


OTHER: Final = "_OTHER"

SCOPE_NAME: Final = "otel_intercept"

SPAN_ROLLOUT: Final = "rollout"
SPAN_ROLLOUT_STARTED: Final = "rollout.started"
SPAN_FAILURE: Final = "failure"
EVENT_EXCEPTION: Final = "exception"
PROBE: Final = "otel_intercept.probe"
"""The span, gauge or log record that `otel-intercept doctor` sends to a collector."""
EVENT_FAILURE: Final = "intercept.failure"
SEVERITY_ERROR: Final = "ERROR"

ROLLOUT_ID: Final = "intercept.rollout.id"
ROLLOUT_OUTCOME: Final = "intercept.rollout.outcome"
ROLLOUT_EXCHANGES: Final = "intercept.rollout.exchanges"
ROLLOUT_FAILURES: Final = "intercept.rollout.failures"
EXCHANGE_INDEX: Final = "intercept.exchange.index"
EXCHANGE_OUTCOME: Final = "intercept.exchange.outcome"
EXCHANGE_RETRY_COUNT: Final = "intercept.exchange.retry_count"
EXCHANGE_DIALECT: Final = "intercept.exchange.dialect"
EXCHANGE_STREAM: Final = "intercept.exchange.stream"
EXCHANGE_REPLAYED: Final = "intercept.exchange.replayed"
STREAM_CHUNKS: Final = "intercept.stream.chunks"
STREAM_BYTES: Final = "intercept.stream.bytes"
STREAM_KEEPALIVES: Final = "intercept.stream.keepalives"
STREAM_MAX_GAP_S: Final = "intercept.stream.max_gap_s"
STREAM_TIME_TO_FIRST_CHUNK_S: Final = "intercept.stream.time_to_first_chunk_s"
FAILURE_PHASE: Final = "intercept.failure.phase"
FAILURE_ORIGIN: Final = "intercept.failure.origin"
FAILURE_RETRYABLE: Final = "intercept.failure.retryable"
FAILURE_FINGERPRINT: Final = "intercept.failure.fingerprint"
FAILURE_CAUSE_TYPES: Final = "intercept.failure.cause_types"
FAILURE_STATUS_CODE: Final = "intercept.failure.status_code"
RECORD_SIGNAL: Final = "intercept.record.signal"
RECORD_FATE: Final = "intercept.record.fate"

ERROR_TYPE: Final = "error.type"
EXCEPTION_TYPE: Final = "exception.type"
HTTP_REQUEST_METHOD: Final = "http.request.method"
HTTP_ROUTE: Final = "http.route"
HTTP_RESPONSE_STATUS_CODE: Final = "http.response.status_code"
URL_PATH: Final = "url.path"
URL_SCHEME: Final = "url.scheme"
GEN_AI_OPERATION_NAME: Final = "gen_ai.operation.name"
GEN_AI_PROVIDER_NAME: Final = "gen_ai.provider.name"
GEN_AI_CONVERSATION_ID: Final = "gen_ai.conversation.id"
GEN_AI_REQUEST_MODEL: Final = "gen_ai.request.model"
GEN_AI_REQUEST_STREAM: Final = "gen_ai.request.stream"
GEN_AI_REQUEST_MAX_TOKENS: Final = "gen_ai.request.max_tokens"
GEN_AI_REQUEST_TEMPERATURE: Final = "gen_ai.request.temperature"
GEN_AI_REQUEST_TOP_P: Final = "gen_ai.request.top_p"
GEN_AI_REQUEST_TOP_K: Final = "gen_ai.request.top_k"
GEN_AI_REQUEST_FREQUENCY_PENALTY: Final = "gen_ai.request.frequency_penalty"
GEN_AI_REQUEST_PRESENCE_PENALTY: Final = "gen_ai.request.presence_penalty"
GEN_AI_REQUEST_SEED: Final = "gen_ai.request.seed"
GEN_AI_REQUEST_CHOICE_COUNT: Final = "gen_ai.request.choice.count"
GEN_AI_RESPONSE_MODEL: Final = "gen_ai.response.model"
GEN_AI_RESPONSE_FINISH_REASONS: Final = "gen_ai.response.finish_reasons"
GEN_AI_USAGE_INPUT_TOKENS: Final = "gen_ai.usage.input_tokens"
GEN_AI_USAGE_OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
GEN_AI_TOKEN_TYPE: Final = "gen_ai.token.type"

LOG_ATTRIBUTES: Final = frozenset(
    {
        ROLLOUT_ID,
        FAILURE_PHASE,
        FAILURE_ORIGIN,
        FAILURE_RETRYABLE,
        FAILURE_FINGERPRINT,
        FAILURE_CAUSE_TYPES,
        FAILURE_STATUS_CODE,
        ERROR_TYPE,
        EXCEPTION_TYPE,
    }
)
"""Every attribute key that may stand on a log record of ours."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One OTel metric: its name, kind, UCUM unit, meaning and label keys.

    Args:
        buckets: Histogram boundaries in ``unit``; empty for other kinds.
    """

    name: str
    kind: Literal["counter", "updowncounter", "gauge", "histogram"]
    unit: str
    description: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_MINUTES: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0,
)  # fmt: skip
"""Seconds. Model calls take minutes; the conventions' buckets end at ten seconds."""

_HOURS: Final = (
    0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0,
    1200.0, 1800.0, 3600.0, 7200.0, 14400.0, 21600.0,
)  # fmt: skip

_TOKENS: Final = tuple(float(4**power) for power in range(14))

ROLLOUTS: Final = Instrument(
    "intercept.rollouts", "counter", "{rollout}",
    "Rollouts that have ended.", (ROLLOUT_OUTCOME,),
)  # fmt: skip
ROLLOUTS_ACTIVE: Final = Instrument(
    "intercept.rollouts.active", "updowncounter", "{rollout}", "Rollouts that are open."
)
ROLLOUTS_OLDEST: Final = Instrument(
    "intercept.rollouts.oldest", "gauge", "s",
    "Age of the rollout that has been open for longest; 0 when none is open.",
)  # fmt: skip
ROLLOUT_DURATION: Final = Instrument(
    "intercept.rollout.duration", "histogram", "s",
    "Time from opening a rollout to closing it.", (ROLLOUT_OUTCOME,), _HOURS,
)  # fmt: skip
EXCHANGES: Final = Instrument(
    "intercept.exchanges", "counter", "{exchange}", "Exchanges that have ended.",
    (EXCHANGE_OUTCOME, EXCHANGE_DIALECT, EXCHANGE_STREAM),
)  # fmt: skip
EXCHANGES_REPLAYED: Final = Instrument(
    "intercept.exchanges.replayed", "counter", "{exchange}",
    "Exchanges, of those that have ended, that got the answer of an earlier one.",
    (EXCHANGE_OUTCOME, EXCHANGE_DIALECT, EXCHANGE_STREAM),
)  # fmt: skip
EXCHANGE_DURATION: Final = Instrument(
    "intercept.exchange.duration", "histogram", "s",
    "Time from the agent's request to the end of its answer.",
    (EXCHANGE_OUTCOME, EXCHANGE_DIALECT, EXCHANGE_STREAM, GEN_AI_REQUEST_MODEL),
    _MINUTES,
)  # fmt: skip
UPSTREAM_DURATION: Final = Instrument(
    "intercept.upstream.duration", "histogram", "s",
    "Time that an exchange waited for its upstream.",
    (EXCHANGE_DIALECT, GEN_AI_REQUEST_MODEL, ERROR_TYPE), _MINUTES,
)  # fmt: skip
TIME_TO_FIRST_CHUNK: Final = Instrument(
    "intercept.stream.time_to_first_chunk", "histogram", "s",
    "Time from the agent's request to the first chunk; keepalives do not count.",
    (EXCHANGE_DIALECT, GEN_AI_REQUEST_MODEL), _MINUTES,
)  # fmt: skip
MAX_GAP: Final = Instrument(
    "intercept.stream.max_gap", "histogram", "s",
    "Longest silence between two chunks of a stream; keepalives do not count.",
    (EXCHANGE_DIALECT, GEN_AI_REQUEST_MODEL), _MINUTES,
)  # fmt: skip
KEEPALIVES: Final = Instrument(
    "intercept.stream.keepalives", "counter", "{keepalive}",
    "Keepalives that were written on streams that have ended.", (EXCHANGE_DIALECT,),
)  # fmt: skip
FAILURES: Final = Instrument(
    "intercept.failures", "counter", "{failure}", "Failures, by what failed and where.",
    (ERROR_TYPE, FAILURE_PHASE, FAILURE_ORIGIN),
)  # fmt: skip
RECORDS: Final = Instrument(
    "intercept.records", "counter", "{record}",
    "Telemetry that left the recorder, by what became of it.",
    (RECORD_SIGNAL, RECORD_FATE),
)  # fmt: skip
RECORDS_QUEUED: Final = Instrument(
    "intercept.records.queued", "gauge", "{record}",
    "Records that have ended and wait for export.",
)  # fmt: skip
RECORDS_STARTED: Final = Instrument(
    "intercept.records.started", "counter", "{record}",
    "Records begun: started = open + exported + failed + dropped + queued.",
)  # fmt: skip
RECORDS_OPEN: Final = Instrument(
    "intercept.records.open", "gauge", "{record}", "Records begun that have not ended."
)
TOKEN_USAGE: Final = Instrument(
    "gen_ai.client.token.usage", "histogram", "{token}", "Tokens used by a model call.",
    (
        GEN_AI_OPERATION_NAME,
        GEN_AI_PROVIDER_NAME,
        GEN_AI_TOKEN_TYPE,
        GEN_AI_REQUEST_MODEL,
    ),
    _TOKENS,
)  # fmt: skip

INSTRUMENTS: Final = (
    ROLLOUTS,
    ROLLOUTS_ACTIVE,
    ROLLOUTS_OLDEST,
    ROLLOUT_DURATION,
    EXCHANGES,
    EXCHANGES_REPLAYED,
    EXCHANGE_DURATION,
    UPSTREAM_DURATION,
    TIME_TO_FIRST_CHUNK,
    MAX_GAP,
    KEEPALIVES,
    FAILURES,
    RECORDS,
    RECORDS_QUEUED,
    RECORDS_STARTED,
    RECORDS_OPEN,
    TOKEN_USAGE,
)
