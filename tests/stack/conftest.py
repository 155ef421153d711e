"""Real engines for a session: started once, their logs shown where a test fails."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from deploy.stack.engine import Engine
from deploy.stack.stack import HOST, Stack, free_ports
from deploy.stack.tools import Tools, ensure_tools
from tests.stack.backends import Jaeger, Prometheus
from tests.stack.played import Demo, Played
from tests.stack.rules import write_short_rules
from tests.stack.webhook import Webhook

LOGS = pytest.StashKey[list[Engine]]()

ALERTMANAGER = """
route:
  receiver: webhook
  group_by: [alertname, job]
  group_wait: 0s
  group_interval: 1s
receivers:
  - name: webhook
    webhook_configs:
      - url: {url}
        send_resolved: true
"""


def pytest_configure(config: pytest.Config) -> None:
    """Make room for the engines whose logs a failure shows."""
    config.stash[LOGS] = []


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the end of every engine's log to the report of a failure."""
    report = yield
    if call.excinfo is not None:
        for engine in item.config.stash[LOGS]:
            report.sections.append((f"log of {engine.name}", engine.tail()))
    return report


@pytest.fixture(scope="session")
def tools() -> Tools:
    """Have every program, built or installed if need be."""
    return ensure_tools()


@pytest.fixture(scope="session")
def webhook() -> Iterator[Webhook]:
    """Receive what Alertmanager sends."""
    with Webhook() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def stack(
    tools: Tools,
    webhook: Webhook,
    tmp_path_factory: pytest.TempPathFactory,
    pytestconfig: pytest.Config,
) -> Iterator[Stack]:
    """Run all engines for all tests that leave them alone."""
    directory = tmp_path_factory.mktemp("stack")
    stack = make_stack(tools, directory, webhook)
    pytestconfig.stash[LOGS] += stack.engines
    with stack:
        yield stack


def make_stack(tools: Tools, directory: Path, webhook: Webhook) -> Stack:
    """Return all engines with the shipped files, on free ports, at short intervals."""
    rules = directory / "rules"
    write_short_rules(rules)
    alertmanager = directory / "alertmanager.yml"
    alertmanager.write_text(ALERTMANAGER.format(url=webhook.url), encoding="utf-8")
    return Stack(
        tools,
        directory,
        free_ports(),
        rules=rules,
        alertmanager=alertmanager,
        interval="1s",
    )


@pytest.fixture(scope="session")
def endpoint(stack: Stack) -> str:
    """Tell where the collector takes OTLP by HTTP."""
    return f"http://{HOST}:{stack.ports.otlp_http}"


@pytest.fixture(scope="session")
def jaeger(stack: Stack) -> Jaeger:
    """Ask Jaeger."""
    return Jaeger(f"http://{HOST}:{stack.ports.jaeger_query}")


@pytest.fixture(scope="session")
def prometheus(stack: Stack) -> Prometheus:
    """Ask Prometheus."""
    return Prometheus(f"http://{HOST}:{stack.ports.prometheus}")


@pytest.fixture(scope="session")
def played(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Played:
    """Have the demo's rollouts of every kind sent into the stack."""
    directory = tmp_path_factory.mktemp("played")
    demo = Demo(
        directory,
        "every-kind",
        rollouts=60,
        OTEL_EXPORTER_OTLP_ENDPOINT=endpoint,
        # Once, at the end: an exemplar that is exported between two scrapes is lost.
        OTEL_METRIC_EXPORT_INTERVAL="600000",
    )
    return demo.wait()
