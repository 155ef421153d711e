"""Measure everything: ``python -m bench [--quick] [--only json,sse]``."""

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

from bench.processes import BenchError
from bench.results import LATEST, Results, machine
from bench.sections import QUICK, QUICKLY, SECTIONS, WHOLE
from bench.table import terminal


def main() -> None:
    """Run the sections that are asked for; show their tables, keep their figures."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument(
        "--only",
        help=f"a list, of: {','.join(SECTIONS)}; with --quick {','.join(QUICKLY)}",
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="where the figures are put; those there of other sections stay "
        f"(default: {LATEST.name} in bench/results, with --quick nowhere)",
    )
    args = parser.parse_args()
    every = QUICKLY if args.quick else tuple(SECTIONS)
    asked = args.only.split(",") if args.only else every
    if unknown := set(asked) - set(SECTIONS):
        parser.error(f"{len(unknown)} unknown section(s); known: {', '.join(SECTIONS)}")
    to = args.json or (None if args.quick else LATEST)
    kept = Results.load(to).tables if to is not None and to.exists() else {}
    results = Results(machine(), kept)
    # A pipe has no width of its own, and the tables need this one.
    console = Console(width=max(Console().width, 110))
    for section in asked:
        start = time.monotonic()
        try:
            for key, figures in SECTIONS[section](QUICK if args.quick else WHOLE):
                console.print(terminal(figures))
                results.tables[key] = figures
        except BenchError as problem:
            sys.exit(f"bench: {problem}")
        console.print(f"{section}: {time.monotonic() - start:.0f} s\n")
        if to is not None:
            results.save(to)


if __name__ == "__main__":
    main()
