"""The facts as the page shows them: charts, tables, and a timeline for each of the newest rounds.

What grows with rounds × sites is bounded here, and ``left_out`` says what is not on the page; the CSV and JSON files
have everything.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, get_args, get_type_hints

from fl.config import field_docs
from fl.report import charts, words
from fl.report.charts import Band, Chart, Series
from fl.report.facts import SEVERITY, Facts, Outcome, Place, Round, SiteSummary
from fl.report.prices import Prices
from fl.rounds.config import RunConfig

MOST_METRICS = 9
"""Charts of metrics."""

MOST_COLUMNS = 500
"""Columns of a site's strip; more rounds than this share one, which shows the worst of them."""

MOST_ROUNDS = 1000
"""Rows of the table of rounds."""

MOST_SITES = 500
"""Rows of the table of sites."""

OUTCOMES: dict[Outcome, str] = {
    "answered": "answered: in the model",
    "spare": "not waited for: enough others had answered",
    "late": "answered after the round was closed",
    "silent": "no answer by the deadline",
    "failed": "failed",
    "dropped": "damaged on disk, asked again",
    "waiting": "under way",
}
"""Each outcome in words, from the best to the worst but for the last, which is not known yet."""

LETTERS: dict[Outcome, str] = {
    "answered": "a",
    "spare": "e",
    "late": "l",
    "silent": "s",
    "failed": "f",
    "dropped": "d",
    "waiting": "w",
}
"""Each outcome as the script knows it; a dot is a round in which the site was not asked."""

STRIP_BOX: dict[Outcome, tuple[int, int]] = {
    "answered": (0, 10),
    "failed": (0, 10),
    "dropped": (2, 8),
    "late": (4, 6),
    "silent": (7, 3),
}
"""Top and height of a cell, out of ten, so that outcomes differ without their colour too."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """A number that matters, large."""

    label: str
    value: str
    under: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class Strip:
    """A site's rounds as a row of cells: a path for each outcome, and a letter a cell for the script."""

    paths: tuple[tuple[str, str], ...]
    letters: str


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under headings."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True, slots=True)
class ConfigRow:
    """A key of the run file; ``is_default`` is ``None`` where defaults belong to the task or strategy."""

    key: str
    value: str
    doc: str
    is_default: bool | None


def tiles(facts: Facts) -> list[Tile]:
    """The numbers at the top."""
    run = facts.run
    took = [entry.ended_s - entry.opened_s for entry in facts.rounds if entry.folded_s is not None]
    found = [
        Tile(
            "rounds",
            f"{words.count(run.rounds_committed)} of {words.count(run.rounds_planned)}",
            f"{words.seconds(statistics.median(took))} each, in the median" if took else "",
        ),
        *headlines(facts),
    ]
    asked = sum(entry.cohort for entry in facts.rounds)
    survivors = sum(entry.survivors for entry in facts.rounds)
    share = f"{100 * survivors / asked:.0f} % of what was asked was answered" if asked else ""
    found.append(Tile("sites", words.count(len(facts.sites)), share))
    examples = [entry.num_examples for entry in facts.rounds if entry.num_examples is not None]
    if examples:
        found.append(Tile("examples", words.count(examples[-1]), "behind the newest model"))
    pauses = len(run.sessions) - 1
    found.append(
        Tile("time", words.seconds(run.active_s), f"without {words.plural(pauses, 'pause')}" if pauses > 0 else "")
    )
    sent = sum(entry.sent_bytes for entry in facts.rounds)
    received = sum(entry.received_bytes for entry in facts.rounds)
    found.append(
        Tile(
            "sent to sites",
            words.size(sent),
            f"received {words.size(received)}, a model is {words.size(run.model_bytes)}",
        )
    )
    cores = [site.cpu_s for site in facts.sites if site.cpu_s is not None]
    if cores:
        found.append(Tile("CPU time of training", words.seconds(sum(cores)), f"at {words.plural(len(cores), 'site')}"))
    energy = [site.energy_j for site in facts.sites if site.energy_j is not None]
    if energy:
        found.append(Tile("energy of GPUs", words.energy(sum(energy)), f"at {words.plural(len(energy), 'site')}"))
    if facts.cost is not None:
        found.append(Tile("cost", f"{facts.cost:.2f} {facts.prices.currency}", _prices(facts.prices)))
    return found


