"""Plant secrets in every place of a real proxy, and search everything that leaves it.

The proxy is a process of its own with all debug switches on, played once with OTLP over
HTTP and once over gRPC. A search that finds nothing proves something only with the
controls: every canary was planted, every sink lets canaries through, other canaries are
not found, and every failure left its one trace.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from tests.canary import ANOTHER, Hits, Scanner
from tests.canary_harness import Outcome, play
from tests.canary_places import ALLOWED, CONTROLS, PLACES
from tests.canary_plan import Scenario

RUNS: Final = ("http", "grpc")
SINKS: Final = (
    "otlp_traces",
    "otlp_traces_text",
    "otlp_metrics",
    "otlp_metrics_text",
    "otlp_logs",
    "otlp_logs_text",
    "otlp_heads",
    "foreign",
    "foreign_text",
    "file",
    "metrics_file",
    "logs_file",
    "log",
    "stdout",
    "stderr",
    "states",
    "objects",
    "agent",
    "agent_malformed",
    "upstream",
)
CONTROL_OF: Final[Mapping[str, frozenset[str]]] = {
    "otlp_traces": frozenset({"control.attribute", "control.model"}),
    "otlp_traces_text": frozenset({"control.attribute"}),
    "otlp_metrics": frozenset({"control.model"}),
    "otlp_metrics_text": frozenset({"control.model"}),
    "otlp_logs": frozenset({"control.rollout_id"}),
    "otlp_logs_text": frozenset({"control.rollout_id"}),
    "otlp_heads": frozenset({"conf.otlp_header"}),
    "foreign": frozenset({"control.foreign"}),
    "foreign_text": frozenset({"control.foreign"}),
    "file": frozenset({"control.attribute"}),
    "metrics_file": frozenset({"control.model"}),
    "logs_file": frozenset({"control.rollout_id"}),
    "log": frozenset(
        {
            "control.log",
            "control.server_log",
            "control.access_log",
            "control.future",
            "control.task",
        }
    ),
    "stdout": frozenset({"control.stdout", "control.model", "control.rollout_id"}),
    "stderr": frozenset(
        {
            "control.stderr",
            "control.warning",
            "control.thread",
            "control.unraisable",
        }
    ),
    "states": frozenset({"control.state"}),
    "objects": frozenset({"control.object"}),
    "agent": frozenset({"control.answer"}),
    "agent_malformed": frozenset({"agent.request_line"}),
    "upstream": frozenset({"agent.prompt", "conf.path", "conf.api_key"}),
}
"""What must be found in each sink, or it is not connected."""

ROLLOUT_ROUTES: Final = ("/v1/", "/any/")


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Play the plan over both protocols, at once."""
    directories = [tmp_path_factory.mktemp(name) for name in RUNS]

    async def both(over_http: Path, over_grpc: Path) -> tuple[Outcome, Outcome]:
        return await asyncio.gather(
            play(over_http, "http/protobuf", debug=True),
            play(over_grpc, "grpc", debug=False),
        )

    return dict(zip(RUNS, asyncio.run(both(*directories)), strict=True))


@pytest.fixture(scope="module")
def found(outcomes: dict[str, Outcome]) -> dict[str, dict[str, Hits]]:
    """Search every sink of every run."""
    return {name: _search(outcome) for name, outcome in outcomes.items()}


@pytest.fixture(params=RUNS)
def run(request: pytest.FixtureRequest) -> str:
    """Take one run after the other."""
    name: str = request.param
    return name


@pytest.mark.parametrize("sink", SINKS)
def test_no_canary_leaves(
    found: dict[str, dict[str, Hits]], run: str, sink: str
) -> None:
    """Whatever the upstream, the agent or the code says, it comes out nowhere."""
    hits = found[run][sink]

    allowed = ALLOWED.get(sink, frozenset()) | CONTROLS
    assert {place: how for place, how in hits.items() if place not in allowed} == {}


@pytest.mark.parametrize("sink", SINKS)
def test_every_sink_is_connected(
    found: dict[str, dict[str, Hits]], run: str, sink: str
) -> None:
    """What the program lets out on purpose is found, so leaks would be too."""
    missing = CONTROL_OF[sink] - found[run][sink].keys()

    assert not missing


def test_debug_answers_are_seen(found: dict[str, dict[str, Hits]]) -> None:
    """In debug mode aiohttp sends tracebacks to agents, and the harness sees it."""
    assert "control.server_log" in found["http"]["agent"]


