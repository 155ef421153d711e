"""Each record becomes the spans that the design promises, complete and nothing else."""

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, StatusCode

from otel_intercept import catalogue, semconv
from otel_intercept.outcome import is_error
from otel_intercept.record import ExchangeRejected, StreamFacts
from otel_intercept.semconv import (
    Dialect,
    ErrorType,
    ExchangeOutcome,
    Phase,
    RolloutOutcome,
)
from otel_intercept.translate.spans import span_context_of
from tests.readable import ReadableSpans
from tests.samples import (
    EXCHANGE_ID,
    ROOT_ID,
    ROUTE,
    SECOND_NS,
    START_NS,
    TRACE_ID,
    WAIT_ID,
    ended,
    exchange,
    failed_exchange,
    failure,
    failure_seen,
    rollout_ref,
    started,
    wait,
)

RESOURCE = Resource({"service.name": "test"})
SCOPE = InstrumentationScope("otel_intercept", "1")
FACTORY = ReadableSpans(RESOURCE, SCOPE)

FAILURE_ATTRIBUTES = {
    "error.type": "upstream_timeout",
    "intercept.failure.phase": "chunk",
    "intercept.failure.origin": "upstream",
    "intercept.failure.retryable": True,
    "intercept.failure.fingerprint": "0123456789abcdef",
    "intercept.failure.cause_types": ("builtins.OSError",),
    "intercept.failure.status_code": 504,
}


def ids(context: SpanContext | None) -> tuple[int, int]:
    """Return the trace and span id of a context."""
    assert context is not None
    return context.trace_id, context.span_id


def attributes(span: ReadableSpan) -> dict[str, object]:
    """Return a span's attributes as a plain dict."""
    return dict(span.attributes or {})


def test_a_started_rollout_is_a_zero_length_child_of_its_root() -> None:
    """The marker stands below the root that is still to come, with its attributes."""
    rollout = rollout_ref(attributes=(("team", "blue"), ("attempt", 2)))

    (span,) = FACTORY.spans_of(started(rollout))

    assert span.name == "rollout.started"
    assert span.kind is SpanKind.INTERNAL
    assert (span.start_time, span.end_time) == (START_NS, START_NS)
    assert ids(span.parent) == (TRACE_ID, ROOT_ID)
    assert ids(span.context) == (TRACE_ID, 0x4444444444444444)
    assert attributes(span) == {
        "team": "blue",
        "attempt": 2,
        "intercept.rollout.id": "r-1",
    }
    assert (span.resource, span.instrumentation_scope) == (RESOURCE, SCOPE)


def test_an_ended_rollout_is_the_root_with_its_outcome_and_counts() -> None:
    """The root has the real start and end, no parent, and what came of the rollout."""
    (span,) = FACTORY.spans_of(ended(rollout_ref(attributes=(("team", "blue"),))))

    assert span.name == "rollout"
    assert span.kind is SpanKind.INTERNAL
    assert (span.start_time, span.end_time) == (START_NS, START_NS + 10 * SECOND_NS)
    assert span.parent is None
    assert ids(span.context) == (TRACE_ID, ROOT_ID)
    assert span.status.status_code is StatusCode.UNSET
    assert attributes(span) == {
        "team": "blue",
        "intercept.rollout.id": "r-1",
        "intercept.rollout.outcome": "completed",
        "intercept.rollout.exchanges": 5,
        "intercept.rollout.failures": 0,
    }


def test_a_failed_root_carries_its_first_failure_as_attributes() -> None:
    """A failed rollout's root is ERROR, says why, and has no status text."""
    (span,) = FACTORY.spans_of(ended(outcome=RolloutOutcome.FAILED, failed=failure()))

    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None
    assert attributes(span).items() >= FAILURE_ATTRIBUTES.items()
    assert span.events == ()


@pytest.mark.parametrize("outcome", set(RolloutOutcome) - {RolloutOutcome.FAILED})
def test_only_a_failed_rollout_is_an_error(outcome: RolloutOutcome) -> None:
    """A rollout that ended in any other way has no error status, failures or not."""
    (span,) = FACTORY.spans_of(ended(outcome=outcome, failed=failure()))

    assert span.status.status_code is StatusCode.UNSET


