"""What every benchmark prints: one row a measurement, beside its baseline, its limit and its target."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Iterable


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement.

    ``baseline`` is the same work done by something else, ``limit`` what the machine allows, both measured in the same
    run; ``target`` is in words; ``met`` says whether ``value`` meets it.
    """

    row: str
    value: float
    unit: str
    baseline: str
    limit: str
    target: str
    met: bool


def main(description: str, measurements: Iterable[Callable[[bool], Iterable[Row]]]) -> None:
    """Run the measurements named on the command line (all of them without names) and print their rows."""
    by_name = {measure.__name__: measure for measure in measurements}
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which of: {', '.join(by_name)}")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, within a minute; not for quoting")
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    options = parser.parse_args()
    unknown = set(options.names) - set(by_name)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    for name in options.names or by_name:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        rows.extend(by_name[name](options.quick))
    if options.json:
        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=2))
    else:
        print_table(rows)


def print_table(rows: list[Row]) -> None:
    """Rows as a Markdown table."""
    columns = [field.name for field in dataclasses.fields(Row)]
    cells = [columns, *([_cell(getattr(row, column)) for column in columns] for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    print(lines[0], "| " + " | ".join("-" * width for width in widths) + " |", *lines[1:], sep="\n")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
