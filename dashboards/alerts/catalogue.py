"""Every alert that we ship, with its thresholds.

An outcome that is nobody's error (cancelled, agent_gone, clean_stop, rejected) stands
in no query: it neither pages nor dilutes a share.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from dashboards.alerts.model import Alert, Component, Severity
from dashboards.alerts.recorded import (
    ACTIVE,
    ERROR_TYPE,
    EXCHANGES_ENDING,
    EXCHANGES_JUDGED,
    FAILURES_BY_CLASS,
    ROLLOUTS_FAILED,
    ROLLOUTS_JUDGED,
)
from dashboards.names import INSTANCE, SERVICE, label_of, names_of
from dashboards.promql import BY_JOB, at_most, gained, matching, series, total
from otel_intercept import semconv
from otel_intercept.semconv import ErrorType, ExchangeOutcome, Fate

OBJECTIVE: Final = 0.99
"""The share of rollouts that should not fail."""

STALLED_GAP_S: Final = 60.0
"""Seconds of silence between two chunks from which a stream counts as stalled."""

_MODEL: Final = label_of(semconv.GEN_AI_REQUEST_MODEL)
_DIALECT: Final = label_of(semconv.EXCHANGE_DIALECT)
_SIGNAL: Final = label_of(semconv.RECORD_SIGNAL)
_ON_JOB: Final = f"on ({', '.join(BY_JOB)})"


class Burn(NamedTuple):
    """How fast the error budget may go before somebody is told.

    Args:
        speed: What the burn is called.
        severity: Who is told.
        factor: Multiple of the budget; times the budget it is a share of rollouts.
        long: The window that must be bad.
        short: The window that must be bad still, so that the alert ends soon.
        least: Rollouts that the long window must have, so that it takes three failures.
    """

    speed: str
    severity: Severity
    factor: float
    long: str
    short: str
    least: int


BURNS: Final = (
    Burn("fast", Severity.PAGE, 14.4, "1h", "5m", 20),
    # Five per cent: what the field calls a run that is not worth its night.
    Burn("medium", Severity.PAGE, 5, "2h", "10m", 50),
    Burn("slow", Severity.TICKET, 1, "1d", "2h", 200),
)

CLASS_TIERS: Final = ((Severity.PAGE, 0.25), (Severity.TICKET, 0.05))


def _burning(burn: Burn) -> Alert:
    share = round(burn.factor * (1 - OBJECTIVE), 6)
    return Alert(
        name="InterceptRolloutsFailing",
        slug=f"rollouts-failing-{burn.speed}",
        severity=burn.severity,
        component=Component.ROLLOUTS,
        query=(
            f"{ROLLOUTS_FAILED[burn.long].name} / {ROLLOUTS_JUDGED[burn.long].name}"
            f" > {share:g}\n"
            f"and {ROLLOUTS_FAILED[burn.short].name}"
            f" / {ROLLOUTS_JUDGED[burn.short].name} > {share:g}\n"
            f"and {ROLLOUTS_JUDGED[burn.long].name} >= {burn.least}"
        ),
        hold="2m",
        labels={"burn": burn.speed},
        summary=(
            "{{ $value | humanizePercentage }} of the rollouts of {{ $labels.job }}"
            " failed"
        ),
        description=(
            f"Over {burn.long}, and over the last {burn.short} still, more than"
            f" {share:.1%} of the rollouts that completed or failed had failed. Their"
            " rewards say nothing of the policy."
        ),
    )


def _class_rate(severity: Severity, share: float) -> Alert:
    judged = EXCHANGES_JUDGED.name
    return Alert(
        name="InterceptFailureClassRate",
        slug=f"failure-class-rate-{severity.value}",
        severity=severity,
        component=Component.UPSTREAM,
        query=(
            f"{FAILURES_BY_CLASS.name} / {_ON_JOB} group_left () {judged} > {share:g}\n"
            f"and {_ON_JOB} {judged} >= 20"
        ),
        hold="5m",
        summary=(
            "{{ $labels.error_type }} in {{ $value | humanizePercentage }} of the"
            " exchanges of {{ $labels.job }}"
        ),
        description=(
            f"For 5 minutes, there was this failure for more than {share:.0%} of the"
            " exchanges that were answered or failed in 10 minutes."
        ),
    )


def _alerts() -> Iterator[Alert]:
    yield from map(_burning, BURNS)
    for severity, share in CLASS_TIERS:
        yield _class_rate(severity, share)
    yield _silent_empty()
    yield _new_class()
    yield _stalled()
    yield _streams_stalling()
    yield _absent()
    yield _dropping()
    yield _auth()


def _silent_empty() -> Alert:
    silent = matching(
        semconv.EXCHANGES, semconv.EXCHANGE_OUTCOME, (ExchangeOutcome.SILENT_EMPTY,)
    )
    exchanges = series(names_of(semconv.EXCHANGES).sample, silent)
    return Alert(
        name="InterceptSilentEmpty",
        slug="silent-empty",
        severity=Severity.PAGE,
        component=Component.ROLLOUTS,
        query=f"{total((*BY_JOB, _DIALECT), gained(exchanges, '15m'))} > 0",
        hold="0s",
        summary=(
            "Agents of {{ $labels.job }} got a clean, empty answer for a call that"
            " failed"
        ),
        description=(
            "In 15 minutes, about {{ $value | humanize }} exchanges with the"
            " {{ $labels.intercept_exchange_dialect }} dialect ended so. The agent"
            " noticed nothing: if the training loop does not halt these rollouts, it"
            " learns from them."
        ),
    )


def _new_class() -> Alert:
    recorded = FAILURES_BY_CLASS.name
    return Alert(
        name="InterceptNewFailureClass",
        slug="new-failure-class",
        severity=Severity.INFO,
        component=Component.UPSTREAM,
        query=f"{recorded} > 0\nunless max_over_time({recorded}[7d] offset 15m) > 0",
        hold="0s",
        summary="First {{ $labels.error_type }} of {{ $labels.job }} in a week",
        description=(
            "No failure of this class had been counted for this job in the 7 days"
            " before. A new class often comes with a new version of something."
        ),
    )


def _stalled() -> Alert:
    return Alert(
        name="InterceptRolloutsStalled",
        slug="rollouts-stalled",
        severity=Severity.PAGE,
        component=Component.ROLLOUTS,
        query=f"{ACTIVE.name} > 0\nand {EXCHANGES_ENDING.name} == 0",
        hold="25m",
        summary=(
            "{{ $value | humanize }} rollouts of {{ $labels.job }} are open and none"
            " moves"
        ),
        description=(
            "No exchange has been answered, or has failed, for 30 minutes. Agents that"
            " leave without an answer do not count as progress."
        ),
    )


def _streams_stalling() -> Alert:
    names = names_of(semconv.MAX_GAP)
    by = (*BY_JOB, _MODEL)
    quick = series(names.bucket, at_most(semconv.MAX_GAP, STALLED_GAP_S))
    streams = total(by, f"increase({names.count}[15m])")
    return Alert(
        name="InterceptStreamsStalling",
        slug="streams-stalling",
        severity=Severity.TICKET,
        component=Component.UPSTREAM,
        query=(
            f"1 - {total(by, f'increase({quick}[15m])')} / {streams} > 0.05\n"
            f"and {streams} >= 20"
        ),
        hold="5m",
        summary=(
            "{{ $value | humanizePercentage }} of the streams of"
            " {{ $labels.gen_ai_request_model }} stall"
        ),
        description=(
            f"That share of the streams that ended in 15 minutes was silent for more"
            f" than {STALLED_GAP_S:g} s between two chunks; keepalives do not count."
        ),
    )


def _absent() -> Alert:
    active = names_of(semconv.ROLLOUTS_ACTIVE).sample
    by = (*BY_JOB, INSTANCE)
    return Alert(
        name="InterceptTelemetryAbsent",
        slug="telemetry-absent",
        severity=Severity.PAGE,
        component=Component.TELEMETRY,
        query=(
            f"max by ({', '.join(by)}) (last_over_time({active}[1h])) > 0\n"
            f"unless on ({SERVICE}, {INSTANCE}) last_over_time({active}[10m])"
        ),
        hold="0s",
        summary=(
            "{{ $labels.job }} went silent with {{ $value | humanize }} rollouts open"
        ),
        description=(
            "Nothing has been heard of instance {{ $labels.instance }} for 10 minutes:"
            " it was killed, or its telemetry does not arrive and other alerts are"
            " blind. An instance that shuts down in order closes its rollouts first."
        ),
    )


def _dropping() -> Alert:
    names = names_of(semconv.RECORDS)
    by = (*BY_JOB, _SIGNAL)
    lost = matching(semconv.RECORDS, semconv.RECORD_FATE, (Fate.FAILED, Fate.DROPPED))
    ended = total(by, gained(names.sample, "15m"))
    return Alert(
        name="InterceptTelemetryDropping",
        slug="telemetry-dropping",
        severity=Severity.TICKET,
        component=Component.TELEMETRY,
        query=(
            f"{total(by, gained(series(names.sample, lost), '15m'))}\n"
            f"/ {ended} > 0.01\nand {ended} >= 100"
        ),
        hold="0s",
        summary=(
            "{{ $labels.job }} loses {{ $value | humanizePercentage }} of its"
            " {{ $labels.intercept_record_signal }}"
        ),
        description=(
            "In 15 minutes, more than 1% of what had ended was refused by the exporter"
            " or found no room in the queue. Counters of outcomes and failures stay"
            " exact; traces are missing."
        ),
    )


def _auth() -> Alert:
    auth = matching(semconv.FAILURES, semconv.ERROR_TYPE, (ErrorType.UPSTREAM_AUTH,))
    failures = series(names_of(semconv.FAILURES).sample, auth)
    return Alert(
        name="InterceptUpstreamAuth",
        slug="upstream-auth",
        severity=Severity.PAGE,
        component=Component.UPSTREAM,
        query=f"{total((*BY_JOB, ERROR_TYPE), gained(failures, '30m'))} >= 3",
        hold="0s",
        summary="The upstream refuses the credentials of {{ $labels.job }}",
        description=(
            "About {{ $value | humanize }} calls in 30 minutes. This does not heal by"
            " itself: a key was revoked, has expired, or is out of credit."
        ),
    )


ALERTS: Final = tuple(_alerts())
