"""The page of simulations: one HTML file that needs nothing else, with the look of a deployed run's report."""

from __future__ import annotations

import dataclasses
import datetime
import functools
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import jinja2
from markupsafe import Markup

from fl import __version__
from fl.report import view, words
from fl.report.charts import Chart
from fl.report.facts import Facts
from fl.report.page import asset, environment, policy
from fl.report.view import ConfigRow, Tile
from simulations.report import curves, tables
from simulations.report.comparison import Comparison, seeds_of
from simulations.report.concerns import called, concerns
from simulations.report.curves import MOST_LINES, Drawn, panels, spread
from simulations.report.tables import MOST_METRICS, MOST_RUNS
from simulations.report.variants import Stat
from simulations.scenario import SIMULATION, Scenario

PACKAGE = "simulations.report"

MOST_CONCERNS = 40
"""What needs attention; a sweep may fail a thousand times for one reason."""


def render(comparison: Comparison, *, title: str) -> str:
    """The page.

    Args:
        comparison: What is on it.
        title: Its name.
    """
    script = asset("page.js")
    style = asset("page.css") + asset("page.css", PACKAGE)
    trials, drawn = comparison.trials, drawn_of(comparison)
    return (
        _template()
        .render(
            title=title,
            comparison=comparison,
            status=status(comparison),
            script=Markup(script),  # noqa: S704  # our own files, not what a run says
            style=Markup(style),  # noqa: S704
            policy=policy(script, style),
            generated=datetime.datetime.now(datetime.UTC),
            version=__version__,
            tasks=list(dict.fromkeys(trial.facts.run.task for trial in trials)),
            strategies=list(dict.fromkeys(trial.facts.run.strategy for trial in trials)),
            seeds=[str(seed) for seed in seeds_of(comparison.lines)],
            tiles=tiles(comparison),
            concerns=concerns(comparison)[:MOST_CONCERNS],
            keys={variant.label: key for key, variant in drawn},
            variant_table=tables.variant_table(comparison),
            best=comparison.best,
            curves=[
                (name, place, [panel.chart() for panel in panels(drawn, place, name)])
                for name, place in list(comparison.metrics.items())[:MOST_METRICS]
            ],
            places=words.PLACES,
            reach_tables=tables.reach_tables(comparison),
            fairness_table=tables.fairness_table(comparison),
            spreads=spreads(comparison),
            run_table=tables.run_table(comparison),
            settings_table=tables.settings_table(comparison),
            config_of=called(trials[0]) if trials else "",
            config_tables=config_tables(trials[0].facts) if trials else [],
            left_out=left_out(comparison),
        )
        .lstrip()
    )


def status(comparison: Comparison) -> str:
    """The one status of all runs, else that of the worst of them."""
    seen = {trial.facts.run.status for trial in comparison.trials}
    order = ("failed", "stopped", "interrupted", "running", "created", "completed")
    return min(seen, key=lambda word: order.index(word) if word in order else len(order))


def tiles(comparison: Comparison) -> list[Tile]:
    """The numbers at the top: of the variant that is best in the end, and of all runs together."""
    trials, best, metric = comparison.trials, comparison.best, comparison.metric
    kinds = words.plural(len(comparison.lines), "variant"), words.plural(len(seeds_of(comparison.lines)), "seed")
    found = [Tile("runs", words.count(len(trials)), ", ".join(kinds))]
    if best and metric:
        of = best.variant.label if len(comparison.lines) > 1 else ""
        share = partial(words.metric, metric)
        found.append(_tile(f"{'best ' if of else ''}{metric}", best.final[metric], share, of))
        found += [
            _tile(label, stat, text, under)
            for label, stat, text, under in (
                ("worst tenth of sites", best.worst_decile, share, of),
                ("simulated time", best.simulated_s, words.seconds, "a run"),
                ("traffic", best.size_bytes, words.size, "of training, a run"),
                ("energy", best.energy_j, words.energy, "of training, a run"),
            )
            if stat is not None
        ]
    wall_s = sum(trial.wall_s for trial in trials)
    rounds = sum(len(trial.points) for trial in trials)
    speed = f"{rounds / wall_s:.3g} rounds a second" if wall_s > 0 else ""
    found.append(Tile("computed in", words.seconds(wall_s), speed))
    return found


def _tile(label: str, stat: Stat, text: Callable[[float | None], str], under: str) -> Tile:
    deviation = f"± {text(stat.std)}" if stat.count > 1 and stat.low != stat.high else ""
    return Tile(label, text(stat.mean), ", ".join(filter(None, [deviation, under])))


def drawn_of(comparison: Comparison) -> Drawn:
    """The variants that have a colour."""
    if comparison.metric is None or comparison.place is None:
        return []
    return curves.drawn_of(comparison.variants, comparison.place, comparison.metric)


def spreads(comparison: Comparison) -> list[Chart]:
    """The spread over the sites of the variants that are drawn."""
    if comparison.metric is None:
        return []
    charts = (spread(variant, comparison.metric) for _, variant in drawn_of(comparison))
    return [chart for chart in charts if chart]


def config_tables(facts: Facts) -> list[tuple[str, str, list[ConfigRow]]]:
    """The tables of the run file, then those that a simulation adds."""
    tables = dict(facts.config)
    added = {name: table for name, table in (tables.pop(SIMULATION, None) or {}).items() if table}
    return [
        *view.config_tables(dataclasses.replace(facts, config=tables)),
        *view.config_tables(dataclasses.replace(facts, config=added), Scenario),
    ]


def left_out(comparison: Comparison) -> dict[str, str]:
    """What is not on the page, by section."""
    found = {}
    number = len(comparison.lines)
    if (troubles := len(concerns(comparison))) > MOST_CONCERNS:
        found["concerns"] = f"The {MOST_CONCERNS} gravest of {words.count(troubles)} are here."
    if number > MOST_LINES:
        found["curves"] = f"The {MOST_LINES} best of {words.count(number)} variants are drawn; the tables have all."
    if len(comparison.metrics) > MOST_METRICS:
        found["metrics"] = f"The first {MOST_METRICS} of {len(comparison.metrics)} metrics are here."
    if len(comparison.trials) > MOST_RUNS:
        found["runs"] = f"The first {MOST_RUNS} of {words.count(len(comparison.trials))} runs are here."
    return found


def title_of(directories: Sequence[Path]) -> str:
    """The page's name: that of the one directory, or of the first and how many more."""
    return words.names([directory.resolve().name for directory in directories], 2)


@functools.cache
def _template() -> jinja2.Template:
    return environment(PACKAGE).get_template("page.html")
