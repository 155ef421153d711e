"""Doctor's judgement: a pure function of what was injected and what was seen."""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_intercept import semconv
from otel_intercept.cli.demo.faults import Fault
from otel_intercept.cli.doctor.evidence import Evidence, Injected, Wiring
from otel_intercept.cli.doctor.findings import Code
from otel_intercept.cli.doctor.judge import judge
from otel_intercept.cli.doctor.plan import PROBES, Probe
from otel_intercept.record import AttributeValue
from otel_intercept.sdk import SpanLine
from otel_intercept.semconv import ErrorType, ExchangeOutcome

Attributes = Mapping[str, AttributeValue]

ROUTE = "/rollout/{rollout_id}/v1/chat/completions"
SOUND = Wiring(route=ROUTE, key="rollout_id", placeholders=("rollout_id",))


def span(
    trace: int,
    number: int,
    name: str = "POST",
    attributes: Attributes | None = None,
    *,
    parent: int | None = None,
    link: str | None = None,
) -> SpanLine:
    """Make a span."""
    return SpanLine(
        trace_id=f"{trace:032x}",
        span_id=f"{number:016x}",
        parent_span_id=None if parent is None else f"{parent:016x}",
        name=name,
        kind=2,
        start_ns=1,
        end_ns=2,
        is_error=False,
        attributes=attributes or {},
        events=(),
        linked_span_ids=() if link is None else (link,),
        service_name=None,
    )


def injected_of(number: int, probe: Probe) -> Injected:
    """Make a probe that was sent and answered."""
    agent = 1000 + number
    return Injected(
        probe=probe,
        rollout_id=f"r{number}",
        trace_id=f"{agent:032x}",
        span_id=f"{agent:016x}",
        called=probe.fault is not Fault.REFUSED,
    )


def right_outcome(probe: Probe) -> tuple[ExchangeOutcome, ErrorType | None]:
    """Return what a good wiring exports for a probe."""
    if probe.fault is Fault.AGENT_LEAVES:
        return ExchangeOutcome.AGENT_GONE, None
    if not probe.error_types:
        return ExchangeOutcome.OK, None
    return ExchangeOutcome.UPSTREAM_FAILED, min(probe.error_types)


def spans_of(
    number: int,
    item: Injected,
    outcome: ExchangeOutcome,
    error_type: ErrorType | None,
    *,
    timed: bool = True,
    model: bool = True,
) -> list[SpanLine]:
    """Make all spans of one rollout, as our own pipeline exports them."""
    root, exchange = 10 * number + 1, 10 * number + 2
    rollout: dict[str, AttributeValue] = {semconv.ROLLOUT_ID: item.rollout_id}
    facts = rollout | {semconv.EXCHANGE_OUTCOME: outcome.value}
    if error_type is not None:
        facts[semconv.ERROR_TYPE] = error_type.value
    asked: dict[str, AttributeValue] = {semconv.GEN_AI_OPERATION_NAME: "chat"}
    if model:
        asked[semconv.GEN_AI_REQUEST_MODEL] = "m"
    if not timed:
        facts |= {key: value for key, value in asked.items() if "model" in key}
    spans = [
        span(number, root, semconv.SPAN_ROLLOUT, rollout),
        span(number, exchange, "POST", facts, parent=root, link=item.span_id),
    ]
    if timed:
        spans.append(
            span(number, exchange + 1, "chat", rollout | asked, parent=exchange)
        )
    return spans


def good_evidence() -> Evidence:
    """Make the evidence of a wiring that sees everything."""
    injected = [injected_of(*pair) for pair in enumerate(PROBES, 1)]
    spans = [
        line
        for number, item in enumerate(injected, 1)
        for line in spans_of(number, item, *right_outcome(item.probe))
    ]
    return Evidence(injected=injected, spans=spans, route=ROUTE, wiring=SOUND)


def with_spans(evidence: Evidence, spans: Sequence[SpanLine]) -> Evidence:
    """Return the evidence with other spans."""
    return dataclasses.replace(evidence, spans=spans)


def codes(evidence: Evidence) -> list[Code]:
    """Return the codes of what is found."""
    return [finding.code for finding in judge(evidence).findings]


def test_a_wiring_that_sees_everything_has_no_finding() -> None:
    """Every row is good, and nothing is found."""
    judgement = judge(good_evidence())

    assert [row.good for row in judgement.rows] == [True] * len(PROBES)
    assert judgement.findings == ()


