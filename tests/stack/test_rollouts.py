"""What the demo injects is what Jaeger and Prometheus show, to the last one."""

from collections import defaultdict

from otel_intercept import semconv
from otel_intercept.sdk import read_spans
from otel_intercept.semconv import RolloutOutcome
from tests.stack.backends import Jaeger, Prometheus, Span, eventually
from tests.stack.played import Played

SERVER = 2


def spans_by_rollout(traces: dict[str, list[Span]]) -> dict[str, list[list[Span]]]:
    """Return, for each rollout, the traces that have spans of it."""
    found: dict[str, list[list[Span]]] = defaultdict(list)
    for spans in traces.values():
        for rollout_id in {str(span.tags.get(semconv.ROLLOUT_ID)) for span in spans}:
            found[rollout_id].append(spans)
    return found


def test_every_span_arrives_once(played: Played, jaeger: Jaeger) -> None:
    """Jaeger has the spans that left the process, no more and no fewer."""
    sent = played.span_ids

    found = eventually(lambda: jaeger.span_ids(played.service), lambda ids: ids >= sent)

    assert found == sent
    assert len(sent) > 200


def test_a_rollout_is_one_trace_without_orphans(played: Played, jaeger: Jaeger) -> None:
    """Each rollout is one trace, with one root, in which every parent is there."""
    sent = played.span_ids
    eventually(lambda: jaeger.span_ids(played.service), lambda ids: ids >= sent)

    found = spans_by_rollout(jaeger.traces(played.service))

    assert found.keys() == {item.rollout_id for item in played.planned}
    for rollout_id, traces in found.items():
        assert len(traces) == 1, rollout_id
        ids = {span.span_id for span in traces[0]}
        roots = [span for span in traces[0] if span.parent_id is None]
        orphans = [
            span.name for span in traces[0] if span.parent_id not in {None, *ids}
        ]
        assert [root.name for root in roots] == [semconv.SPAN_ROLLOUT], rollout_id
        assert orphans == [], rollout_id


def test_a_failed_rollout_says_what_failed(played: Played, jaeger: Jaeger) -> None:
    """In the trace of a failed rollout stands one event per injected failure."""
    sent = played.span_ids
    eventually(lambda: jaeger.span_ids(played.service), lambda ids: ids >= sent)

    found = spans_by_rollout(jaeger.traces(played.service))

    for item in played.planned:
        injected = [
            turn.error_type.value
            for turn in item.scenario.turns
            if turn.error_type is not None
        ]
        events = [
            event[semconv.ERROR_TYPE]
            for span in found[item.rollout_id][0]
            for event in span.events
            if event["event"] == semconv.EVENT_EXCEPTION
        ]
        assert sorted(map(str, events)) == sorted(injected), item.rollout_id
    assert played.ids_of(RolloutOutcome.FAILED)


def test_each_class_is_counted_exactly(played: Played, prometheus: Prometheus) -> None:
    """The series of an error class equals the number of failures injected."""
    query = (
        f'sum by (error_type) (intercept_failures_total{{job="{played.service}"}}) > 0'
    )

    counted = eventually(
        lambda: prometheus.by("error_type", query),
        lambda counts: counts == played.injected,
    )

    assert counted == played.injected


def test_what_arrived_is_what_was_counted(
    played: Played, prometheus: Prometheus
) -> None:
    """The collector counts the same failures in the spans, independently of us."""
    query = (
        "sum by (error_type) "
        f'(intercept_failure_events_total{{job="{played.service}"}})'
    )

    counted = eventually(
        lambda: prometheus.by("error_type", query),
        lambda counts: counts == played.injected,
    )

    assert counted == played.injected


def test_an_exemplar_of_each_class_leads_to_its_trace(
    played: Played, prometheus: Prometheus, jaeger: Jaeger
) -> None:
    """From the series of a class, a click leads to a rollout that failed so."""
    for error_type in played.injected:
        query = (
            f'intercept_failures_total{{job="{played.service}",'
            f'error_type="{error_type}"}}'
        )

        found = eventually(lambda: prometheus.exemplars(query), bool)  # noqa: B023

        assert found, error_type
        assert all(map(jaeger.has, found)), error_type


def test_exchange_spans_are_measured_and_lead_back(
    played: Played, prometheus: Prometheus, jaeger: Jaeger
) -> None:
    """The collector measures exchanges by outcome, and nothing but exchanges."""
    exchanges = sum(span.kind == SERVER for span in read_spans(played.file))
    series = f'traces_span_metrics_duration_seconds_count{{job="{played.service}"}}'

    counted = eventually(
        lambda: prometheus.by("span_kind", f"sum by (span_kind) ({series})"),
        lambda counts: sum(counts.values()) == exchanges,
    )
    found = eventually(
        lambda: prometheus.exemplars(series.replace("_count", "_bucket")), bool
    )

    assert counted == {"SPAN_KIND_SERVER": exchanges}
    assert found
    assert all(map(jaeger.has, found))
