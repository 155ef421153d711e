"""Each fence against canaries by itself, for the case that the one before it falls."""

import asyncio
import dataclasses
import json
import logging

import pytest
import requests
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, Status, StatusCode
from opentelemetry.trace.span import TraceState

from otel_intercept import ErrorType, InterceptionError, Phase, RolloutRegistry
from otel_intercept import failure as failures
from otel_intercept.attributes import accept_attributes
from otel_intercept.catalogue import SPAN_ATTRIBUTES
from otel_intercept.dialect import (
    error_body,
    error_frame,
    error_headers,
    request_attributes,
    request_labels,
    response_attributes,
)
from otel_intercept.record import AttributeValue
from otel_intercept.sdk.export_logs import ExportLogs
from otel_intercept.sdk.http_session import ExportSession
from otel_intercept.semconv import Dialect
from otel_intercept.shield import shielded
from otel_intercept.testing import TelemetryRecorder
from otel_intercept.translate.guard import Guard
from tests.canary import Hits, Mint, Scanner
from tests.canary_exceptions import ANSWERS, HOSTILE, hostile
from tests.canary_places import CONTROLS, PLACES
from tests.canary_stage import Opaque
from tests.canary_walk import reachable, renderings
from tests.collectors import Answer, HttpCollector, closed_port

MINT = Mint("fences")
KEY = b"k" * 16
OURS = "otel_intercept"
FOREIGN = "opentelemetry.instrumentation.httpx"
SCANNER = Scanner(MINT, PLACES | CONTROLS)


def leaks(*values: object) -> Hits:
    """Search all that can be read off some objects."""
    return SCANNER.scan(b"\n".join(renderings(v) + reachable(v) for v in values))


def logged(caplog: pytest.LogCaptureFixture) -> list[object]:
    """Return everything that was logged, with all that hangs on it."""
    return [vars(record) | {"text": caplog.text} for record in caplog.records]


def guarded(span: ReadableSpan) -> bytes:
    """Return what of a span leaves through the guard."""
    return encode_spans(Guard().spans([span])).SerializeToString()


def laden_span(scope: str, attributes: dict[str, AttributeValue]) -> ReadableSpan:
    """Return a span with a canary in every slot that can hold text."""
    state = TraceState([("vendor", MINT("agent.tracestate"))])
    context = SpanContext(0xA, 0xB, is_remote=False, trace_state=state)
    raised: dict[str, AttributeValue] = {
        "exception.message": MINT("exc.message"),
        "exception.stacktrace": MINT("exc.cause"),
    }
    return ReadableSpan(
        name="rollout" if scope == OURS else f"GET /{MINT('agent.path')}",
        context=context,
        parent=context,
        resource=Resource({"service.name": "s"}),
        attributes=attributes,
        events=(
            Event("exception", raised | attributes),
            Event(MINT("exc.note"), raised),
        ),
        links=(Link(context, {"why": MINT("agent.baggage")}),),
        status=Status(StatusCode.ERROR, f"RuntimeError: {MINT('exc.message')}"),
        instrumentation_scope=InstrumentationScope(scope),
        start_time=1,
        end_time=2,
    )


def test_the_guard_lets_nothing_unknown_out_on_our_own_spans() -> None:
    """Were a guarded slot filled by mistake, nothing of it would leave."""
    attributes: dict[str, AttributeValue] = {
        "url.query": MINT("agent.query_value"),
        "user_agent.original": MINT("agent.user_agent"),
        "http.request.header.authorization": (MINT("agent.authorization"),),
        "gen_ai.input.messages": MINT("agent.prompt"),
        MINT("agent.header_name"): True,
    }

    assert SCANNER.scan(guarded(laden_span(OURS, attributes))) == {}


@pytest.mark.parametrize("key", sorted(SPAN_ATTRIBUTES - {"http.route"}))
def test_no_text_leaves_on_foreign_spans(key: str) -> None:
    """Under our own keys, other libraries' spans have words of closed sets only."""
    texts: tuple[AttributeValue, ...] = (
        MINT("agent.path"),
        (MINT("agent.path"), "GET"),
        f"{MINT('exc.class_module')}.{MINT('exc.class_name')}",
    )

    for text in texts:
        assert SCANNER.scan(guarded(laden_span(FOREIGN, {key: text}))) == {}


def test_foreign_spans_keep_what_they_are_for() -> None:
    """Methods, statuses, routes and the names of known errors still leave."""
    attributes: dict[str, AttributeValue] = {
        "http.request.method": "POST",
        "http.response.status_code": 503,
        "http.route": "/v1/{name}",
        "url.scheme": "https",
        "error.type": "ClientConnectionError",
        "exception.type": "aiohttp.client_exceptions.ClientConnectionError",
    }

    (safe,) = Guard().spans([laden_span(FOREIGN, attributes)])

    assert safe.attributes == attributes
    assert safe.events[0].attributes == attributes


@pytest.mark.parametrize("what", [*HOSTILE, *ANSWERS])
@pytest.mark.parametrize("phase", [Phase.HANDLER, Phase.RESPONSE_FUTURE, Phase.CHUNK])
def test_no_descriptor_holds_text(what: str, phase: Phase) -> None:
    """Failures and their errors hold nothing that an exception says, in any form."""
    error = hostile(what, MINT)

    failure = failures.describe(error, phase=phase, key=KEY)

    assert leaks(failure, InterceptionError(failure)) == {}


