"""What simulations came to: one page for people, a table of variants, and files for other programs.

``find`` says which runs a directory holds, ``trial`` reads one of them, ``variants`` puts those together that differ in
their seed alone, ``comparison`` sets them side by side; ``page`` draws that, ``plot`` too, ``export`` writes every
measurement as a data frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fl.files import write_atomic

if TYPE_CHECKING:
    from simulations.report.comparison import Comparison

__all__ = ["NAME", "compare", "write"]

NAME = "simulation.html"
"""The page's file, unless it is given another."""


def compare(
    directories: Path | Sequence[Path], *, metric: str | None = None, target: float | None = None
) -> Comparison:
    """The variants of some runs side by side.

    Args:
        directories: Journals, and directories of sweeps; they may be written meanwhile.
        metric: What to compare them by; accuracy, loss or the first there is without it.
        target: Value of the metric whose price is told; the best that all runs reached without it.

    Raises:
        JournalError: If one is no journal and holds none, or cannot be read.
        ConfigError: If no run measured the metric, or the target is no value that it can have.
    """
    from simulations.report import comparison
    from simulations.report.find import find

    return comparison.compare(find(directories), metric=metric, target=target)


def write(
    directories: Path | Sequence[Path],
    *,
    out: Path | None = None,
    metric: str | None = None,
    target: float | None = None,
) -> Path:
    """Write the report of some runs as one HTML page that needs nothing else.

    Args:
        directories: Journals, and directories of sweeps; they may be written meanwhile.
        out: The file; without it ``simulation.html`` in the one directory, or in the working directory if there are
            several.
        metric: As for ``compare``.
        target: As for ``compare``.

    Returns:
        The file's path.

    Raises:
        JournalError, ConfigError: As ``compare`` does.
        StorageError: If the file cannot be written; a report that was there before stays.
    """
    from simulations.report.page import render, title_of

    given = [directories] if isinstance(directories, Path) else list(directories)
    path = out or (given[0] / NAME if len(given) == 1 else Path(NAME))
    write_atomic(path, render(compare(given, metric=metric, target=target), title=title_of(given)))
    return path