def seen_as(
    name: str, outcome: ExchangeOutcome, error_type: ErrorType | None
) -> list[Code]:
    """Return what is found if one probe ends so, and the others as they should."""
    evidence = good_evidence()
    number = next(n for n, probe in enumerate(PROBES, 1) if probe.name == name)
    item = evidence.injected[number - 1]
    others = [line for line in evidence.spans if line.trace_id != f"{number:032x}"]
    spans = [*others, *spans_of(number, item, outcome, error_type)]
    return codes(with_spans(evidence, spans))


X, E = ExchangeOutcome, ErrorType


@pytest.mark.parametrize(
    ("name", "outcome", "error_type", "expected"),
    [
        ("good", X.REJECTED, None, Code.GOOD_CALL_FAILED),
        ("good-stream", X.NO_TERMINAL, E.UPSTREAM_TRUNCATED, Code.GOOD_CALL_FAILED),
        ("rate-limited", X.OK, None, Code.STATUS_SWALLOWED),
        ("rate-limited", X.REJECTED, None, Code.STATUS_SWALLOWED),
        ("rate-limited", X.UPSTREAM_FAILED, E.UPSTREAM_RATE_LIMITED, None),
        (
            "rate-limited",
            X.UPSTREAM_FAILED,
            E.UPSTREAM_SERVER_ERROR,
            Code.FAILURE_MISNAMED,
        ),
        ("server-error", X.CANCELLED, None, Code.STATUS_SWALLOWED),
        ("server-error-stream", X.SILENT_EMPTY, E.UPSTREAM_SERVER_ERROR, None),
        ("server-error-stream", X.SILENT_EMPTY, E.OTHER, Code.FAILURE_MISNAMED),
        ("hang", X.OK, None, Code.CALL_SWALLOWED),
        ("hang", X.UPSTREAM_FAILED, E.UPSTREAM_CONNECTION, None),
        ("malformed", X.OK, None, Code.BODY_SWALLOWED),
        ("malformed", X.HANDLER_FAILED, E.HANDLER_ERROR, Code.FAILURE_MISNAMED),
        ("empty", X.OK, None, Code.BODY_SWALLOWED),
        ("empty-stream", X.OK, None, Code.STREAM_SWALLOWED),
        ("cut-stream", X.AGENT_GONE, None, Code.STREAM_SWALLOWED),
        ("no-terminal", X.NO_TERMINAL, E.UPSTREAM_TRUNCATED, None),
        ("error-frame", X.ERROR_FRAME, E.UPSTREAM_ERROR_FRAME, None),
        ("error-frame", X.OK, None, Code.STREAM_SWALLOWED),
        ("agent-leaves", X.CUT, E.AGENT_DISCONNECTED, None),
        ("agent-leaves", X.OK, None, Code.AGENT_LEFT_UNSEEN),
        (
            "agent-leaves",
            X.UPSTREAM_FAILED,
            E.UPSTREAM_TIMEOUT,
            Code.AGENT_LEFT_UNSEEN,
        ),
        ("refused", X.OK, None, Code.CALL_SWALLOWED),
        ("refused", X.UPSTREAM_FAILED, E.UPSTREAM_TIMEOUT, Code.FAILURE_MISNAMED),
    ],
)
def test_each_probe_is_judged_by_outcome_and_error_type(
    name: str,
    outcome: ExchangeOutcome,
    error_type: ErrorType | None,
    expected: Code | None,
) -> None:
    """A failure must come out as one, of a type that fits what was injected."""
    found = seen_as(name, outcome, error_type)

    assert found == ([] if expected is None else [expected])


OUTCOMES = st.one_of(
    st.none(),
    st.tuples(
        st.sampled_from(ExchangeOutcome),
        st.one_of(st.none(), st.sampled_from(ErrorType)),
        st.booleans(),
        st.booleans(),
    ),
)