def test_every_canary_was_planted(outcomes: dict[str, Outcome], run: str) -> None:
    """Each secret was really sent, configured or raised."""
    outcome = outcomes[run]

    planted = Scanner(outcome.mint, PLACES).scan(outcome.planted).keys()

    missing = PLACES - planted - outcome.reached
    # The endpoint of gRPC has no room for them.
    if run == "grpc":
        missing -= {"conf.otlp_password", "conf.otlp_query"}
    assert missing == frozenset()


def test_canaries_of_another_run_are_not_found(
    found: dict[str, dict[str, Hits]], run: str
) -> None:
    """A hit means a canary: the search finds nothing where nothing can be."""
    places = {place for hits in found[run].values() for place in hits}

    assert not any(place.startswith(ANOTHER) for place in places)


def test_triage_has_what_nothing_else_has(
    outcomes: dict[str, Outcome], run: str
) -> None:
    """The operator who asks for it gets the raw text on the triage logger alone."""
    outcome = outcomes[run]

    hits = Scanner(outcome.mint, PLACES).scan(outcome.triage)

    assert {"exc.message", "exc.note", "exc.cause", "up.error_message"} <= hits.keys()


def test_every_failure_leaves_one_trace(outcomes: dict[str, Outcome], run: str) -> None:
    """Each rollout has one exchange, one outcome, and its one failure as expected."""
    outcome = outcomes[run]
    spans = _by_rollout(outcome.spans)

    wrong = [
        (scenario, facts)
        for scenario, _ in outcome.talks
        if (facts := _facts(spans[scenario.rollout_id])) != _expected(scenario, facts)
    ]

    assert wrong == []


def test_every_agent_was_answered(outcomes: dict[str, Outcome], run: str) -> None:
    """Agents get an answer of HTTP, whatever happens; only teardown gives them none."""
    unanswered = [
        scenario.how
        for scenario, spoken in outcomes[run].talks
        if not spoken.got.startswith(b"HTTP/1.1 ")
    ]

    assert unanswered == ["cancel"]


def test_the_program_ends_well(outcomes: dict[str, Outcome], run: str) -> None:
    """No failure brings the process down, or keeps it from ending."""
    assert outcomes[run].exit_code == 0


def test_other_instrumentation_makes_no_server_spans_of_rollouts(
    outcomes: dict[str, Outcome], run: str
) -> None:
    """On observed routes the SERVER span is ours alone; client spans join its trace."""
    outcome = outcomes[run]
    own = {span.trace_id for span in outcome.spans}

    kinds = Counter(
        (span.kind, span.trace_id in own)
        for span in outcome.foreign
        if any(part in _text(span, "http.route") for part in ROLLOUT_ROUTES)
        or span.kind is Span.SPAN_KIND_CLIENT
    )

    # One request could not be told to be a rollout's, since the resolver raised.
    assert kinds[Span.SPAN_KIND_SERVER, True] == 0
    assert kinds[Span.SPAN_KIND_SERVER, False] == 1
    assert kinds[Span.SPAN_KIND_CLIENT, True] > 100


def _search(outcome: Outcome) -> dict[str, Hits]:
    scanner = Scanner(outcome.mint, PLACES | CONTROLS)
    return {sink: scanner.scan(blob) for sink, blob in outcome.sinks.items()}


def _by_rollout(spans: Sequence[Span]) -> Mapping[str, list[Span]]:
    """Sort spans by rollout; a block's own rollout counts to the one around it."""
    sorted_spans: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        rollout_id = _text(span, "intercept.rollout.id")
        sorted_spans[rollout_id.removesuffix("-block")].append(span)
    return sorted_spans


def _facts(spans: Sequence[Span]) -> tuple[list[str], list[str], int]:
    """Give the outcomes, the types of the failure events, and the failures counted."""
    outcomes = [
        text for span in spans if (text := _text(span, "intercept.exchange.outcome"))
    ]
    types = [_text(event, "error.type") for span in spans for event in span.events]
    counted = sum(
        attribute.value.int_value
        for span in spans
        for attribute in span.attributes
        if attribute.key == "intercept.rollout.failures"
    )
    return outcomes, types, counted


def _expected(
    scenario: Scenario, facts: tuple[list[str], list[str], int]
) -> tuple[list[str], list[str], int]:
    """Give what the facts must be; where several are right, the one that they are."""
    outcomes = [word for word in facts[0][:1] if word in scenario.outcomes]
    types = [word for word in facts[1][:1] if word in scenario.types]
    if not outcomes or (scenario.types and not types):
        return sorted(scenario.outcomes), sorted(scenario.types), 1
    return outcomes, types, 1 if scenario.types else 0


def _text(item: Span | Span.Event, key: str) -> str:
    return next((value for value in _values(item.attributes, key)), "")


def _values(attributes: Iterable[KeyValue], key: str) -> Iterator[str]:
    return (each.value.string_value for each in attributes if each.key == key)
