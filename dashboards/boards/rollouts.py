"""The dashboard *Rollout health*: outcomes, failures, and what may be learned from."""

from typing import Final

from dashboards.names import INSTANCE, names_of
from dashboards.panels import (
    FAILED_WAIT,
    OF_ERROR,
    OF_MODEL,
    RANGE,
    SCOPE,
    Board,
    Panel,
    Query,
    Row,
)
from dashboards.promql import (
    FAILED_EXCHANGES,
    JUDGED_EXCHANGES,
    matching,
    series,
    total,
)
from dashboards.queries import gauge, increase, legend, quantiles, rate
from otel_intercept import semconv
from otel_intercept.semconv import (
    EXCHANGES,
    FAILURES,
    ROLLOUTS,
    ExchangeOutcome,
    RolloutOutcome,
)

_FAILED: Final = matching(ROLLOUTS, semconv.ROLLOUT_OUTCOME, (RolloutOutcome.FAILED,))
_SILENT: Final = matching(
    EXCHANGES, semconv.EXCHANGE_OUTCOME, (ExchangeOutcome.SILENT_EMPTY,)
)
_ERRORS: Final = matching(EXCHANGES, semconv.EXCHANGE_OUTCOME, FAILED_EXCHANGES)
_JUDGED: Final = matching(EXCHANGES, semconv.EXCHANGE_OUTCOME, JUDGED_EXCHANGES)

