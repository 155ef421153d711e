"""Each panel says what it shows, can be loaded by Grafana, and shows real data."""

import json
import math
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest
import yaml
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard
from promql_parser import parse

from dashboards.alerts.rules import PROMETHEUS_UID
from dashboards.boards import BOARDS
from dashboards.generate import ROOT, as_json
from dashboards.live import SERVICE, Live, fetch, live
from dashboards.panels import Panel
from dashboards.provisioning import LINKED_QUERIES, datasources
from otel_intercept import semconv

each_board = pytest.mark.parametrize("name", BOARDS)
PANELS: Final = [
    (name, panel)
    for name, board in BOARDS.items()
    for row in board.rows
    for panel in row.panels
]
each_panel = pytest.mark.parametrize(
    "panel", [panel for _, panel in PANELS], ids=[f"{n}/{p.title}" for n, p in PANELS]
)
VARIABLES: Final = {
    "$service": ".*",
    "$environment": ".*",
    "$model": ".*",
    "$error_type": ".*",
    "$__rate_interval": "30s",
    "$__range": "5m",
}
NAMES_OF_OTHERS: Final = re.compile(r"otelcol_\w+|up")


def with_values(expression: str) -> str:
    """Return a query with Grafana's variables replaced."""
    for name in sorted(VARIABLES, key=len, reverse=True):
        expression = expression.replace(name, VARIABLES[name])
    return expression


def keys_of(node: object, path: str = "") -> Iterator[str]:
    """Yield the path of every key of a JSON document."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{path}.{key}"
            yield from keys_of(value, f"{path}.{key}")
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from keys_of(value, f"{path}[{number}]")


@each_board
def test_a_dashboard_survives_grafanas_models(name: str) -> None:
    """No key is one that Grafana's model does not know, and would drop."""
    register_default_plugins()
    committed = json.loads((ROOT / "dashboards" / f"{name}.json").read_text("utf-8"))

    loaded = Dashboard.from_json(committed)
    again = json.loads(as_json(loaded))

    assert set(keys_of(committed)) - set(keys_of(again)) == set()
    assert again == committed


@each_panel
def test_a_panel_says_what_to_do(panel: Panel) -> None:
    """Each panel has a title, a unit, a query, and a sentence of advice."""
    assert panel.title
    assert panel.queries
    assert panel.unit
    assert len(panel.description) > 60
    assert panel.description.endswith((".", ")"))


@each_panel
def test_a_query_is_promql(panel: Panel) -> None:
    """Each query parses and has types that fit, before any engine sees it."""
    for query in panel.queries:
        parse(with_values(query.expression))


@pytest.mark.parametrize("title", LINKED_QUERIES)
def test_a_query_that_traces_link_to_is_promql(title: str) -> None:
    """The way from a trace to the metrics of its job ends at a query that parses."""
    parse(LINKED_QUERIES[title].replace("$__tags", 'job="demo"'))


def test_data_sources_link_both_ways() -> None:
    """Exemplars name data sources that there are, and so do the links from traces."""
    document = yaml.safe_load(datasources())
    sources = {source["uid"]: source["jsonData"] for source in document["datasources"]}
    prometheus = sources[PROMETHEUS_UID]["exemplarTraceIdDestinations"]

    forth = {link["datasourceUid"] for link in prometheus}
    back = {
        sources[uid]["tracesToMetrics"]["datasourceUid"]
        for uid in sources
        if uid != PROMETHEUS_UID
    }

    assert forth == sources.keys() - {PROMETHEUS_UID}
    assert back == {PROMETHEUS_UID}


def test_titles_are_unique() -> None:
    """A panel can be talked about by its title."""
    for board in BOARDS.values():
        titles = [panel.title for row in board.rows for panel in row.panels]

        assert len(set(titles)) == len(titles)


def test_every_instrument_is_on_a_dashboard() -> None:
    """What is measured can be looked at."""
    text = "".join(query.expression for _, panel in PANELS for query in panel.queries)

    unseen = {
        instrument.name
        for instrument in semconv.INSTRUMENTS
        if instrument.name.replace(".", "_") not in text
    }

    assert unseen == set()


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A collector and a Prometheus in which real rollouts of every outcome are."""
    with live(tmp_path_factory.mktemp("live")) as running:
        running.play(20)
        yield running


def values_of(running: Live, expression: str) -> Mapping[str, float]:
    """Return what a query gives now, by its labels."""
    url = f"{running.prometheus}/api/v1/query"
    answer = json.loads(fetch(url, {"query": expression}))
    assert answer["status"] == "success"
    return {
        str(item["metric"]): float(item["value"][1])
        for item in answer["data"]["result"]
    }


@pytest.mark.engines
@each_panel
def test_a_panel_has_data(engines: Live, panel: Panel) -> None:
    """Each query of each panel gives numbers for real rollouts."""
    for query in panel.queries:
        values = values_of(engines, with_values(query.expression))

        assert values, query.expression
        assert any(math.isfinite(value) for value in values.values()), query.expression


@pytest.mark.engines
def test_the_balance_of_the_live_process_is_zero(engines: Live) -> None:
    """The panel that must be 0 is 0, over the whole way to Prometheus."""
    (panel,) = (panel for _, panel in PANELS if panel.title == "Unexplained records")

    values = values_of(engines, with_values(panel.queries[0].expression))

    assert list(values.values()) == [0.0]


@pytest.mark.engines
@pytest.mark.parametrize("title", LINKED_QUERIES)
def test_a_query_that_traces_link_to_has_data(engines: Live, title: str) -> None:
    """The links from a trace show numbers for the job that it is from."""
    query = LINKED_QUERIES[title].replace("$__tags", f'job="{SERVICE}"')

    assert values_of(engines, query)


@pytest.mark.engines
def test_grafanas_own_types_accept_the_dashboards() -> None:
    """No option of a panel is misspelt or has a value that Grafana does not know."""
    done = subprocess.run(
        ["node", "check.mjs", *(f"../{name}.json" for name in BOARDS)],
        cwd=ROOT / "dashboards" / "render",
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.engines
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ('"showPoints": "never"', '"showPoints": "nevr"'),
        ('"displayMode"', '"displayMod"'),
        ('"lineWidth"', '"linewidth"'),
        ('"colorMode": "value"', '"colorMode": "text"'),
        ('"refresh": "30s"', '"refresh": 30'),
    ],
    ids=["value", "option", "field", "stat", "type"],
)
def test_grafanas_own_types_find_mistakes(
    right: str, wrong: str, tmp_path: Path
) -> None:
    """The check can fail: it notices misspelt options and values of panels."""
    text = (ROOT / "dashboards" / "rollout-health.json").read_text("utf-8")
    broken = tmp_path / "broken.json"
    broken.write_text(text.replace(right, wrong), encoding="utf-8")

    done = subprocess.run(
        ["node", "check.mjs", str(broken)],
        cwd=ROOT / "dashboards" / "render",
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )

    assert right in text
    assert done.returncode == 1
    assert "broken.json" in done.stdout
