"""Write every generated file: ``python -m dashboards.generate``."""

import json
import sys
from pathlib import Path
from typing import Final

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from dashboards.alerts.rules import grafana_rules, prometheus_rules
from dashboards.boards import BOARDS
from dashboards.panels import build
from dashboards.provisioning import datasources, providers
from dashboards.reference import reference

ROOT: Final = Path(__file__).parent.parent


def generated() -> dict[str, str]:
    """Return the text of every generated file, by its path in the repository."""
    boards = {
        f"dashboards/{name}.json": as_json(build(item)) for name, item in BOARDS.items()
    }
    return {
        **boards,
        "docs/telemetry.md": reference(),
        "dashboards/alerts/otel-intercept.rules.yaml": prometheus_rules(),
        "dashboards/provisioning/dashboards/otel-intercept.yaml": providers(),
        "dashboards/provisioning/datasources/otel-intercept.yaml": datasources(),
        "dashboards/provisioning/alerting/otel-intercept.yaml": grafana_rules(),
    }


def as_json(dashboard: Dashboard) -> str:
    """Return a dashboard as Grafana loads it."""
    for variable in dashboard.templating.list_val or ():
        # The SDK gives every variable what only variables of intervals can have.
        variable.auto = variable.auto_min = variable.auto_count = None
    return json.dumps(dashboard, cls=JSONEncoder, indent=2) + "\n"


def main() -> int:
    """Write what differs, and say so."""
    for name, text in generated().items():
        path = ROOT / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
