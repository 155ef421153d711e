"""The figures of one run: tables of numbers, kept as JSON."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final, TypeAlias

Value: TypeAlias = "float | Sequence[float]"
"""One number, or first quartile, median and third quartile."""

LATEST: Final = Path(__file__).parent / "results" / "latest.json"
_CPUINFO: Final = Path("/proc/cpuinfo")
_MEMINFO: Final = Path("/proc/meminfo")


@dataclass(frozen=True, slots=True)
class Figures:
    """One table.

    Args:
        name: What it shows, and in which unit.
        rows: Values by column, by row. A row may lack a column.
        digits: Digits behind the point.
    """

    name: str
    rows: Mapping[str, Mapping[str, Value]]
    digits: int = 2

    @property
    def columns(self) -> list[str]:
        """All columns, in the order in which rows have them."""
        return list(dict.fromkeys(name for row in self.rows.values() for name in row))

    def text(self, row: str, column: str) -> str:
        """Return a value as it is shown."""
        value = self.rows[row].get(column)
        if value is None:
            return ""
        if isinstance(value, (int, float)):
            return f"{value:,.{self.digits}f}"
        first, middle, third = (f"{one:,.{self.digits}f}" for one in value)
        return f"{middle} ({first}-{third})"


@dataclass(frozen=True, slots=True)
class Results:
    """All tables of a run, by section, and what it ran on."""

    machine: Mapping[str, str]
    tables: dict[str, Figures] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it all as JSON."""
        content = {
            "machine": dict(self.machine),
            "tables": {
                key: {"name": one.name, "digits": one.digits, "rows": one.rows}
                for key, one in self.tables.items()
            },
        }
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Results":
        """Read what `save` wrote."""
        content = json.loads(path.read_text(encoding="utf-8"))
        tables = {key: Figures(**one) for key, one in content["tables"].items()}
        return cls(content["machine"], tables)


def machine() -> dict[str, str]:
    """Describe this machine by what matters here; neither names nor paths."""
    return {
        "processor": _field(_CPUINFO, "model name") or platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": _field(_MEMINFO, "MemTotal"),
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "python": platform.python_version(),
        "aiohttp": version("aiohttp"),
        "opentelemetry-sdk": version("opentelemetry-sdk"),
    }


def _field(path: Path, name: str) -> str:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    found = (line.partition(":")[2].strip() for line in lines if line.startswith(name))
    return next(found, "")
