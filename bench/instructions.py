"""Instructions per request, against the bare handler: ``python -m bench.instructions``.

They hardly depend on how busy the machine is, so a change can be judged by them.
``--check`` compares them with ``bench/baseline.json`` and fails when one has grown.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from bench import check
from bench.callgrind import Counts, count
from bench.figures import least
from bench.processes import BenchError
from bench.scenes import SCENES
from bench.variants import ALL, BARE, available, python_of

_COLUMNS: Final = ("loop", "server", "helpers", "total")


def measure(
    variants: Sequence[str], workload: str, *, keep: Path | None = None
) -> dict[str, Counts]:
    """Count the variants under one workload; leave out, aloud, what cannot run."""
    able = available(variants)
    # Counts bear company, so that no core has to wait.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        counts = pool.map(
            lambda one: count(one, workload, python=python_of(one), keep=keep), able
        )
        return dict(zip(able, counts, strict=True))


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


def _check() -> bool:
    tries: list[dict[str, float]] = []
    plan = check.PLAN
    while True:
        tries.append({})
        for workload, variants in plan.items():
            counts = measure(variants, workload)
            Console().print(table(workload, counts))
            tries[-1] |= check.ratios(workload, counts)
        worse = check.compare(least(tries))
        if not worse or len(tries) == check.TRIES:
            check.report(worse)
            return not worse
        # What disturbs a count only adds to it: what was worse gets another try.
        plan = _again({one.figure for one in worse})


def _again(figures: set[str]) -> dict[str, Sequence[str]]:
    plan: dict[str, list[str]] = {}
    for figure in sorted(figures):
        workload, variant, _ = figure.split("/")
        variants = plan.setdefault(workload, [BARE])
        if variant not in variants:
            variants.append(variant)
    return {**plan}


def _update() -> None:
    figures: dict[str, float] = {}
    bare: dict[str, int] = {}
    for workload, variants in check.PLAN.items():
        counts = measure(variants, workload)
        Console().print(table(workload, counts))
        figures |= check.ratios(workload, counts)
        bare[workload] = round(counts[BARE].total)
    check.write(figures, bare)


def _show(
    variants: Sequence[str],
    workloads: Sequence[str],
    to: Path | None,
    keep: Path | None,
) -> None:
    figures: dict[str, dict[str, dict[str, float]]] = {}
    for workload in workloads:
        counts = measure(variants, workload, keep=keep)
        Console().print(table(workload, counts))
        figures[workload] = {
            variant: {name: round(getattr(one, name)) for name in _COLUMNS}
            for variant, one in counts.items()
        }
    if to is not None:
        to.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Count, print the table, write the figures."""
    parser = argparse.ArgumentParser(prog="bench.instructions", description=__doc__)
    parser.add_argument(
        "--variants",
        default="bare,off,unsampled,thread,process",
        help="a list, of: " + ",".join(ALL),
    )
    parser.add_argument(
        "--workload", default="json2k", help="a list, of: " + ",".join(SCENES)
    )
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--keep", type=Path, help="where callgrind's files stay")
    parser.add_argument("--check", action="store_true", help="compare with baseline")
    parser.add_argument("--update", action="store_true", help="make a new baseline")
    args = parser.parse_args()
    variants = list(dict.fromkeys([BARE, *args.variants.split(",")]))
    try:
        if args.update:
            _update()
        elif args.check:
            sys.exit(0 if _check() else 1)
        else:
            _show(variants, args.workload.split(","), args.json, args.keep)
    except BenchError as problem:
        sys.exit(f"bench: {problem}")


if __name__ == "__main__":
    main()
