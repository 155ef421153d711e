"""Put the latest figures into docs/performance.md: ``python -m bench.page``.

What stands between the two marks is written here, so that no figure is typed by hand.
"""

from pathlib import Path
from typing import Final

from bench.chart import bars
from bench.processes import ROOT
from bench.results import LATEST, Results
from bench.table import markdown
from bench.variants import OURS

PAGE: Final = ROOT / "docs" / "performance.md"
IMAGES: Final = ROOT / "docs" / "images"
_BEGIN: Final = "<!-- figures: written by python -m bench.page -->\n"
_END: Final = "<!-- end of figures -->\n"


def written(page: str, results: Results) -> str:
    """Return the page with these figures in the place of those that it has."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    tables = "\n\n".join(markdown(one) for one in results.tables.values())
    machine = ", ".join(f"{name} {what}" for name, what in results.machine.items())
    images = "\n".join(
        f"![{path.stem.replace('-', ' ')}](images/{path.name})"
        for path in charts(results)
    )
    parts = (f"Measured on: {machine}.", images, tables)
    figures = "\n\n".join(part for part in parts if part)
    return f"{before}{_BEGIN}\n{figures}\n\n{_END}{after}"


def charts(results: Results) -> dict[Path, str]:
    """Return the charts of these figures, by where they belong."""
    drawn: dict[Path, str] = {}
    if (figures := results.tables.get("json2k-16")) is not None:
        drawn[IMAGES / "cost-cpu.svg"] = bars(
            figures,
            "CPU in total",
            ours=OURS,
            title="CPU time of a 2 KB request, bare handler = 1",
            alt="CPU time of a 2 KB request as ratio to the bare handler, by library",
        )
    if (figures := results.tables.get("instructions")) is not None:
        drawn[IMAGES / "cost-instructions.svg"] = bars(
            figures,
            "total",
            ours=OURS,
            title="Instructions of a 2 KB request, bare handler = 1",
            alt="Instructions of a 2 KB request as ratio to the bare handler",
        )
    return drawn


def main() -> None:
    """Write page and charts anew."""
    results = Results.load(LATEST)
    page = written(PAGE.read_text(encoding="utf-8"), results)
    PAGE.write_text(page, encoding="utf-8")
    for path, chart in charts(results).items():
        path.write_text(chart, encoding="utf-8")


if __name__ == "__main__":
    main()