def _prices(prices: Prices) -> str:
    named = {"kWh": prices.kwh, "GPU-hour": prices.gpu_hour, "core-hour": prices.cpu_hour, "GiB": prices.gib}
    return ", ".join(f"{value:g} a {name}" for name, value in named.items() if value)


def headlines(facts: Facts) -> list[Tile]:
    """The newest accuracy and loss, from the most telling place that has them."""
    found = []
    for name in ("accuracy", "loss"):
        for place in reversed(words.PLACES):
            values = [(entry.number, v) for entry in facts.rounds if (v := entry.metric(place, name)) is not None]
            if values:
                number, value = values[-1]
                at = {"centre": "at the centre", "sites": "at the sites", "training": "while training"}[place]
                found.append(Tile(name, words.metric(name, value), f"{at}, after round {number}"))
                break
    return found


def metric_names(rounds: Sequence[Round]) -> list[str]:
    """Every metric that was measured anywhere: loss, accuracy, then by name."""
    found = {name for entry in rounds for measured in entry.measured.values() for name in measured.metrics}
    return sorted(found, key=lambda name: (name != "loss", name != "accuracy", name))


def curves(facts: Facts) -> list[Chart]:
    """A chart a metric, a line a place where it was measured."""
    numbers = [entry.number for entry in facts.rounds]
    found = []
    for name in metric_names(facts.rounds)[:MOST_METRICS]:
        series = []
        for place, title in words.PLACES.items():
            values = [entry.metric(place, name) for entry in facts.rounds]
            if any(value is not None for value in values):
                ends = [_ends(entry, place, name) for entry in facts.rounds]
                band = Band([low for low, _ in ends], [high for _, high in ends])
                series.append(Series(place, title, values, [band] if band.lowest != band.highest else []))
        unit = " (per cent of examples)" if words.is_share(name) else ""
        found.append(charts.lines(name + unit, numbers, series, partial(words.metric, name)))
    return found


def round_charts(facts: Facts) -> list[Chart]:
    """Who answered, how long it took, what travelled."""
    rounds = facts.rounds
    if not rounds:
        return []
    numbers = [entry.number for entry in rounds]
    who = [
        Series("answered", "answered", [entry.survivors for entry in rounds]),
        *(Series(key, key, [getattr(entry, key) for entry in rounds]) for key in ("spare", "late", "silent", "failed")),
        Series("waiting", "under way", [entry.waiting for entry in rounds]),
    ]
    when = [
        Series("training", "waiting for updates", [entry.training_s for entry in rounds]),
        Series("folding", "folding them into the model", [entry.folding_s for entry in rounds]),
        Series("sites", "evaluation", [entry.evaluation_s for entry in rounds]),
    ]
    what = [
        Series("sent", "sent to sites", [entry.sent_bytes for entry in rounds]),
        Series("received", "received from sites", [entry.received_bytes for entry in rounds]),
    ]
    sizes = [1024.0**power for power in range(5)]
    return [
        charts.bars("sites asked", numbers, who, words.count, whole=True),
        charts.bars("time", numbers, when, words.seconds, units=(0.001, 1.0, 60.0, 3600.0)),
        charts.bars("traffic", numbers, what, words.size, units=sizes),
    ]


def outcomes_seen(facts: Facts) -> dict[Outcome, str]:
    """The legend of the strips: what came of any request, in words."""
    seen = {outcome for site in facts.sites for outcome in site.outcomes.values()}
    return {outcome: text for outcome, text in OUTCOMES.items() if outcome in seen}