ROLLOUT_HEALTH: Final = Board(
    "intercept-rollouts",
    "Rollout health",
    "Do rollouts end as they should, and may the training loop learn from them?",
    (
        Row(
            "Now",
            (
                Panel(
                    "Rewards at risk",
                    "Share of the rollouts of this time range that failed; one with a"
                    " silent_empty exchange is among them. Above 5 %: halt the loop"
                    " before it learns more, then look at the classes below.",
                    "percentunit",
                    (
                        Query(
                            f"{increase(ROLLOUTS, (), _FAILED, window=RANGE)}"
                            f" / {increase(ROLLOUTS, (), window=RANGE)}",
                            "failed of all",
                        ),
                    ),
                    single=True,
                    width=6,
                    warn=0.01,
                    alarm=0.05,
                ),
                Panel(
                    "Silent empties",
                    "Exchanges whose agent got a clean answer for a call that failed."
                    " Any is too many: check that the loop dropped these rollouts"
                    " (runbook InterceptSilentEmpty).",
                    "short",
                    (
                        Query(
                            increase(EXCHANGES, (), _SILENT, window=RANGE), "exchanges"
                        ),
                    ),
                    single=True,
                    width=6,
                    alarm=1,
                ),
                Panel(
                    "Open rollouts",
                    "Rollouts that are open now. When it stays high while nothing ends,"
                    " see the runbook InterceptRolloutsStalled; which ones are old is"
                    " told by their traces: rollout.started without rollout.",
                    "short",
                    (Query(gauge(semconv.ROLLOUTS_ACTIVE, ()), "open"),),
                    single=True,
                    width=6,
                ),
                Panel(
                    "Failures",
                    "Failures of the chosen classes in this time range. Many more than"
                    " failed rollouts: agents retry, which may hide an overload.",
                    "short",
                    (
                        Query(
                            increase(FAILURES, (), OF_ERROR, window=RANGE), "failures"
                        ),
                    ),
                    single=True,
                    width=6,
                    warn=1,
                ),
            ),
        ),
        Row(
            "Outcomes",
            (
                Panel(
                    "Rollouts by outcome",
                    "How rollouts end. A growing failed band: see the classes below."
                    " aborted and abandoned are rollouts that nobody closed: a process"
                    " that was stopped, or an agent that was lost.",
                    "short",
                    (
                        Query(
                            f"{increase(ROLLOUTS, [semconv.ROLLOUT_OUTCOME])} > 0",
                            legend(semconv.ROLLOUT_OUTCOME),
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Share at risk",
                    "failed of all rollouts, and silent_empty and failing of all"
                    " exchanges that were answered or failed. When exchanges fail and"
                    " rollouts do not, agents recover; the reverse is a loop's bug.",
                    "percentunit",
                    (
                        Query(
                            f"{increase(ROLLOUTS, (), _FAILED)}"
                            f" / ({increase(ROLLOUTS, ())} > 0)",
                            "rollouts: failed",
                        ),
                        Query(
                            f"{increase(EXCHANGES, (), _ERRORS)}"
                            f" / ({increase(EXCHANGES, (), _JUDGED)} > 0)",
                            "exchanges: failing",
                        ),
                        Query(
                            f"{increase(EXCHANGES, (), _SILENT)}"
                            f" / ({increase(EXCHANGES, (), _JUDGED)} > 0)",
                            "exchanges: silent_empty",
                        ),
                    ),
                    warn=0.01,
                    alarm=0.05,
                ),
                Panel(
                    "Open rollouts by instance",
                    "A line that ends without going to 0 is a process that was killed:"
                    " its rollouts are lost (runbook InterceptTelemetryAbsent).",
                    "short",
                    (
                        Query(
                            total(
                                (INSTANCE,),
                                series(
                                    names_of(semconv.ROLLOUTS_ACTIVE).sample, *SCOPE
                                ),
                            ),
                            f"{{{{{INSTANCE}}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Oldest open rollout",
                    "For how long the oldest rollout of each instance is open. A line"
                    " that only rises, beyond the duration of others, is a rollout that"
                    " hangs, or that nobody closes: find it by rollout.started.",
                    "s",
                    (
                        Query(
                            series(names_of(semconv.ROLLOUTS_OLDEST).sample, *SCOPE),
                            f"{{{{{INSTANCE}}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Duration of rollouts",
                    "From open to close. Rollouts that become longer and fail at a"
                    " round number of minutes run into somebody's time limit.",
                    "s",
                    quantiles(semconv.ROLLOUT_DURATION, shares=(0.5, 0.95)),
                    width=24,
                ),
            ),
        ),
        Row(
            "Failures",
            (
                Panel(
                    "Failures by class",
                    "One class that leads names the owner: the runbook"
                    " InterceptFailureClassRate lists the usual causes of each. An"
                    " exemplar leads to the trace of one of them.",
                    "cps",
                    (
                        Query(
                            f"{rate(FAILURES, [semconv.ERROR_TYPE], OF_ERROR)} > 0",
                            legend(semconv.ERROR_TYPE),
                        ),
                    ),
                    width=24,
                    stacked=True,
                    exemplars=True,
                ),
                Panel(
                    "Failures by phase",
                    "Where in the exchange it broke. prepare and response_future:"
                    " upstream never answered; chunk: it broke off; keepalive and eof:"
                    " the agent was gone.",
                    "cps",
                    (
                        Query(
                            f"{rate(FAILURES, [semconv.FAILURE_PHASE], OF_ERROR)} > 0",
                            legend(semconv.FAILURE_PHASE),
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Failures by origin",
                    "Whose side it is on. upstream: ask who serves the model; agent:"
                    " look at the sandboxes; proxy: look at what was deployed last.",
                    "cps",
                    (
                        Query(
                            f"{rate(FAILURES, [semconv.FAILURE_ORIGIN], OF_ERROR)} > 0",
                            legend(semconv.FAILURE_ORIGIN),
                        ),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Failed upstream calls by model",
                    "Waits on upstream that failed. One model only: its replicas; all"
                    " of them: the way there, or the key.",
                    "cps",
                    (
                        Query(
                            rate(
                                semconv.UPSTREAM_DURATION,
                                [semconv.GEN_AI_REQUEST_MODEL, semconv.ERROR_TYPE],
                                OF_MODEL,
                                OF_ERROR,
                                FAILED_WAIT,
                            ),
                            legend(semconv.GEN_AI_REQUEST_MODEL, semconv.ERROR_TYPE),
                        ),
                    ),
                    width=24,
                    stacked=True,
                    height=10,
                ),
            ),
        ),
    ),
)