@given(st.lists(OUTCOMES, min_size=len(PROBES), max_size=len(PROBES)))
def test_whatever_is_not_right_is_found_and_named(
    seen: list[tuple[ExchangeOutcome, ErrorType | None, bool, bool] | None],
) -> None:
    """No row is bad without a finding that names it, and no good wiring has one."""
    evidence = good_evidence()
    spans: list[SpanLine] = []
    complete = True
    for number, (item, facts) in enumerate(
        zip(evidence.injected, seen, strict=True), 1
    ):
        if facts is None:
            complete = False
            continue
        outcome, error_type, timed, model = facts
        leaves = item.probe.fault is Fault.AGENT_LEAVES
        complete &= model and (timed or leaves or not item.called)
        spans += spans_of(number, item, outcome, error_type, timed=timed, model=model)

    judgement = judge(with_spans(evidence, spans))

    bad = {row.injected.probe.name for row in judgement.rows if not row.good}
    named = {name for finding in judgement.findings for name in finding.probes}
    silent = not any(facts for facts in seen)
    assert silent or bad <= named
    assert bool(judgement.findings) == (bool(bad) or not complete)
    for finding in judgement.findings:
        assert "{" not in finding.what.replace("{rollout_id}", "")
        assert finding.add


@pytest.mark.parametrize(
    ("wiring", "code", "words"),
    [
        (SOUND, Code.NO_TELEMETRY, "sdk.configure()"),
        (None, Code.NO_TELEMETRY, "variables that doctor prints"),
        (dataclasses.replace(SOUND, route_found=False), Code.NO_ROUTE, "--route"),
        (
            dataclasses.replace(SOUND, instrumented=False),
            Code.NOT_INSTRUMENTED,
            "instrument_app(app, registry)",
        ),
        (
            dataclasses.replace(SOUND, placeholders=("id",)),
            Code.WRONG_ROLLOUT_ID,
            "pass rollout_id='id'",
        ),
        (
            dataclasses.replace(SOUND, placeholders=()),
            Code.WRONG_ROLLOUT_ID,
            "pass a function",
        ),
        (
            dataclasses.replace(SOUND, wanted=False),
            Code.OTHER_ROLLOUT_ID,
            "rollout_id=...",
        ),
        (
            dataclasses.replace(SOUND, same_registry=False),
            Code.OTHER_REGISTRY,
            "one `RolloutRegistry(telemetry)`",
        ),
        (
            dataclasses.replace(SOUND, telemetry_enabled=False),
            Code.TELEMETRY_DISABLED,
            "configure()",
        ),
    ],
)
def test_a_cause_of_silence_stands_alone(
    wiring: Wiring | None, code: Code, words: str
) -> None:
    """Where nothing is seen, the one reason is told, and none of its consequences."""
    evidence = dataclasses.replace(good_evidence(), spans=(), wiring=wiring)

    (finding,) = judge(evidence).findings

    assert finding.code is code
    assert words in finding.add


def test_rejected_requests_are_told_from_unseen_ones() -> None:
    """What the app counted, and what its registry says, narrow the cause down."""
    silent = dataclasses.replace(good_evidence(), spans=())
    rejected = dataclasses.replace(silent, rejected=14)
    elsewhere = dataclasses.replace(
        rejected,
        injected=[item._replace(in_registry=False) for item in silent.injected],
    )

    assert codes(rejected) == [Code.ROLLOUT_NOT_OPEN]
    assert codes(elsewhere) == [Code.OTHER_REGISTRY]


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Code.AGENT_REFUSED),
        (403, Code.AGENT_REFUSED),
        (404, Code.NO_ROUTE),
        (405, Code.NO_ROUTE),
    ],
)
def test_the_status_of_the_good_call_tells_a_cause(status: int, code: Code) -> None:
    """An agent that is not let in is no matter of telemetry."""
    silent = dataclasses.replace(good_evidence(), spans=(), wiring=None)
    refused = [item._replace(status=status) for item in silent.injected]

    assert codes(dataclasses.replace(silent, injected=refused)) == [code]


def test_rollouts_without_exchanges_are_told() -> None:
    """Root spans alone say that requests do not find their rollout."""
    evidence = good_evidence()
    roots = [line for line in evidence.spans if line.name == semconv.SPAN_ROLLOUT]

    assert codes(with_spans(evidence, roots)) == [Code.NO_EXCHANGES]


def test_an_upstream_that_is_never_called_is_the_cause() -> None:
    """What was not injected is not judged."""
    evidence = good_evidence()
    uncalled = [item._replace(called=False) for item in evidence.injected]

    assert codes(dataclasses.replace(evidence, injected=uncalled)) == [
        Code.UPSTREAM_NOT_REACHED
    ]


