"""The dashboard *Telemetry health*: whether what is measured arrives."""

from typing import Final

from dashboards.names import INSTANCE, names_of
from dashboards.panels import RANGE, RATE, SCOPE, Board, Panel, Query, Row
from dashboards.promql import matching, series, total
from dashboards.queries import gauge, increase, legend, rate
from otel_intercept import semconv
from otel_intercept.semconv import RECORDS, Fate, Signal

_TRACES: Final = matching(RECORDS, semconv.RECORD_SIGNAL, (Signal.TRACES,))
_METRICS: Final = matching(RECORDS, semconv.RECORD_SIGNAL, (Signal.METRICS,))
_LOST: Final = matching(RECORDS, semconv.RECORD_FATE, (Fate.FAILED, Fate.DROPPED))
_OPEN_EACH: Final = series(names_of(semconv.RECORDS_OPEN).sample, *SCOPE)


def _ended(by: tuple[str, ...], *matchers: str) -> str:
    return total(by, series(names_of(RECORDS).sample, *SCOPE, *matchers))


_STARTED: Final = total((), series(names_of(semconv.RECORDS_STARTED).sample, *SCOPE))
_OPEN: Final = gauge(semconv.RECORDS_OPEN, ())
_QUEUED: Final = gauge(semconv.RECORDS_QUEUED, ())


def _own(name: str, suffix: str) -> str:
    # The collector's telemetry settings decide whether its own names have suffixes.
    return f'{{__name__=~"otelcol_{name}(_{suffix})?"}}'


_ACCEPTED: Final = _own("receiver_accepted_spans", "total")
_REFUSED: Final = _own("receiver_refused_spans", "total")
_SENT: Final = _own("exporter_sent_spans", "total")
_MEMORY: Final = _own("process_memory_rss", "bytes")

