"""Judge what was seen against what was injected: pure, over the evidence."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Final, NamedTuple

from otel_intercept import semconv
from otel_intercept.cli.demo.faults import Fault
from otel_intercept.cli.doctor.evidence import Evidence, Injected, Wiring
from otel_intercept.cli.doctor.findings import Code, Finding, find
from otel_intercept.cli.story import text_of
from otel_intercept.outcome import is_error
from otel_intercept.sdk import SpanLine
from otel_intercept.semconv import ErrorType, ExchangeOutcome

_OUTCOMES: Final = {outcome.value: outcome for outcome in ExchangeOutcome}
_SERVER: Final = 2
_LEFT: Final = frozenset(
    {ExchangeOutcome.AGENT_GONE, ExchangeOutcome.CUT, ExchangeOutcome.CANCELLED}
)
_SWALLOWED: Final[Mapping[Fault, Code]] = {
    Fault.RATE_LIMITED: Code.STATUS_SWALLOWED,
    Fault.SERVER_ERROR: Code.STATUS_SWALLOWED,
    Fault.HANG: Code.CALL_SWALLOWED,
    Fault.REFUSED: Code.CALL_SWALLOWED,
    Fault.HTML: Code.BODY_SWALLOWED,
    Fault.EMPTY_BODY: Code.BODY_SWALLOWED,
}


class Row(NamedTuple):
    """What was seen of one probe.

    Args:
        injected: The probe.
        seen: Outcome and error type, as exported; or that there is none.
        good: Whether that is what had to be seen.
    """

    injected: Injected
    seen: str
    good: bool


class Judgement(NamedTuple):
    """What the comparison came to.

    Args:
        rows: One for each probe.
        findings: What is wrong, causes before consequences.
    """

    rows: tuple[Row, ...]
    findings: tuple[Finding, ...]


class _Exchange(NamedTuple):
    injected: Injected
    span: SpanLine
    waits: tuple[SpanLine, ...]
    spans: int

    @property
    def outcome(self) -> ExchangeOutcome | None:
        found = text_of(self.span.attributes, semconv.EXCHANGE_OUTCOME)
        return _OUTCOMES.get(found or "")

    @property
    def error_type(self) -> str | None:
        return text_of(self.span.attributes, semconv.ERROR_TYPE)

    @property
    def seen(self) -> str:
        outcome = self.outcome or "unknown"
        known = self.error_type if self.error_type in _ERROR_TYPES else None
        return f"{outcome}" if known is None else f"{outcome} ({known})"


_ERROR_TYPES: Final = frozenset(item.value for item in ErrorType)


def judge(evidence: Evidence) -> Judgement:
    """Compare what was injected with what was seen.

    A cause that explains why nothing was seen stands alone: its consequences are not
    listed. Every probe whose row is not good has a finding.
    """
    exchanges = {item.injected: item for item in _exchanges(evidence)}
    rows = tuple(
        _row(injected, exchanges.get(injected)) for injected in evidence.injected
    )
    findings = list(_causes(evidence, bool(exchanges)))
    if not findings:
        findings += _of_exchanges(evidence, exchanges)
    findings += _of_traces(evidence, exchanges)
    findings += _of_secrets(evidence)
    return Judgement(rows, tuple(findings))


def _exchanges(evidence: Evidence) -> Iterator[_Exchange]:
    waits: dict[str, list[SpanLine]] = {}
    linked: dict[str, list[SpanLine]] = {}
    for span in evidence.spans:
        if semconv.EXCHANGE_OUTCOME in span.attributes:
            for span_id in span.linked_span_ids:
                linked.setdefault(span_id, []).append(span)
        elif semconv.GEN_AI_OPERATION_NAME in span.attributes and span.parent_span_id:
            waits.setdefault(span.parent_span_id, []).append(span)
    for injected in evidence.injected:
        spans = linked.get(injected.span_id)
        if spans:
            below = tuple(waits.get(spans[0].span_id, ()))
            yield _Exchange(injected, spans[0], below, len(spans))


def _row(injected: Injected, exchange: _Exchange | None) -> Row:
    if exchange is None:
        return Row(injected, "nothing", good=False)
    return Row(injected, exchange.seen, good=_is_right(exchange))


def _is_right(exchange: _Exchange) -> bool:
    probe, outcome = exchange.injected.probe, exchange.outcome
    if outcome is None:
        return False
    if probe.fault is Fault.AGENT_LEAVES:
        return outcome in _LEFT
    if not probe.error_types:
        return outcome is ExchangeOutcome.OK
    return is_error(outcome) and exchange.error_type in probe.error_types


def _causes(evidence: Evidence, seen: bool) -> Iterator[Finding]:
    """Yield what explains that nothing is seen, or that nothing can be injected."""
    wiring = evidence.wiring
    static = None if wiring is None else _cause_in_wiring(wiring)
    if static is not None:
        yield static
    elif not seen:
        yield _cause_of_silence(evidence)
    elif not any(item.called for item in evidence.injected):
        yield find(Code.UPSTREAM_NOT_REACHED)


def _cause_in_wiring(wiring: Wiring) -> Finding | None:
    route = wiring.route
    if not wiring.route_found:
        return find(Code.NO_ROUTE, route=route, status=404)
    if not wiring.instrumented:
        return find(Code.NOT_INSTRUMENTED, route=route)
    if not wiring.same_registry:
        return find(Code.OTHER_REGISTRY)
    if not wiring.finds_rollouts:
        shown = route.replace("{rollout_id}", _placeholder(wiring))
        add = _right_key(wiring.placeholders)
        return find(Code.WRONG_ROLLOUT_ID, key=wiring.key, route=shown, add=add)
    if not wiring.wanted:
        return find(Code.OTHER_ROLLOUT_ID)
    if not wiring.telemetry_enabled:
        return find(Code.TELEMETRY_DISABLED)
    return None


def _placeholder(wiring: Wiring) -> str:
    return f"{{{wiring.placeholders[0]}}}" if wiring.placeholders else "{rollout_id}"


def _right_key(placeholders: Sequence[str]) -> str:
    if not placeholders:
        return "pass a function: `rollout_id=lambda request: ...`"
    return " or ".join(f"pass rollout_id={name!r}" for name in placeholders)


def _cause_of_silence(evidence: Evidence) -> Finding:
    status = evidence.injected[0].status if evidence.injected else None
    if status in {401, 403}:
        return find(Code.AGENT_REFUSED, status=status)
    if any(item.in_registry is False for item in evidence.injected):
        return find(Code.OTHER_REGISTRY)
    if evidence.rejected:
        return find(Code.ROLLOUT_NOT_OPEN)
    if status in {404, 405}:
        return find(Code.NO_ROUTE, route=evidence.route, status=status)
    if any(semconv.ROLLOUT_ID in span.attributes for span in evidence.spans):
        return find(Code.NO_EXCHANGES)
    if evidence.wiring is None:
        return find(
            Code.NO_TELEMETRY,
            why="the server is not instrumented, or exports elsewhere",
            add="add `instrument_app(app, registry)`, and start the server with the "
            "variables that doctor prints",
        )
    return find(
        Code.NO_TELEMETRY,
        why="the app exports elsewhere, or not before it ends",
        add="build telemetry with `otel_intercept.sdk.configure()`, which reads "
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    )


def _of_exchanges(
    evidence: Evidence, exchanges: Mapping[Injected, _Exchange]
) -> Iterator[Finding]:
    missing = [item for item in evidence.injected if item not in exchanges]
    if missing:
        yield find(Code.EXCHANGE_MISSING, _names(missing))
    found = list(exchanges.values())
    yield from _failing(found)
    for code, shows in _DEFECTS.items():
        showing = [item.injected for item in found if shows(item)]
        if showing:
            yield find(code, _names(showing))


def _failing(exchanges: Iterable[_Exchange]) -> Iterator[Finding]:
    """Yield one finding for each way in which outcomes are not right."""
    wrong = sorted(
        ((_wrong(item), item) for item in exchanges if not _is_right(item)),
        key=lambda pair: (list(Code).index(pair[0]), pair[1].seen),
    )
    for (code, seen), group in groupby(wrong, lambda pair: (pair[0], pair[1].seen)):
        yield find(code, _names(item.injected for _, item in group), seen=seen)


def _wrong(exchange: _Exchange) -> Code:
    probe, outcome = exchange.injected.probe, exchange.outcome
    leaves = probe.fault is Fault.AGENT_LEAVES
    if not probe.error_types and not leaves:
        return Code.GOOD_CALL_FAILED
    if _is_missed(exchange):
        return Code.NOT_INJECTED
    if leaves:
        return Code.AGENT_LEFT_UNSEEN
    if outcome is not None and is_error(outcome):
        return Code.FAILURE_MISNAMED
    return _SWALLOWED.get(probe.fault, Code.STREAM_SWALLOWED)


def _is_missed(exchange: _Exchange) -> bool:
    # Nobody can be seen to call an upstream that refuses the connection.
    injected = exchange.injected
    return not injected.called and injected.probe.fault is not Fault.REFUSED


def _is_doubled(exchange: _Exchange) -> bool:
    return exchange.spans > 1


def _is_not_timed(exchange: _Exchange) -> bool:
    asked = exchange.injected.probe.fault is not Fault.AGENT_LEAVES
    return asked and exchange.injected.called and not exchange.waits


def _has_no_model(exchange: _Exchange) -> bool:
    spans = (exchange.span, *exchange.waits)
    return not any(semconv.GEN_AI_REQUEST_MODEL in span.attributes for span in spans)


_DEFECTS: Final[Mapping[Code, Callable[[_Exchange], bool]]] = {
    Code.EXCHANGE_DOUBLED: _is_doubled,
    Code.UPSTREAM_NOT_TIMED: _is_not_timed,
    Code.MODEL_UNKNOWN: _has_no_model,
}


def _of_traces(
    evidence: Evidence, exchanges: Mapping[Injected, _Exchange]
) -> Iterator[Finding]:
    agents = {item.trace_id: item for item in evidence.injected}
    foreign = {
        agents[span.trace_id] for span in evidence.spans if span.trace_id in agents
    }
    joined = [item for item in evidence.injected if item in foreign]
    if joined or (evidence.wiring is not None and evidence.wiring.foreign_outside):
        yield find(Code.SECOND_TRACE, _names(joined))
    roots: dict[str, set[str]] = {}
    traces: dict[str, set[str]] = {}
    for span in evidence.spans:
        rollout_id = text_of(span.attributes, semconv.ROLLOUT_ID)
        if rollout_id is None:
            continue
        traces.setdefault(rollout_id, set()).add(span.trace_id)
        if span.name == semconv.SPAN_ROLLOUT:
            roots.setdefault(rollout_id, set()).add(span.span_id)
        elif span.name == semconv.SPAN_ROLLOUT_STARTED and span.parent_span_id:
            roots.setdefault(rollout_id, set()).add(span.parent_span_id)
    several = [
        item
        for item in evidence.injected
        if len(roots.get(item.rollout_id, ())) > 1
        or len(traces.get(item.rollout_id, ())) > 1
    ]
    if several:
        count = max(
            max(len(roots.get(item.rollout_id, ())), len(traces[item.rollout_id]))
            for item in several
        )
        yield find(Code.SEVERAL_TRACES, _names(several), count=count)
    elif adrift := [
        item
        for item, exchange in exchanges.items()
        if (known := roots.get(item.rollout_id))
        and exchange.span.parent_span_id not in known
    ]:
        yield find(Code.FOREIGN_PARENT, _names(adrift))


def _of_secrets(evidence: Evidence) -> Iterator[Finding]:
    if evidence.planted_seen:
        yield find(Code.SECRET_IN_TELEMETRY)
    leaked = [item for item in evidence.injected if item.leaked]
    if leaked and not evidence.passes_texts:
        yield find(Code.SECRET_IN_ANSWER, _names(leaked))


def _names(injected: Iterable[Injected]) -> tuple[str, ...]:
    return tuple(item.probe.name for item in injected)
