"""How the ``fl`` command speaks: results to stdout, everything else to stderr, one line an error.

Errors follow one shape: ``fl: error: <what and where>``, then ``fl: hint: <what to type>``; lower case, no full stop.
With ``--json`` the result is one JSON document on stdout, and an error is one too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from fl.errors import FLError

out = Console(highlight=False, emoji=False)
err = Console(stderr=True, highlight=False, emoji=False)


WIDEST = 10_000
"""Columns that a table may have; a terminal wraps what is wider than itself."""


def say(text: str) -> None:
    """One line of progress, on stderr."""
    err.print(text, markup=False, soft_wrap=True)


def report_error(error: FLError, *, as_json: bool = False) -> None:
    """Print an error and its hint in the one shape that all commands share."""
    if as_json:
        print_json(error.as_dict())
        return
    err.print(f"[bold red]fl: error:[/] {_escape(error.message)}", soft_wrap=True)
    if error.hint:
        err.print(f"[bold]fl: hint:[/] {_escape(error.hint)}", soft_wrap=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, title: str | None = None) -> None:
    """A plain table on stdout, as wide as its cells: a path that is cut short helps nobody."""
    table = Table(*columns, title=title, box=None, header_style="bold", pad_edge=False, show_header=any(columns))
    for row in rows:
        table.add_row(*(_escape(cell) for cell in row))
    width = Measurement.get(out, out.options.update(max_width=WIDEST), table).maximum
    Console(file=out.file, width=width, highlight=False, emoji=False).print(table)


def human_bytes(size_bytes: float) -> str:
    """A size for people: ``1.4 MiB``.

    Example:
        >>> human_bytes(512), human_bytes(1_500_000)
        ('512 B', '1.4 MiB')
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    power = 0
    while size_bytes >= 1024 and power < len(units) - 1:
        size_bytes, power = size_bytes / 1024, power + 1
    return f"{size_bytes:.0f} B" if power == 0 else f"{size_bytes:.1f} {units[power]}"


def human_seconds(seconds: float) -> str:
    """A duration for people: ``2 min 05 s``.

    Example:
        >>> human_seconds(0.25), human_seconds(125)
        ('0.2 s', '2 min 05 s')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _escape(text: str) -> str:
    return text.replace("[", r"\[")
