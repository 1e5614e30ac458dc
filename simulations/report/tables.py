"""The tables of the page: variants, what a value costs, how sites differ, and each run."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Callable
from functools import partial

from fl.report import words
from fl.report.view import Table
from simulations.report import phrases
from simulations.report.comparison import Comparison
from simulations.report.concerns import called
from simulations.report.reach import THRESHOLDS, reached
from simulations.report.variants import Stat, text_of

MOST_METRICS = 6
"""Metrics that have a column and charts of their own."""

PRICES = ("rounds", "traffic", "simulated time", "energy")
"""What a value costs."""

MOST_RUNS = 500
"""Rows of the table of runs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sortable:
    """A table, and the numbers behind its cells, by which the page sorts it; ``None`` for a text."""

    table: Table
    numbers: tuple[tuple[float | None, ...], ...]


def variant_table(comparison: Comparison) -> Sortable:
    """A row a variant, with its figures over the seeds."""
    metrics = list(comparison.metrics)[:MOST_METRICS]
    costs: dict[str, tuple[str, Callable[..., str]]] = {
        "rounds": ("rounds", partial(phrases.over_seeds, text=phrases.number)),
        "size_bytes": ("traffic", phrases.of_size),
        "simulated_s": ("simulated time", partial(phrases.over_seeds, text=words.seconds)),
        "energy_j": ("energy", phrases.of_energy),
        "wall_s": ("computed in", partial(phrases.over_seeds, text=words.seconds)),
    }
    shown = [name for name in costs if any(getattr(line, name) for line in comparison.lines)]
    is_fair = any(line.worst_decile for line in comparison.lines)
    columns = [
        *("variant", "seeds", *metrics),
        *(["worst tenth of sites"] if is_fair else []),
        *(costs[name][0] for name in shown),
    ]
    rows, numbers = [], []
    for line in comparison.lines:
        seeds = len(line.variant.seeds)
        stats = [*(line.final.get(name) for name in metrics), *([line.worst_decile] if is_fair else [])]
        of_metrics = [*metrics, *([str(comparison.metric)] if is_fair else [])]
        texts = [phrases.of_metric(name, stat, of=seeds) for name, stat in zip(of_metrics, stats, strict=True)]
        texts += [costs[name][1](getattr(line, name), of=seeds) for name in shown]
        stats += [getattr(line, name) for name in shown]
        rows.append((line.variant.label, str(seeds), *texts))
        numbers.append((None, seeds, *(stat.mean if stat else 0.0 for stat in stats)))
    return Sortable(Table(tuple(columns), tuple(rows)), tuple(numbers))


def comparison_table(comparison: Comparison) -> Table:
    """The same in short, for the terminal: with the price of the target instead of that of the whole run."""
    metric = comparison.metric
    metrics = [metric] if metric and metric in comparison.metrics else []
    columns = ["variant", "seeds", *metrics, "worst tenth", "rounds", *(f"{name} to reach" for name in PRICES)]
    rows = []
    for line in comparison.lines:
        seeds = len(line.variant.seeds)
        rows.append((
            line.variant.label,
            str(seeds),
            *(phrases.of_metric(name, line.final.get(name), of=seeds) for name in metrics),
            phrases.of_metric(str(metric), line.worst_decile, of=seeds),
            phrases.over_seeds(line.rounds, phrases.number),
            *phrases.prices(line.reached, of=seeds),
        ))  # fmt: skip
    return without_empty(Table(tuple(columns), tuple(rows)))


def without_empty(table: Table) -> Table:
    """A table without the columns that say nothing of anyone."""
    kept = [i for i in range(len(table.columns)) if any(row[i] != words.NOTHING for row in table.rows)]
    return Table(tuple(table.columns[i] for i in kept), tuple(tuple(row[i] for i in kept) for row in table.rows))


def reach_tables(comparison: Comparison) -> list[tuple[str, Table]]:
    """What the value that was asked for, or that all reached, and the usual ones cost: a heading and a table each.

    A run alone has one table with a row a value.
    """
    metric, place = comparison.metric, comparison.place
    if metric is None or place is None:
        return []
    usual = THRESHOLDS if words.is_share(metric) else ()
    found: list[tuple[str, tuple[tuple[str, ...], ...]]] = []
    for target in dict.fromkeys([*([] if comparison.target is None else [comparison.target]), *usual]):
        steps = [(line.variant, reached(line.variant, place, metric, target)) for line in comparison.lines]
        if target == comparison.target or any(step.count for _, step in steps):
            rows = tuple(
                (one.label, f"{step.count} of {len(one.seeds)}", *phrases.prices(step, of=len(one.seeds)))
                for one, step in steps
            )
            found.append((phrases.target(comparison, target), rows))
    if len(comparison.lines) == 1:
        table = Table(("value", "reached by", *PRICES), tuple((title, *rows[0][1:]) for title, rows in found))
        return [("", without_empty(table))] if found else []
    columns = ("variant", "reached by", *PRICES)
    return [(title, without_empty(Table(columns, rows))) for title, rows in found]


def fairness_table(comparison: Comparison) -> Table | None:
    """How the sites of each variant differ, at its last model that was evaluated there."""
    metric = comparison.metric
    lines = [line for line in comparison.lines if line.fairness]
    if metric is None or not lines:
        return None
    columns = (
        "variant",
        "sites measured",
        f"{metric}, worst tenth",
        "worst site",
        "standard deviation over sites",
        "who",
    )
    rows = []
    for line in lines:
        fair, seeds = line.fairness.values(), len(line.variant.seeds)
        worst = dict.fromkeys(one.worst_site for one in fair)
        rows.append((
            line.variant.label,
            phrases.sites_behind(line),
            phrases.of_metric(metric, line.worst_decile, of=seeds),
            phrases.of_metric(metric, Stat.of(one.worst for one in fair)),
            phrases.of_metric(metric, Stat.of(one.std for one in fair)),
            words.names(list(worst), 4),
        ))  # fmt: skip
    return Table(columns, tuple(rows))


def run_table(comparison: Comparison) -> Table:
    """A row a run."""
    metric, place = comparison.metric, comparison.place
    columns = (
        "run",
        "variant",
        "seed",
        "status",
        "rounds",
        *([metric] if metric and place else []),
        "computed in",
        "report",
    )
    rows = []
    for line in comparison.lines:
        for trial in line.variant.trials:
            run = trial.facts.run
            rows.append((
                called(trial),
                line.variant.label,
                str(run.seed),
                run.status,
                f"{run.rounds_committed} of {run.rounds_planned}",
                *([words.metric(metric, trial.final(place, metric))] if metric and place else []),
                words.seconds(trial.wall_s),
                f"fl report {shlex.quote(str(trial.directory))}",
            ))  # fmt: skip
    return Table(columns, tuple(rows[:MOST_RUNS]))


def settings_table(comparison: Comparison) -> Table | None:
    """What sets the variants apart; ``None`` if there is but one."""
    if len(comparison.lines) < 2:
        return None
    names = list(comparison.lines[0].variant.settings)
    rows = (
        (line.variant.label, *(text_of(line.variant.settings[name]) for name in names)) for line in comparison.lines
    )
    return Table(("variant", *names), tuple(rows))
