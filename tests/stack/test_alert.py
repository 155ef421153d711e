"""The shipped rule fires at the webhook, and is resolved after recovery."""

from deploy.stack.engine import get
from deploy.stack.stack import HOST, Stack
from otel_intercept.semconv import ExchangeOutcome
from tests.stack.backends import eventually
from tests.stack.played import Played
from tests.stack.webhook import Webhook

ALERT = "InterceptSilentEmpty"


def test_silent_answers_page_somebody_and_stop_doing_so(
    played: Played, webhook: Webhook
) -> None:
    """The alert names the job and its severity, and ends when no more come."""
    assert any(
        turn.outcome is ExchangeOutcome.SILENT_EMPTY
        for item in played.planned
        for turn in item.scenario.turns
    )

    told = eventually(
        lambda: webhook.of(ALERT, job=played.service),
        lambda told: any(item.status == "resolved" for item in told),
        within_s=60,
    )

    assert told[0].status == "firing"
    assert told[0].labels["severity"] == "page"
    assert played.service in told[0].annotations["summary"]
    assert told[-1].status == "resolved"


def test_every_shipped_rule_is_healthy(stack: Stack, played: Played) -> None:
    """Prometheus could evaluate each rule on real series, without an error."""
    assert played.planned
    url = f"http://{HOST}:{stack.ports.prometheus}/api/v1/rules"

    groups = get(url).json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]

    assert rules
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