TELEMETRY_HEALTH: Final = Board(
    "intercept-telemetry",
    "Telemetry health",
    "Does what is measured arrive? Look here before you trust the other two.",
    (
        Row(
            "Balance sheet",
            (
                Panel(
                    "Unexplained records",
                    "started - open - queued - exported - failed - dropped. Always 0;"
                    " otherwise this library has a bug that we want to hear of.",
                    "short",
                    (
                        Query(
                            f"{_STARTED} - {_OPEN} - {_QUEUED} - {_ended((), _TRACES)}",
                            "records",
                        ),
                    ),
                    single=True,
                    width=6,
                    alarm=1,
                ),
                Panel(
                    "Lost",
                    "Share of the ended records and points of this time range that were"
                    " refused or dropped. Above 1 %: runbook"
                    " InterceptTelemetryDropping.",
                    "percentunit",
                    (
                        Query(
                            f"{increase(RECORDS, (), _LOST, window=RANGE)}"
                            f" / {increase(RECORDS, (), window=RANGE)}",
                            "lost",
                        ),
                    ),
                    single=True,
                    width=6,
                    warn=0.001,
                    alarm=0.01,
                ),
                Panel(
                    "Queued",
                    "Records that have ended and wait for export. Near"
                    " OTEL_BSP_MAX_QUEUE_SIZE (65,536): the collector is too slow.",
                    "short",
                    (Query(_QUEUED, "queued"),),
                    single=True,
                    width=6,
                    warn=10_000,
                    alarm=50_000,
                ),
                Panel(
                    "Instances heard of",
                    "Processes that report. Fewer than run: their exporter is off"
                    " (OTEL_METRICS_EXPORTER), or points elsewhere.",
                    "short",
                    (
                        Query(
                            f"count({_OPEN_EACH})",
                            "instances",
                        ),
                    ),
                    single=True,
                    width=6,
                ),
                Panel(
                    "Where records are",
                    "open + queued + exported + failed + dropped = started. Bands that"
                    " should be thin: queued, failed and dropped.",
                    "short",
                    (
                        Query(
                            _ended((names_of(RECORDS).labels[1],), _TRACES),
                            legend(semconv.RECORD_FATE),
                        ),
                        Query(_OPEN, "open"),
                        Query(_QUEUED, "queued"),
                    ),
                    stacked=True,
                ),
                Panel(
                    "Records begun and ended",
                    "Both lines go together, but for rollouts that are still open."
                    " Begun without ended: rollouts or exchanges hang.",
                    "cps",
                    (
                        Query(rate(semconv.RECORDS_STARTED, ()), "begun"),
                        Query(rate(RECORDS, (), _TRACES), "ended"),
                    ),
                ),
            ),
        ),
        Row(
            "Exporters",
            (
                Panel(
                    "Records by fate",
                    "failed: the collector refuses or is down; dropped: the queue was"
                    " full. What is lost here is missing in traces, never in counters.",
                    "cps",
                    (
                        Query(
                            rate(RECORDS, [semconv.RECORD_FATE], _TRACES),
                            legend(semconv.RECORD_FATE),
                        ),
                    ),
                ),
                Panel(
                    "Metric points by fate",
                    "Only while metrics are pushed; a failed point is sent again with"
                    " the next export, since counters are cumulative.",
                    "cps",
                    (
                        Query(
                            rate(RECORDS, [semconv.RECORD_FATE], _METRICS),
                            legend(semconv.RECORD_FATE),
                        ),
                    ),
                ),
                Panel(
                    "Queue by instance",
                    "A saw-tooth is normal. One that only rises is an exporter that"
                    " hangs: look at the log of that instance.",
                    "short",
                    (
                        Query(
                            total(
                                (INSTANCE,),
                                series(names_of(semconv.RECORDS_QUEUED).sample, *SCOPE),
                            ),
                            f"{{{{{INSTANCE}}}}}",
                        ),
                    ),
                ),
                Panel(
                    "Open records by instance",
                    "Rollouts and exchanges that have begun and not ended. One that"
                    " only rises: rollouts that nobody closes.",
                    "short",
                    (
                        Query(
                            total(
                                (INSTANCE,),
                                _OPEN_EACH,
                            ),
                            f"{{{{{INSTANCE}}}}}",
                        ),
                    ),
                ),
            ),
        ),
        Row(
            "Collector",
            (
                Panel(
                    "Spans received",
                    "Refused is the memory limiter at work: give the collector more"
                    " memory, or more replicas.",
                    "cps",
                    (
                        Query(
                            f"sum by (receiver) (rate({_ACCEPTED}[{RATE}]))",
                            "accepted · {{receiver}}",
                        ),
                        Query(
                            f"sum by (receiver) (rate({_REFUSED}[{RATE}]))",
                            "refused · {{receiver}}",
                        ),
                    ),
                ),
                Panel(
                    "Spans sent on",
                    "By exporter. Fewer than received: the queue below fills, and what"
                    " does not fit is lost.",
                    "cps",
                    (
                        Query(
                            f"sum by (exporter) (rate({_SENT}[{RATE}]))",
                            "{{exporter}}",
                        ),
                    ),
                ),
                Panel(
                    "Exporter queues",
                    "Share of each queue that is in use. Near 100 %: the backend is"
                    " down or too slow; the persistent queue keeps it over a restart.",
                    "percentunit",
                    (
                        Query(
                            "max by (exporter, data_type) (otelcol_exporter_queue_size"
                            " / otelcol_exporter_queue_capacity)",
                            "{{exporter}} · {{data_type}}",
                        ),
                    ),
                    warn=0.5,
                    alarm=0.9,
                    top=1,
                ),
                Panel(
                    "Memory of the collector",
                    "Near the limit of memory_limiter it refuses data: see Spans"
                    " received.",
                    "bytes",
                    (
                        Query(
                            f"sum by (instance) ({_MEMORY})",
                            "{{instance}}",
                        ),
                    ),
                ),
            ),
        ),
    ),
    variables=("service", "environment"),
)
