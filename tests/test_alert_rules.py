"""Every alert fires when it must and only then, by promtool's and amtool's word."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import yaml

from dashboards.alerts.catalogue import ALERTS
from dashboards.alerts.model import Severity
from dashboards.alerts.rules import grafana_rules, prometheus_rules
from dashboards.generate import ROOT
from tests.alert_mutants import Mutant, all_mutants

ALERTS_DIR: Final = ROOT / "dashboards" / "alerts"
RULES: Final = "otel-intercept.rules.yaml"
RULE_TESTS: Final = sorted((ALERTS_DIR / "tests").glob("*.yaml"))
FALLBACK: Final = ("recorded.yaml", "births.yaml")

MUTANTS: Final = all_mutants()

engines = pytest.mark.engines
# Minutes, not seconds, on a machine that has other work.
pytestmark = pytest.mark.timeout(900)


class Verdict(NamedTuple):
    """Whether a changed rule is still a rule, and whether a rule test failed."""

    valid: bool
    noticed: bool


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run promtool and return what came of it."""
    return subprocess.run(
        ["promtool", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def amtool(*arguments: str | Path) -> str:
    """Run amtool; it must succeed. Returns what it printed."""
    done = subprocess.run(
        ["amtool", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def stage(folder: Path, rules: str) -> Path:
    """Put rules and their tests into a folder; return where the tests are."""
    (folder / RULES).write_text(rules, encoding="utf-8")
    return Path(shutil.copytree(ALERTS_DIR / "tests", folder / "tests"))


def files_for(title: str) -> list[str]:
    """Return the test files that can notice a change of a rule, likely ones first."""
    name, _, slug = title.partition("/")
    own = [path.name for path in RULE_TESTS if name in path.read_text("utf-8")]
    likely = slug.rpartition("-")[2]
    return sorted(own, key=lambda file: likely not in file) or [*FALLBACK]


def with_mutant(mutant: Mutant) -> str:
    """Return the rule file with one rule changed."""
    document = yaml.safe_load(prometheus_rules())
    rules = [rule for group in document["groups"] for rule in group["rules"]]
    rules[mutant.number]["expr"] = mutant.rule.query
    if mutant.rule.hold is not None:
        rules[mutant.number]["for"] = mutant.rule.hold
    return yaml.safe_dump(document)


def judge(mutant: Mutant, folder: Path) -> Verdict:
    """Run the tests of the mutant's rule until one fails."""
    tests = stage(folder, with_mutant(mutant))
    valid = promtool("check", "rules", folder / RULES).returncode == 0
    noticed = any(
        promtool("test", "rules", tests / name).returncode != 0
        for name in files_for(mutant.rule.title)
    )
    return Verdict(valid, noticed)


def grafana_as_prometheus() -> str:
    """Return the rules of Grafana's file in a form that promtool can test."""
    recorded = yaml.safe_load(prometheus_rules())["groups"][0]
    (group,) = yaml.safe_load(grafana_rules())["groups"]
    rules = [
        {
            "alert": rule["title"].split()[0],
            "expr": f"({rule['data'][0]['model']['expr']}) > 0",
            "for": rule["for"],
            "labels": rule["labels"],
            "annotations": {
                key: text.replace("$values.A.Value", "$value")
                for key, text in rule["annotations"].items()
            },
        }
        for rule in group["rules"]
    ]
    alerts = {"name": "otel_intercept.alerts", "rules": rules}
    return yaml.safe_dump({"groups": [recorded, alerts]})


def test_every_alert_has_what_the_woken_need() -> None:
    """Each alert has a severity, says what is wrong, and has a runbook that exists."""
    for alert in ALERTS:
        runbook = (ROOT / alert.runbook).read_text(encoding="utf-8")

        assert alert.severity in Severity
        assert alert.summary
        assert alert.description.endswith(".")
        for part in ("What it means", "First query", "Likely causes", "How to silence"):
            assert f"## {part}" in runbook
        assert alert.slug != ""
    assert len({alert.slug for alert in ALERTS}) == len(ALERTS)


def test_every_runbook_belongs_to_an_alert() -> None:
    """A runbook whose alert is gone goes too."""
    runbooks = {path.stem for path in (ROOT / "docs" / "runbooks").glob("*.md")}

    assert runbooks == {alert.name for alert in ALERTS}


def test_every_alert_is_tested() -> None:
    """No alert is without a case in which it fires and one in which it does not."""
    text = "".join(path.read_text("utf-8") for path in RULE_TESTS)

    assert [
        alert.name for alert in ALERTS if f"alertname: {alert.name}" not in text
    ] == []


@engines
def test_promtool_finds_nothing_to_complain_of() -> None:
    """The committed rule file is valid, without a warning."""
    done = promtool("check", "rules", "--lint-fatal", ALERTS_DIR / RULES)

    assert done.returncode == 0, done.stdout + done.stderr


@engines
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_and_stay_quiet(path: Path) -> None:
    """The committed rules do what the rule tests say."""
    done = promtool("test", "rules", path)

    assert done.returncode == 0, done.stdout + done.stderr


@engines
@pytest.mark.parametrize(
    "path",
    [path for path in RULE_TESTS if path.stem != "new_class_week"],
    ids=lambda path: path.stem,
)
def test_grafana_is_given_the_same_alerts(path: Path, tmp_path: Path) -> None:
    """The rules for Grafana's alerting, which use no recorded series, do the same."""
    tests = stage(tmp_path, grafana_as_prometheus())

    done = promtool("test", "rules", tests / path.name)

    assert done.returncode == 0, done.stdout + done.stderr


@engines
@pytest.mark.parametrize(
    "mutant",
    MUTANTS,
    ids=lambda mutant: f"{mutant.rule.title} {mutant.kind}: {mutant.change}",
)
def test_a_broken_rule_fails_a_rule_test(
    mutant: Mutant, verdicts: Mapping[Mutant, Future[Verdict]]
) -> None:
    """A rule with another threshold, window or label is noticed."""
    verdict = verdicts[mutant].result()

    assert verdict.valid
    assert verdict.noticed


@pytest.fixture(scope="module")
def verdicts(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[Mutant, Future[Verdict]]]:
    """What became of each mutant; all processors work at them."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {
            mutant: pool.submit(judge, mutant, tmp_path_factory.mktemp("mutant"))
            for mutant in MUTANTS
        }
        pool.shutdown(cancel_futures=True)


ROUTES: Final = [
    (("severity=page", "component=rollouts"), "pager"),
    (("severity=page", "component=upstream"), "pager,upstream-team"),
    (
        ("severity=page", "component=upstream", "error_type=upstream_auth"),
        "pager,key-owners",
    ),
    (("severity=ticket", "component=upstream"), "upstream-team"),
    (
        ("severity=ticket", "component=upstream", "error_type=upstream_rate_limited"),
        "capacity",
    ),
    (
        ("severity=page", "component=upstream", "error_type=upstream_overloaded"),
        "pager,capacity",
    ),
    (("severity=page", "component=telemetry"), "pager,observability"),
    (("severity=ticket", "component=telemetry"), "observability"),
    (("severity=ticket", "component=rollouts"), "tickets"),
    (("severity=info", "component=upstream"), "chat"),
]


@engines
@pytest.mark.parametrize(("labels", "receivers"), ROUTES, ids=str)
def test_alertmanager_routes(labels: tuple[str, ...], receivers: str) -> None:
    """Severity decides how fast somebody is told, class and component who."""
    config = ALERTS_DIR / "alertmanager.yml"
    match = f"--verify.receivers={receivers}"

    printed = amtool(
        "config", "routes", "test", f"--config.file={config}", match, *labels
    )

    assert printed.split() == [receivers]


@engines
def test_alertmanager_takes_its_configuration() -> None:
    """The example is valid, with every receiver and inhibition in it."""
    printed = amtool("check-config", ALERTS_DIR / "alertmanager.yml")

    assert "SUCCESS" in printed
    assert "7 receivers" in printed
    assert "3 inhibit rules" in printed