def test_a_joined_rollout_has_a_remote_parent() -> None:
    """A rollout that joined another process's trace hangs below that span."""
    (span,) = FACTORY.spans_of(ended(rollout_ref(parent_span_id=0x99)))

    assert ids(span.parent) == (TRACE_ID, 0x99)
    assert span.parent is not None
    assert span.parent.is_remote


def test_attributes_of_the_operator_never_replace_ours() -> None:
    """Of two values for one key the library's own stays."""
    rollout = rollout_ref(attributes=((semconv.ROLLOUT_OUTCOME, "great"),))

    (span,) = FACTORY.spans_of(ended(rollout))

    assert attributes(span)["intercept.rollout.outcome"] == "completed"


def test_an_exchange_is_a_server_span_below_the_root() -> None:
    """An exchange's span has the HTTP names of the conventions and our own facts."""
    record = exchange(
        retry_count=2,
        facts=StreamFacts(12, 3456, 2, 0.75, 0.25),
        waits=(wait(),),
    )

    span = FACTORY.spans_of(record)[0]

    assert span.name == f"POST {ROUTE}"
    assert span.kind is SpanKind.SERVER
    assert ids(span.context) == (TRACE_ID, EXCHANGE_ID)
    assert ids(span.parent) == (TRACE_ID, ROOT_ID)
    assert (span.start_time, span.end_time) == (START_NS, START_NS + 3 * SECOND_NS)
    assert attributes(span) == {
        "intercept.rollout.id": "r-1",
        "intercept.exchange.index": 4,
        "intercept.exchange.outcome": "ok",
        "intercept.exchange.dialect": "chat_completions",
        "intercept.exchange.stream": True,
        "intercept.exchange.retry_count": 2,
        "http.request.method": "POST",
        "http.route": ROUTE,
        "url.path": ROUTE,
        "url.scheme": "http",
        "http.response.status_code": 200,
        "intercept.stream.chunks": 12,
        "intercept.stream.bytes": 3456,
        "intercept.stream.keepalives": 2,
        "intercept.stream.max_gap_s": 0.75,
        "intercept.stream.time_to_first_chunk_s": 0.25,
    }
    assert (span.events, span.links) == ((), ())


def test_what_did_not_happen_has_no_attribute() -> None:
    """Without status, retry or first chunk, their attributes are absent, not empty."""
    record = exchange(status=None, facts=StreamFacts(0, 0, 0, 0.0, None))

    keys = attributes(FACTORY.spans_of(record)[0]).keys()

    assert semconv.HTTP_RESPONSE_STATUS_CODE not in keys
    assert semconv.EXCHANGE_RETRY_COUNT not in keys
    assert semconv.STREAM_TIME_TO_FIRST_CHUNK_S not in keys
    assert semconv.ERROR_TYPE not in keys


def test_a_method_that_is_not_standard_is_not_repeated() -> None:
    """An agent's made-up method becomes ``_OTHER``, and the span's name ``HTTP``."""
    span = FACTORY.spans_of(exchange(method="GETSECRET"))[0]

    assert span.name == f"HTTP {ROUTE}"
    assert attributes(span)["http.request.method"] == "_OTHER"


def test_a_failure_is_one_exception_event_without_a_message() -> None:
    """A failed exchange has its error type, one event with the rest, and no text."""
    span = FACTORY.spans_of(failed_exchange())[0]

    (event,) = span.events
    assert event.name == "exception"
    assert event.timestamp == START_NS + SECOND_NS
    assert dict(event.attributes or {}) == {
        **FAILURE_ATTRIBUTES,
        "exception.type": "builtins.TimeoutError",
    }
    assert attributes(span)["error.type"] == "upstream_timeout"
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description is None