@pytest.mark.parametrize("name", ["rate-limited", "agent-leaves"])
def test_a_failure_that_was_not_injected_is_told_as_such(name: str) -> None:
    """A cache that answers in the upstream's place hides nothing."""
    evidence = good_evidence()
    number, probe = next(pair for pair in enumerate(PROBES, 1) if pair[1].name == name)
    cached = [item._replace(called=item.probe != probe) for item in evidence.injected]
    others = [line for line in evidence.spans if line.trace_id != f"{number:032x}"]
    spans = spans_of(number, cached[number - 1], ExchangeOutcome.OK, None, timed=False)

    found = judge(
        dataclasses.replace(evidence, injected=cached, spans=[*others, *spans])
    ).findings

    assert [finding.code for finding in found] == [Code.NOT_INJECTED]
    assert found[0].probes == (probe.name,)


def test_a_second_exchange_span_is_found() -> None:
    """Two spans for one request make every rate wrong."""
    evidence = good_evidence()
    first = next(line for line in evidence.spans if line.linked_span_ids)
    twin = dataclasses.replace(first, span_id="f" * 16)

    assert codes(with_spans(evidence, [*evidence.spans, twin])) == [
        Code.EXCHANGE_DOUBLED
    ]


def test_a_span_in_the_agents_trace_is_a_second_trace() -> None:
    """Who follows the agent's traceparent traces beside us."""
    evidence = good_evidence()
    foreign = span(1001, 77, "POST")

    found = judge(with_spans(evidence, [*evidence.spans, foreign])).findings
    outside = dataclasses.replace(
        evidence, wiring=dataclasses.replace(SOUND, foreign_outside=True)
    )

    assert [finding.code for finding in found] == [Code.SECOND_TRACE]
    assert found[0].probes == (PROBES[0].name,)
    assert codes(outside) == [Code.SECOND_TRACE]


def test_two_roots_of_one_rollout_are_found() -> None:
    """A rollout that is opened twice has two traces."""
    evidence = good_evidence()
    owner = {semconv.ROLLOUT_ID: "r1"}
    twin = span(999, 998, semconv.SPAN_ROLLOUT, owner)
    started = span(999, 997, semconv.SPAN_ROLLOUT_STARTED, owner, parent=998)

    for extra in (twin, started):
        (finding,) = judge(with_spans(evidence, [*evidence.spans, extra])).findings
        assert finding.code is Code.SEVERAL_TRACES
        assert "2 root spans" in finding.what


def test_an_exchange_below_a_foreign_parent_is_found() -> None:
    """Exchange spans are children of their rollout's root."""
    evidence = good_evidence()
    spans = [
        dataclasses.replace(line, parent_span_id="e" * 16)
        if line.linked_span_ids == (evidence.injected[0].span_id,)
        else line
        for line in evidence.spans
    ]

    (finding,) = judge(with_spans(evidence, spans)).findings

    assert finding.code is Code.FOREIGN_PARENT
    assert finding.probes == (PROBES[0].name,)


def test_planted_secrets_are_found_where_they_come_out() -> None:
    """In telemetry always, in the agent's answer unless that is allowed."""
    evidence = good_evidence()
    leaked = [item._replace(leaked=True) for item in evidence.injected[:1]]
    answers = dataclasses.replace(evidence, injected=[*leaked, *evidence.injected[1:]])
    allowed = dataclasses.replace(answers, passes_texts=True)
    telemetry = dataclasses.replace(evidence, planted_seen=True)

    assert codes(answers) == [Code.SECRET_IN_ANSWER]
    assert codes(allowed) == []
    assert codes(telemetry) == [Code.SECRET_IN_TELEMETRY]


@given(st.text(), st.text())
def test_nothing_of_foreign_spans_is_told(outcome: str, error_type: str) -> None:
    """Attributes of a span are looked up in closed sets, never repeated."""
    marked = f"canary-{outcome}", f"canary-{error_type}"
    evidence = good_evidence()
    first = next(line for line in evidence.spans if line.linked_span_ids)
    forged = dataclasses.replace(
        first,
        attributes={
            **first.attributes,
            semconv.EXCHANGE_OUTCOME: marked[0],
            semconv.ERROR_TYPE: marked[1],
        },
    )
    spans = [forged if line is first else line for line in evidence.spans]

    judgement = judge(with_spans(evidence, spans))

    told = [row.seen for row in judgement.rows]
    told += [finding.what + finding.add for finding in judgement.findings]
    assert not any("canary" in text for text in told)
    assert judgement.findings
