"""The recording rules: what several alerts read, computed once."""

from typing import Final

from dashboards.alerts.model import RecordingRule
from dashboards.names import label_of, names_of
from dashboards.promql import (
    BY_JOB,
    JUDGED_EXCHANGES,
    JUDGED_ROLLOUTS,
    gained,
    matching,
    series,
    total,
)
from otel_intercept import semconv
from otel_intercept.semconv import RolloutOutcome

ERROR_TYPE: Final = label_of(semconv.ERROR_TYPE)
CLASS_WINDOW: Final = "10m"
WINDOWS: Final = ("5m", "10m", "1h", "2h", "1d")

_EXCHANGES: Final = names_of(semconv.EXCHANGES).sample
_FAILURES: Final = names_of(semconv.FAILURES).sample
_ROLLOUTS: Final = names_of(semconv.ROLLOUTS).sample
_JUDGED: Final = matching(semconv.EXCHANGES, semconv.EXCHANGE_OUTCOME, JUDGED_EXCHANGES)

ACTIVE: Final = RecordingRule(
    "job:intercept_rollouts_active:sum",
    total(BY_JOB, names_of(semconv.ROLLOUTS_ACTIVE).sample),
)
EXCHANGES_JUDGED: Final = RecordingRule(
    f"job:intercept_exchanges_judged:increase{CLASS_WINDOW}",
    total(BY_JOB, gained(series(_EXCHANGES, _JUDGED), CLASS_WINDOW)),
)
EXCHANGES_ENDING: Final = RecordingRule(
    "job:intercept_exchanges_judged:increase5m",
    total(BY_JOB, f"increase({series(_EXCHANGES, _JUDGED)}[5m])"),
)
FAILURES_BY_CLASS: Final = RecordingRule(
    f"job_error_type:intercept_failures:increase{CLASS_WINDOW}",
    total((*BY_JOB, ERROR_TYPE), gained(_FAILURES, CLASS_WINDOW)),
)


def _rollouts(
    name: str, outcomes: tuple[RolloutOutcome, ...]
) -> dict[str, RecordingRule]:
    matcher = matching(semconv.ROLLOUTS, semconv.ROLLOUT_OUTCOME, outcomes)
    return {
        window: RecordingRule(
            f"job:intercept_rollouts_{name}:increase{window}",
            total(BY_JOB, gained(series(_ROLLOUTS, matcher), window)),
        )
        for window in WINDOWS
    }


ROLLOUTS_JUDGED: Final = _rollouts("judged", JUDGED_ROLLOUTS)
ROLLOUTS_FAILED: Final = _rollouts("failed", (RolloutOutcome.FAILED,))

RECORDED: Final = (
    ACTIVE,
    EXCHANGES_ENDING,
    EXCHANGES_JUDGED,
    FAILURES_BY_CLASS,
    *ROLLOUTS_JUDGED.values(),
    *ROLLOUTS_FAILED.values(),
)