def test_a_failure_without_an_exception_has_no_exception_type() -> None:
    """What raised nothing names no class, no causes and no status."""
    bare = failure(exception_type=None, cause_types=(), status_code=None)

    span = FACTORY.spans_of(exchange(outcome=ExchangeOutcome.CUT, failed=bare))[0]

    assert dict(span.events[0].attributes or {}).keys() == {
        "error.type",
        "intercept.failure.phase",
        "intercept.failure.origin",
        "intercept.failure.retryable",
        "intercept.failure.fingerprint",
    }


@pytest.mark.parametrize("outcome", ExchangeOutcome)
def test_the_status_follows_the_outcome(outcome: ExchangeOutcome) -> None:
    """A span is ERROR exactly for the outcomes that fail a rollout."""
    span = FACTORY.spans_of(exchange(outcome=outcome))[0]

    expected = StatusCode.ERROR if is_error(outcome) else StatusCode.UNSET
    assert span.status.status_code is expected


def test_the_trace_of_the_agent_becomes_a_link() -> None:
    """An agent's own trace is linked as remote, never the parent."""
    span = FACTORY.spans_of(exchange(link=(0xABC, 0xDEF)))[0]

    (link,) = span.links
    assert ids(link.context) == (0xABC, 0xDEF)
    assert link.context.is_remote
    assert link.context.trace_flags.sampled
    assert not link.attributes
    assert ids(span.parent) == (TRACE_ID, ROOT_ID)


def test_a_wait_for_upstream_is_a_client_span_below_the_exchange() -> None:
    """The model call is a GenAI span with request and response attributes."""
    record = exchange(
        request=((semconv.GEN_AI_REQUEST_MAX_TOKENS, 64),),
        response=(
            (semconv.GEN_AI_USAGE_INPUT_TOKENS, 10),
            (semconv.GEN_AI_RESPONSE_FINISH_REASONS, ("stop",)),
        ),
        waits=(wait(),),
    )

    server, client = FACTORY.spans_of(record)

    assert client.name == "chat gpt-5"
    assert client.kind is SpanKind.CLIENT
    assert ids(client.context) == (TRACE_ID, WAIT_ID)
    assert ids(client.parent) == (TRACE_ID, EXCHANGE_ID)
    assert (client.start_time, client.end_time) == (START_NS, START_NS + 2 * SECOND_NS)
    assert client.status.status_code is StatusCode.UNSET
    assert attributes(client) == {
        "intercept.rollout.id": "r-1",
        "gen_ai.conversation.id": "r-1",
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "gpt-5",
        "gen_ai.request.stream": True,
        "gen_ai.request.max_tokens": 64,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.response.finish_reasons": ("stop",),
    }
    assert not [key for key in attributes(server) if key.startswith("gen_ai.")]


def test_a_model_call_without_a_known_model_is_named_by_its_operation() -> None:
    """Name and attributes say no more than is known; a unary call is no stream."""
    record = exchange(
        dialect=Dialect.COMPLETIONS, model=None, stream=False, waits=(wait(),)
    )

    client = FACTORY.spans_of(record)[1]

    assert client.name == "text_completion"
    assert attributes(client).keys() == {
        "intercept.rollout.id",
        "gen_ai.conversation.id",
        "gen_ai.operation.name",
        "gen_ai.provider.name",
    }


def test_a_failed_wait_is_an_error_and_the_last_good_one_has_the_answer() -> None:
    """Each try of a call has its span; the answer is on the one that gave it."""
    record = exchange(
        response=((semconv.GEN_AI_USAGE_OUTPUT_TOKENS, 7),),
        waits=(
            wait(span_id=1, error_type=ErrorType.UPSTREAM_OVERLOADED),
            wait(span_id=2),
            wait(span_id=3, error_type=ErrorType.UPSTREAM_TIMEOUT),
        ),
    )

    clients = FACTORY.spans_of(record)[1:]

    assert [attributes(span).get("error.type") for span in clients] == [
        "upstream_overloaded",
        None,
        "upstream_timeout",
    ]
    assert [span.status.status_code for span in clients] == [
        StatusCode.ERROR,
        StatusCode.UNSET,
        StatusCode.ERROR,
    ]
    assert [
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS in attributes(span) for span in clients
    ] == [
        False,
        True,
        False,
    ]


