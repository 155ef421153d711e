"""The dashboard *Exchanges and streams*: how long agents wait, and for what."""

from typing import Final

from dashboards.alerts.catalogue import STALLED_GAP_S
from dashboards.names import names_of
from dashboards.panels import (
    FAILED_WAIT,
    OF_ERROR,
    OF_MODEL,
    RANGE,
    RATE,
    SCOPE,
    Board,
    Panel,
    Query,
    Row,
)
from dashboards.promql import at_most, series, total
from dashboards.queries import increase, legend, quantile, quantiles, rate
from otel_intercept import semconv
from otel_intercept.semconv import EXCHANGES, MAX_GAP

_QUICK: Final = at_most(MAX_GAP, STALLED_GAP_S)
_TOKENS: Final = series(names_of(semconv.TOKEN_USAGE).sum, *SCOPE, OF_MODEL)


def _quick_streams(window: str) -> str:
    quick = series(names_of(MAX_GAP).bucket, *SCOPE, OF_MODEL, _QUICK)
    return total((), f"increase({quick}[{window}])")


def _by(
    title: str, what: str, instrument: semconv.Instrument, key: str, *, width: int = 12
) -> Panel:
    return Panel(
        title,
        what,
        "s",
        (Query(quantile(0.95, instrument, [key], OF_MODEL), legend(key)),),
        width=width,
    )


