"""Instructions per request, against the bare handler: ``python -m bench.instructions``.

They hardly depend on how busy the machine is, so a change can be judged by them.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.callgrind import Counts, count
from bench.processes import BenchError
from bench.scenes import SCENES
from bench.variants import ALL, BARE, missing, python_of

_COLUMNS: Final = ("loop", "server", "helpers", "total")


def measure(
    variants: Sequence[str], workload: str, *, keep: Path | None = None
) -> dict[str, Counts]:
    """Count the variants under one workload; leave out, aloud, what cannot run."""
    counts: dict[str, Counts] = {}
    for variant in variants:
        reason = missing(variant)
        if reason is not None:
            print(f"SKIPPED {variant}: {reason}", file=sys.stderr)
            continue
        counts[variant] = count(variant, workload, python=python_of(variant), keep=keep)
    return counts


def table(workload: str, counts: Mapping[str, Counts]) -> Table:
    """Lay counts out as ratios to bare."""
    shown = Table(title=f"{workload}: instructions per request, bare = 1")
    for name in ("variant", *_COLUMNS, "count of loop"):
        shown.add_column(name, justify="left" if name == "variant" else "right")
    bare = counts[BARE]
    for variant, one in counts.items():
        shown.add_row(
            variant,
            f"{one.loop / bare.loop:.3f}",
            f"{one.server / bare.total:.3f}",
            f"{one.helpers / bare.total:.3f}",
            f"{one.total / bare.total:.3f}",
            f"{one.loop:,.0f}",
        )
    return shown


def main() -> None:
    """Count, print the table, write the figures."""
    parser = argparse.ArgumentParser(prog="bench.instructions", description=__doc__)
    parser.add_argument(
        "--variants",
        default="bare,off,unsampled,thread",
        help="a list, of: " + ",".join(ALL),
    )
    parser.add_argument(
        "--workload", default="json2k", help="a list, of: " + ",".join(SCENES)
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keep", type=Path, help="where callgrind's files stay")
    args = parser.parse_args()
    variants = list(dict.fromkeys([BARE, *args.variants.split(",")]))
    figures: dict[str, dict[str, dict[str, float]]] = {}
    console = Console()
    try:
        for workload in args.workload.split(","):
            counts = measure(variants, workload, keep=args.keep)
            console.print(table(workload, counts))
            figures[workload] = {
                variant: {name: round(getattr(one, name)) for name in _COLUMNS}
                for variant, one in counts.items()
            }
    except BenchError as problem:
        sys.exit(f"bench: {problem}")
    if args.json is not None:
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
