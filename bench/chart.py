"""Draw figures as bars, in SVG that reads well on light and dark pages."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Final

from bench.results import Figures, Value

_WIDTH: Final = 760
_LABEL: Final = 150
_NUMBER: Final = 150
_BAR: Final = 18
_STEP: Final = 26
_TOP: Final = 44
_OURS: Final = "#2f81f7"
_OTHERS: Final = "#8b949e"
_STYLE: Final = (
    "text{font:13px sans-serif;fill:#24292f}"
    ".title{font-weight:600;font-size:15px}"
    "@media(prefers-color-scheme:dark){text{fill:#e6edf3}}"
)


def bars(
    figures: Figures, column: str, *, ours: Sequence[str], title: str, alt: str
) -> str:
    """Draw one column of a table, a bar for each row, the least first.

    Args:
        figures: The table.
        column: Which column.
        ours: The rows that get the colour.
        title: What the bars show.
        alt: The same for who does not see them.
    """
    values = {row: _middle(cells[column]) for row, cells in figures.rows.items()}
    rows = sorted(values, key=lambda row: values[row])
    height = _TOP + _STEP * len(rows) + 8
    size = f'viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" {size}>',
        f"<title>{escape(alt)}</title>",
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="8" y="24">{escape(title)}</text>',
    ]
    for place, row in enumerate(rows):
        lines += _row(figures, column, row, values, place=place, ours=row in ours)
    return "\n".join([*lines, "</svg>", ""])


def _row(
    figures: Figures,
    column: str,
    row: str,
    values: Mapping[str, float],
    *,
    place: int,
    ours: bool,
) -> list[str]:
    room = _WIDTH - _LABEL - _NUMBER
    length = round(room * values[row] / max(values.values()), 1)
    top = _TOP + _STEP * place
    text = top + _BAR - 4
    size = f'width="{length}" height="{_BAR}" rx="3"'
    fill = _OURS if ours else _OTHERS
    value = escape(figures.text(row, column))
    return [
        f'<text x="{_LABEL - 8}" y="{text}" text-anchor="end">{escape(row)}</text>',
        f'<rect x="{_LABEL}" y="{top}" {size} fill="{fill}"/>',
        f'<text x="{_LABEL + length + 8}" y="{text}">{value}</text>',
    ]


def _middle(value: Value) -> float:
    return value if isinstance(value, (int, float)) else value[1]