def test_of_two_good_waits_the_last_one_has_the_answer() -> None:
    """An answer is said once, on the call that it came from."""
    record = exchange(
        response=((semconv.GEN_AI_USAGE_OUTPUT_TOKENS, 7),),
        waits=(wait(span_id=1), wait(span_id=2)),
    )

    clients = FACTORY.spans_of(record)[1:]

    assert [
        semconv.GEN_AI_USAGE_OUTPUT_TOKENS in attributes(span) for span in clients
    ] == [False, True]


def test_without_a_wait_the_model_attributes_stand_on_the_exchange() -> None:
    """An exchange whose upstream call nobody saw still says which model it was for."""
    record = exchange(response=((semconv.GEN_AI_USAGE_INPUT_TOKENS, 3),))

    (span,) = FACTORY.spans_of(record)

    assert (
        attributes(span).items()
        >= {
            "gen_ai.request.model": "gpt-5",
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "openai",
            "gen_ai.conversation.id": "r-1",
            "gen_ai.usage.input_tokens": 3,
        }.items()
    )


@pytest.mark.parametrize("exchange_span_id", [EXCHANGE_ID, None])
def test_a_late_failure_is_a_short_span_below_the_root(
    exchange_span_id: int | None,
) -> None:
    """A failure beside any exchange has a span of its own, linked to its exchange."""
    (span,) = FACTORY.spans_of(failure_seen(exchange_span_id=exchange_span_id))

    assert span.name == "failure"
    assert span.kind is SpanKind.INTERNAL
    assert ids(span.parent) == (TRACE_ID, ROOT_ID)
    assert span.start_time == span.end_time == START_NS + SECOND_NS
    assert span.status.status_code is StatusCode.ERROR
    assert [event.name for event in span.events] == ["exception"]
    assert attributes(span) == {
        "intercept.rollout.id": "r-1",
        "error.type": "upstream_timeout",
    }
    linked = [ids(link.context) for link in span.links]
    assert linked == ([(TRACE_ID, EXCHANGE_ID)] if exchange_span_id else [])


def test_a_rejected_request_makes_no_span() -> None:
    """A request for a rollout that is not open leaves no trace, and no context."""
    rejected = ExchangeRejected(Dialect.MESSAGES)

    assert FACTORY.spans_of(rejected) == []
    assert span_context_of(rejected) is None


def test_every_attribute_key_is_in_the_catalogue() -> None:
    """Whatever a record holds, its spans use no key that the catalogue lacks."""
    records = (
        started(),
        ended(outcome=RolloutOutcome.FAILED, failed=failure()),
        failed_exchange(),
        exchange(facts=StreamFacts(1, 1, 1, 1.0, 1.0), retry_count=1, waits=(wait(),)),
        failure_seen(),
    )

    spans = [span for record in records for span in FACTORY.spans_of(record)]

    keys = {key for span in spans for key in attributes(span)}
    keys |= {
        key for span in spans for event in span.events for key in event.attributes or {}
    }
    assert keys <= catalogue.SPAN_ATTRIBUTES


def test_the_context_of_a_record_is_that_of_its_main_span() -> None:
    """Exemplars lead to the main span of a sampled record, and nowhere otherwise."""
    for record in (started(), ended(), exchange(waits=(wait(),)), failure_seen()):
        assert ids(span_context_of(record)) == ids(FACTORY.spans_of(record)[0].context)

    unsampled = rollout_ref(sampled=False)
    for record in (started(unsampled), ended(unsampled), exchange(unsampled)):
        assert span_context_of(record) is None


def test_phase_late_is_told_apart() -> None:
    """The phase of a late failure is on its event."""
    (span,) = FACTORY.spans_of(failure_seen())

    assert (
        dict(span.events[0].attributes or {})["intercept.failure.phase"] == Phase.LATE
    )