@pytest.mark.parametrize("what", HOSTILE)
def test_no_error_on_a_state_leads_back(what: str) -> None:
    """What a rollout keeps has no way to the exception, even made while handling it."""
    recorder = TelemetryRecorder()
    state: dict[str, object] = {}
    rollout = RolloutRegistry(recorder.telemetry).open("r1", state=state)

    returned = None
    try:
        HOSTILE[what](MINT)
    except Exception as exc:  # noqa: BLE001 - whatever it is
        returned = rollout.fail(exc, phase=Phase.HANDLER)

    error = state["error"]
    assert isinstance(error, InterceptionError)
    assert (error.__cause__, error.__context__, error.__traceback__) == (None,) * 3
    assert leaks(error, returned, rollout.error) == {}
    assert SCANNER.scan(recorder.exported_bytes()) == {}
    recorder.telemetry.shutdown()


@pytest.mark.parametrize("dialect", Dialect)
@pytest.mark.parametrize("error_type", ErrorType)
def test_error_answers_are_constant(dialect: Dialect, error_type: ErrorType) -> None:
    """Of a failure, the agent gets its type alone, whatever else the failure holds."""
    plain = failures.without_exception(error_type, phase=Phase.EOF, key=KEY)
    laden = dataclasses.replace(
        plain,
        exception_type=MINT("exc.class_name"),
        cause_types=(MINT("exc.cause"),),
        fingerprint=MINT("exc.message"),
    )

    answers = [
        (
            json.dumps(error_body(dialect, failure, trace_id="5f" * 16)),
            error_frame(dialect, failure, trace_id="5f" * 16),
            error_headers(failure),
        )
        for failure in (plain, laden)
    ]

    assert answers[0] == answers[1]


def test_attributes_of_wrong_types_stay_outside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What is no str, bool, int or float is neither kept nor printed."""
    caplog.set_level(logging.DEBUG)
    recorder = TelemetryRecorder()

    kept = accept_attributes(
        recorder.telemetry,
        {
            "object": Opaque(MINT("attr.object")),
            "list": [MINT("attr.list")],
            "tuple": (MINT("attr.tuple"),),
            "bytes": MINT("attr.bytes").encode(),
            "error": RuntimeError(MINT("attr.exception")),
            f"Key {MINT('attr.key')}": 1,
            "fine": True,
        },
    )

    assert kept == (("fine", True),)
    assert leaks(kept, *logged(caplog)) == {}
    recorder.telemetry.shutdown()


def test_bodies_give_numbers_and_closed_words_only() -> None:
    """Of requests and answers nothing is taken but what the lists name."""
    canary = MINT("agent.prompt")
    words = ("model", "stream", "max_tokens", "temperature", "top_p", "seed", "n")
    request = dict.fromkeys((*words, "messages", "stop"), f"a text, {canary}")
    answer = {
        "model": f"a text, {canary}",
        "id": canary,
        "usage": {"prompt_tokens": canary, "input_tokens": [canary]},
        "stop_reason": canary,
        "status": canary,
        "choices": [{"finish_reason": canary, "message": {"content": canary}}],
    }

    taken = (
        request_attributes(request),
        request_labels(request),
        response_attributes(answer),
    )

    assert leaks(*taken) == {}


async def test_the_session_of_exporters_says_no_reason() -> None:
    """Of a refusal, the exporter is told what the status is called by the standard."""
    session = ExportSession((("x-key", MINT("conf.otlp_header")),))

    with HttpCollector(Answer(status=400, reason=MINT("collector.reason"))) as server:
        got = await asyncio.to_thread(session.post, f"{server.url}/v1/traces", b"x")

    assert (got.status_code, got.reason) == (400, "Bad Request")
    session.close()


@pytest.mark.parametrize("scheme", ["http", "unknown"])
async def test_the_session_of_exporters_raises_no_text(scheme: str) -> None:
    """Whatever the URL holds and goes wrong, the exporter is not told."""
    user, query = MINT("conf.otlp_password"), MINT("conf.otlp_query")
    url = f"{scheme}://user:{user}@127.0.0.1:{closed_port()}/v1?token={query}"
    session = ExportSession((("x-key", MINT("conf.otlp_header")),))

    with pytest.raises(requests.RequestException) as raised:
        await asyncio.to_thread(session.post, url, b"x")

    error = raised.value
    assert leaks(str(error), error.args, error.__cause__, error.__context__) == {}
    session.close()


def test_the_loggers_of_exporters_say_constants_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever an exporter logs, with arguments and tracebacks, none of it stays."""
    caplog.set_level(logging.DEBUG)
    logger = logging.getLogger("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    error = hostile("message", MINT)
    logs = ExportLogs()
    logs.install()

    logger.error("failed: %s", MINT("collector.body"), exc_info=error)
    logger.warning(MINT("conf.otlp_query"), {"key": MINT("conf.otlp_header")})
    logger.debug(MINT("collector.reason"))
    logs.remove()

    assert len(caplog.records) == 2
    assert leaks(*logged(caplog)) == {}


def test_the_shield_says_where_and_not_what(caplog: pytest.LogCaptureFixture) -> None:
    """A mistake of ours is told by the name of the function that made it."""
    caplog.set_level(logging.DEBUG)

    @shielded
    def observe() -> None:
        HOSTILE["message"](MINT)

    observe()

    assert len(caplog.records) == 1
    assert leaks(*logged(caplog)) == {}
