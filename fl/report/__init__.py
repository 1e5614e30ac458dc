"""What a run was: a page for people, and files for programs, from its journal alone.

``facts`` says what there is to know, ``gather`` reads it from a journal, ``page`` draws it, ``export`` writes it as
JSON, CSV and PNG.
"""

from __future__ import annotations

from pathlib import Path

from fl.files import write_atomic

__all__ = ["write"]


def write(directory: Path, *, out: Path | None = None) -> Path:
    """Write the report of a journal as one HTML page that needs nothing else.

    Args:
        directory: The journal; it may be written meanwhile.
        out: The file; ``report.html`` in the journal's directory without it.

    Returns:
        The file's path.

    Raises:
        JournalError: If it is not a journal, or damaged.
        StorageError: If the file cannot be written; a report that was there before stays.
    """
    from fl.report.gather import gather
    from fl.report.page import render

    path = directory / "report.html" if out is None else out
    write_atomic(path, render(gather(directory)))
    return path
