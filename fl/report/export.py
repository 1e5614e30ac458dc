"""The facts as files for other programs: JSON, CSV for spreadsheets and data frames, PNG for slides."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from fl import __version__
from fl.files import write_atomic
from fl.report import picture, view, words
from fl.report.facts import Answer, Facts, Format, Round
from fl.report.measured import SIMULATED

JSON_FORMAT = 1
"""Version of the JSON file's keys; adding a key does not change it."""


def write_files(
    facts: Facts, formats: Sequence[Format], directory: Path, *, file: Path | None = None
) -> list[tuple[Format, Path]]:
    """Write the facts in some formats, each as a whole or not at all.

    Args:
        facts: What to write.
        formats: Which.
        directory: Where: ``report.html``, ``report.json``, ``report-rounds.csv`` and ``report-sites.csv``,
            ``report.png``.
        file: The file instead, if there is one format; the two of ``csv`` are named after it.

    Returns:
        Format and path of each file.

    Raises:
        ConfigError: If ``png`` is asked for and matplotlib is not there.
        StorageError: If a file cannot be written.
    """
    makers: dict[Format, list[tuple[str, Callable[[Facts], str | bytes]]]] = {
        "html": [("", _html)],
        "json": [("", as_json)],
        "csv": [("-rounds", rounds_csv), ("-sites", sites_csv)],
        "png": [("", picture.draw)],
    }
    assert file is None or len(formats) == 1
    if "png" in formats:
        picture.require_matplotlib()
    written: list[tuple[Format, Path]] = []
    for name in formats:
        path = file or directory / f"report.{name}"
        for part, make in makers[name]:
            target = path.with_name(f"{path.stem}{part}{path.suffix}")
            write_atomic(target, make(facts))
            written.append((name, target))
    return written


def as_json(facts: Facts) -> str:
    """The facts as a JSON document: ``format``, ``fedfleet``, and the fields of ``fl.report.facts.Facts``.

    Numbers that are not finite are ``null``. In ``answers``, keys without a value are left out, because there is one
    answer a site, round and phase.
    """
    document = {"format": JSON_FORMAT, "fedfleet": __version__, **_plain(facts)}
    return json.dumps(document, ensure_ascii=False, allow_nan=False) + "\n"


def rounds_csv(facts: Facts) -> str:
    """A row a round. Columns of metrics are named ``<place>_<metric>``, e.g. ``centre_loss``."""
    metrics = [(place, name) for place in words.PLACES for name in view.metric_names(facts.rounds)]
    metrics = [key for key in metrics if any(entry.metric(*key) is not None for entry in facts.rounds)]
    plain = [field.name for field in dataclasses.fields(Round) if field.name not in ("attempts", "measured", "answers")]
    last = ("online", "wanted", "quorum", "deadline_s", "because")
    header = [*plain, "attempts", *last, *(f"{place}_{name}" for place, name in metrics)]
    rows = (
        [
            *(getattr(entry, name) for name in plain),
            len(entry.attempts),
            *(getattr(entry.attempts[-1], name) for name in last),
            *(entry.metric(*key) for key in metrics),
        ]
        for entry in facts.rounds
    )
    return table_csv(header, rows)


def sites_csv(facts: Facts) -> str:
    """A row a request: round, phase, attempt, site, and what came of it.

    Metrics are named ``metric_<metric>``, what a simulation says of its sites ``simulated_<key>``.
    """
    answers = [*facts.initialisation, *(answer for entry in facts.rounds for answer in entry.answers)]
    plain = [field.name for field in dataclasses.fields(Answer) if field.name not in ("metrics", "simulated")]
    names = sorted({name for answer in answers for name in answer.metrics})
    told = [name for name in SIMULATED if any(name in answer.simulated for answer in answers)]
    rows = (
        [
            *(getattr(answer, name) for name in plain),
            *(answer.metrics.get(name) for name in names),
            *(answer.simulated.get(name) for name in told),
        ]
        for answer in answers
    )
    return table_csv([*plain, *(f"metric_{name}" for name in names), *(f"simulated_{name}" for name in told)], rows)


def table_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table for spreadsheets: a text that begins like a formula stays a text."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([_cell(name) for name in header])
    writer.writerows([_cell(value) for value in row] for row in rows)
    return text.getvalue()


def _html(facts: Facts) -> str:
    from fl.report.page import render

    return render(facts)


def _plain(value: Any) -> Any:
    """Dataclasses as mappings, times as text, numbers that JSON does not know as nothing."""
    if isinstance(value, Answer):
        fields = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {name: _plain(entry) for name, entry in fields if entry not in (None, {})}
    if dataclasses.is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: object) -> object:
    """A spreadsheet takes a text that begins like a formula for one; an apostrophe before it makes it a text again."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r", "\n")):
        return f"'{value}"
    return f"{value:.9g}" if isinstance(value, float) else value
