"""Show figures: in the terminal, and as Markdown."""

from rich.table import Table

from bench.results import Figures


def terminal(figures: Figures) -> Table:
    """Return a table for the terminal."""
    shown = Table(title=figures.name, title_justify="left")
    shown.add_column("")
    for column in figures.columns:
        shown.add_column(column, justify="right")
    for row in figures.rows:
        shown.add_row(row, *(figures.text(row, one) for one in figures.columns))
    return shown


def markdown(figures: Figures) -> str:
    """Return a table for a page."""
    lines = [
        f"**{figures.name}**",
        "",
        "| | " + " | ".join(figures.columns) + " |",
        "|---|" + "---:|" * len(figures.columns),
    ]
    for row in figures.rows:
        cells = " | ".join(figures.text(row, one) for one in figures.columns)
        lines.append(f"| {row} | {cells} |")
    return "\n".join(lines)