def strip(site: SiteSummary, rounds: Sequence[Round]) -> Strip:
    """What came of each round at a site."""
    width = -(-len(rounds) // MOST_COLUMNS)
    cells: list[Outcome | None] = []
    for start in range(0, len(rounds), width):
        numbers = [entry.number for entry in rounds[start : start + width]]
        outcomes = [site.outcomes[number] for number in numbers if number in site.outcomes]
        cells.append(_gravest(outcomes) if outcomes else None)
    gap = 0.08 if len(cells) <= 60 else 0.0
    paths: dict[Outcome, list[str]] = {}
    start = 0
    while start < len(cells):
        stop = start + 1
        while gap == 0 and stop < len(cells) and cells[stop] == cells[start]:
            stop += 1
        if outcome := cells[start]:
            top, height = STRIP_BOX.get(outcome, (3, 4))
            paths.setdefault(outcome, []).append(f"M{start + gap:g} {top}H{stop - gap:g}v{height}H{start + gap:g}z")
        start = stop
    letters = "".join(LETTERS[outcome] if outcome else "." for outcome in cells)
    return Strip(tuple((outcome, "".join(path)) for outcome, path in paths.items()), letters)


def round_table(facts: Facts) -> Table:
    """The newest rounds in numbers."""
    measured: list[tuple[Place, str]] = [
        (place, name)
        for name in metric_names(facts.rounds)[:MOST_METRICS]
        for place in words.PLACES
        if any(entry.metric(place, name) is not None for entry in facts.rounds)
    ]
    shorter = {"training": "training", "sites": "at sites", "centre": "at centre"}
    columns = (
        *("round", "state", "answered", "missing", "quorum"),
        *(f"{name}, {shorter[place]}" for place, name in measured),
        *("examples", "waiting for updates", "folding", "evaluation", "sent", "received", "attempts", "closed because"),
    )
    rows = tuple(
        (
            str(entry.number),
            entry.state,
            f"{words.count(entry.survivors)} of {words.count(entry.cohort)}",
            _missing(entry),
            str(entry.attempts[-1].quorum),
            *(words.metric(name, entry.metric(place, name)) for place, name in measured),
            words.count(entry.num_examples),
            words.seconds(entry.training_s),
            words.seconds(entry.folding_s),
            words.seconds(entry.evaluation_s),
            words.size(entry.sent_bytes),
            words.size(entry.received_bytes),
            str(len(entry.attempts)),
            entry.attempts[-1].because or words.NOTHING,
        )
        for entry in reversed(facts.rounds[-MOST_ROUNDS:])
    )
    return Table(columns, rows)


def sites_shown(facts: Facts) -> tuple[SiteSummary, ...]:
    """The sites of the table: all, or those with the most trouble."""
    if len(facts.sites) <= MOST_SITES:
        return facts.sites
    worst = sorted(facts.sites, key=lambda site: (site.answered - site.asked, -site.failed_evaluations, site.name))
    return tuple(sorted(worst[:MOST_SITES], key=lambda site: site.name))


def site_metrics(sites: Sequence[SiteSummary]) -> list[tuple[Place, str]]:
    """Columns of the table of sites: loss and accuracy where they were measured, else the first metrics there are."""
    found: list[tuple[Place, str]] = []
    places: tuple[Place, ...] = ("sites", "training")
    for place in places:
        names = {name for site in sites for name in site.metrics.get(place, {})}
        found += [(place, name) for name in sorted(names, key=lambda n: (n != "accuracy", n != "loss", n))[:2]]
    return found


def config_tables(facts: Facts, schema: type = RunConfig) -> list[tuple[str, str, list[ConfigRow]]]:
    """The run file, or tables of another schema, one at a time: its name, what it is, its keys."""
    known, about = get_type_hints(schema), field_docs(schema)
    found = []
    for name in sorted(facts.config, key=lambda name: [*known].index(name) if name in known else len(known)):
        table = facts.config[name]
        cls = next(
            (one for one in (known.get(name), *get_args(known.get(name))) if dataclasses.is_dataclass(one)), None
        )
        docs: dict[str, str] = {}
        defaults: dict[str, Any] = {}
        if isinstance(cls, type):
            docs = field_docs(cls)
            defaults = {field.name: field.default for field in dataclasses.fields(cls)}
        rows = [
            ConfigRow(key, _toml(value), docs.get(key, ""), value == defaults[key] if key in defaults else None)
            for key, value in (table if isinstance(table, dict) else {name: table}).items()
        ]
        found.append((name, about.get(name, ""), rows))
    return found


def _gravest(outcomes: Iterable[Outcome]) -> Outcome:
    return max(outcomes, key=SEVERITY.__getitem__)


def _toml(value: Any) -> str:
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def _ends(entry: Round, place: Place, name: str) -> tuple[float | None, float | None]:
    measured = entry.measured.get(place)
    return (measured.lowest.get(name), measured.highest.get(name)) if measured else (None, None)


def _missing(entry: Round) -> str:
    counts = [f"{getattr(entry, key)} {key}" for key in ("failed", "silent", "late", "spare") if getattr(entry, key)]
    return ", ".join(counts) or words.NOTHING
