"""Write what tells Grafana of its data sources and dashboards, and how they link."""

from typing import Final

from dashboards.alerts.rules import FOLDER, PROMETHEUS_UID, Yaml, dump
from dashboards.names import ENVIRONMENT, SERVICE, label_of, names_of
from dashboards.panels import JAEGER_UID
from otel_intercept import semconv

TEMPO_UID: Final = "otel-intercept-tempo"

_TAGS: Final = "$__tags"
_FAILURES: Final = names_of(semconv.FAILURES).sample
_ROLLOUTS: Final = names_of(semconv.ROLLOUTS).sample
_EXCHANGES: Final = names_of(semconv.EXCHANGE_DURATION).bucket

LINKED_QUERIES: Final = {
    "Failures by class": f"sum by ({label_of(semconv.ERROR_TYPE)})"
    f" (rate({_FAILURES}{{{_TAGS}}}[5m]))",
    "Rollouts by outcome": f"sum by ({label_of(semconv.ROLLOUT_OUTCOME)})"
    f" (increase({_ROLLOUTS}{{{_TAGS}}}[15m]))",
    "Exchange duration p95": "histogram_quantile(0.95, sum by (le)"
    f" (rate({_EXCHANGES}{{{_TAGS}}}[5m])))",
}
"""What a trace links to: the metrics of the job that it is from, around its time."""


def datasources() -> str:
    """Return the data sources; their addresses come from Grafana's environment."""
    return dump(
        {
            "apiVersion": 1,
            "datasources": [
                {
                    "name": "Prometheus (otel_intercept)",
                    "uid": PROMETHEUS_UID,
                    "type": "prometheus",
                    "access": "proxy",
                    "url": "${PROMETHEUS_URL}",
                    "jsonData": {
                        "httpMethod": "POST",
                        "exemplarTraceIdDestinations": [
                            {
                                "name": "trace_id",
                                "datasourceUid": JAEGER_UID,
                                "urlDisplayLabel": "Jaeger",
                            },
                            {
                                "name": "trace_id",
                                "datasourceUid": TEMPO_UID,
                                "urlDisplayLabel": "Tempo",
                            },
                        ],
                    },
                },
                _traces("Jaeger", JAEGER_UID, "jaeger", "${JAEGER_URL}"),
                _traces("Tempo", TEMPO_UID, "tempo", "${TEMPO_URL}"),
            ],
        }
    )


def providers() -> str:
    """Return where Grafana finds the dashboards."""
    return dump(
        {
            "apiVersion": 1,
            "providers": [
                {
                    "name": FOLDER,
                    "folder": FOLDER,
                    "type": "file",
                    "allowUiUpdates": False,
                    "updateIntervalSeconds": 30,
                    "options": {"path": "/etc/grafana/dashboards"},
                }
            ],
        }
    )


def _traces(name: str, uid: str, kind: str, url: str) -> Yaml:
    return {
        "name": f"{name} (otel_intercept)",
        "uid": uid,
        "type": kind,
        "access": "proxy",
        "url": url,
        "jsonData": {
            "tracesToMetrics": {
                "datasourceUid": PROMETHEUS_UID,
                "spanStartTimeShift": "-10m",
                "spanEndTimeShift": "10m",
                "tags": [
                    {"key": "service.name", "value": SERVICE},
                    {"key": "deployment.environment.name", "value": ENVIRONMENT},
                ],
                "queries": [
                    # Grafana reads a single $ as a variable of its environment.
                    {"name": title, "query": query.replace("$", "$$")}
                    for title, query in LINKED_QUERIES.items()
                ],
            },
        },
    }