EXCHANGES_AND_STREAMS: Final = Board(
    "intercept-exchanges",
    "Exchanges and streams",
    "How long do agents wait, for what, and does the answer keep flowing?",
    (
        Row(
            "Now",
            (
                Panel(
                    "Exchange p95",
                    "95 of 100 answers in this time range were complete within this."
                    " Compare it with the time limit of your agents: near it, they"
                    " leave and retry.",
                    "s",
                    (
                        Query(
                            quantile(
                                0.95,
                                semconv.EXCHANGE_DURATION,
                                (),
                                OF_MODEL,
                                window=RANGE,
                            ),
                            "p95",
                        ),
                    ),
                    single=True,
                    width=6,
                ),
                Panel(
                    "First chunk p95",
                    "Keepalives do not count. When it rises with the exchanges per"
                    " second, the upstream queues: fewer rollouts at once, or more"
                    " replicas.",
                    "s",
                    (
                        Query(
                            quantile(
                                0.95,
                                semconv.TIME_TO_FIRST_CHUNK,
                                (),
                                OF_MODEL,
                                window=RANGE,
                            ),
                            "p95",
                        ),
                    ),
                    single=True,
                    width=6,
                ),
                Panel(
                    "Streams that stalled",
                    f"Share of streams with a silence of more than {STALLED_GAP_S:g} s"
                    " between two chunks. Above 5 %: runbook InterceptStreamsStalling.",
                    "percentunit",
                    (
                        Query(
                            f"1 - {_quick_streams(RANGE)}"
                            f" / {increase(MAX_GAP, (), OF_MODEL, window=RANGE)}",
                            "stalled",
                        ),
                    ),
                    single=True,
                    width=6,
                    warn=0.01,
                    alarm=0.05,
                ),
                Panel(
                    "Exchanges per second",
                    "All outcomes. Falls to 0 while rollouts are open: runbook"
                    " InterceptRolloutsStalled.",
                    "cps",
                    (Query(rate(EXCHANGES, (), window=RANGE), "exchanges"),),
                    single=True,
                    width=6,
                ),
            ),
        ),
        Row(
            "Exchanges",
            (
                Panel(
                    "Exchanges by outcome",
                    "cancelled, agent_gone, clean_stop and rejected are nobody's error;"
                    " but many agent_gone are agents whose time limit is too short, and"
                    " many rejected are agents of rollouts that are closed.",
                    "cps",
                    (
                        Query(
                            f"{rate(EXCHANGES, [semconv.EXCHANGE_OUTCOME])} > 0",
                            legend(semconv.EXCHANGE_OUTCOME),
                        ),
                    ),
                    width=24,
                    stacked=True,
                ),
                Panel(
                    "Exchanges by dialect",
                    "Which API the agents speak, streaming or not. One that vanishes is"
                    " an environment that no longer starts.",
                    "cps",
                    (
                        Query(
                            rate(
                                EXCHANGES,
                                [semconv.EXCHANGE_DIALECT, semconv.EXCHANGE_STREAM],
                            )
                            + " > 0",
                            legend(semconv.EXCHANGE_DIALECT)
                            + f" · stream {legend(semconv.EXCHANGE_STREAM)}",
                        ),
                    ),
                    width=24,
                    stacked=True,
                ),
                Panel(
                    "Answers repeated for retries",
                    "Made no model call: leave them out of error rates. Many of them:"
                    " agents give up on answers that come, so raise their time limit.",
                    "cps",
                    (Query(rate(semconv.EXCHANGES_REPLAYED, ()), "repeated"),),
                    width=24,
                ),
                Panel(
                    "Exchange duration",
                    "From the agent's request to the end of its answer. p99 far from"
                    " p95: few very long answers, or stalled streams.",
                    "s",
                    quantiles(semconv.EXCHANGE_DURATION, OF_MODEL),
                ),
                _by(
                    "Exchange duration p95 by dialect",
                    "One dialect alone is slow: its agents ask for more, or its route"
                    " has a handler of its own that waits.",
                    semconv.EXCHANGE_DURATION,
                    semconv.EXCHANGE_DIALECT,
                ),
            ),
        ),
        Row(
            "Upstream",
            (
                Panel(
                    "Upstream wait",
                    "Time that exchanges waited for their upstream. When it is well"
                    " below the exchange duration, the proxy or the agent is slow.",
                    "s",
                    quantiles(semconv.UPSTREAM_DURATION, OF_MODEL),
                ),
                _by(
                    "Upstream wait p95 by model",
                    "One model alone is slow: its replicas are too few, or restart."
                    " At a round number: a time limit.",
                    semconv.UPSTREAM_DURATION,
                    semconv.GEN_AI_REQUEST_MODEL,
                ),
                Panel(
                    "Failed upstream wait p95 by error type",
                    "How long agents wait for what then fails. At a round number: a"
                    " time limit, of ours or of a gateway. Near 0: refused at once, by"
                    " a limit or a key.",
                    "s",
                    (
                        Query(
                            quantile(
                                0.95,
                                semconv.UPSTREAM_DURATION,
                                [semconv.ERROR_TYPE],
                                OF_MODEL,
                                OF_ERROR,
                                FAILED_WAIT,
                            ),
                            legend(semconv.ERROR_TYPE),
                        ),
                    ),
                    width=24,
                ),
                Panel(
                    "Tokens per second",
                    "Used by model calls. Output that falls while the exchanges stay is"
                    " a model that answers less: look at the rewards.",
                    "cps",
                    (
                        Query(
                            total(
                                names_of(semconv.TOKEN_USAGE).labels[2:],
                                f"rate({_TOKENS}[{RATE}])",
                            ),
                            legend(
                                semconv.GEN_AI_REQUEST_MODEL, semconv.GEN_AI_TOKEN_TYPE
                            ),
                        ),
                    ),
                    width=24,
                ),
            ),
        ),
        Row(
            "Streams",
            (
                _by(
                    "First chunk p95 by model",
                    "From the agent's request. Rises first when an upstream is full.",
                    semconv.TIME_TO_FIRST_CHUNK,
                    semconv.GEN_AI_REQUEST_MODEL,
                ),
                _by(
                    "First chunk p95 by dialect",
                    "One dialect alone is late: its prompts are longer, or a buffering"
                    " proxy is in its way.",
                    semconv.TIME_TO_FIRST_CHUNK,
                    semconv.EXCHANGE_DIALECT,
                ),
                _by(
                    "Longest silence p95 by model",
                    "Between two chunks; keepalives do not count, so that agents may"
                    " not notice. Above a minute: runbook InterceptStreamsStalling.",
                    MAX_GAP,
                    semconv.GEN_AI_REQUEST_MODEL,
                ),
                _by(
                    "Longest silence p95 by dialect",
                    "One dialect alone stalls: look at what its upstream does between"
                    " two events, such as tools that it runs itself.",
                    MAX_GAP,
                    semconv.EXCHANGE_DIALECT,
                ),
                Panel(
                    "Keepalives by dialect",
                    "Comments that were written while the upstream was silent, when"
                    " their stream has ended. They keep agents waiting: many of them"
                    " with few chunks is an upstream that hangs.",
                    "cps",
                    (
                        Query(
                            rate(semconv.KEEPALIVES, [semconv.EXCHANGE_DIALECT]),
                            legend(semconv.EXCHANGE_DIALECT),
                        ),
                    ),
                    width=24,
                ),
            ),
        ),
    ),
)
