"""The charts of simulations: a line a variant with bands over its seeds, and how far its sites are apart."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from fl.report import words
from fl.report.charts import ROUNDS, Along, Band, Chart, Series, lines
from fl.report.facts import Place
from simulations.report.trial import F64, Point, badness, is_better_higher
from simulations.report.variants import Stat, Variant

MOST_LINES = 8
"""As many colours as can be told apart; further variants are in the tables only."""

RUNAWAY = 5.0
"""A loss that is higher than so many times what the variants begin with, in the median, has run away."""

GRID = 60
"""Places along time or bytes at which the seeds of a variant are compared."""

QUANTILES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)

SECONDS = (1.0, 60.0, 3600.0)
BYTES = tuple(1024.0**power for power in range(6))

HOURS = Along("simulated time", words.seconds, lambda at_s: f"after {words.seconds(at_s)}", words.seconds, SECONDS)
TRAVELLED = Along("traffic", words.size, lambda size: f"after {words.size(size)}", words.size, BYTES)


@dataclasses.dataclass(frozen=True, slots=True)
class Panel:
    """Lines of some variants, before they are drawn.

    Attributes:
        metric: What they are of.
        place: Where it was measured.
        along: What the columns count.
        columns: Rising.
        series: One a variant.
        note: What is not drawn.
    """

    metric: str
    place: Place
    along: Along
    columns: Sequence[float]
    series: Sequence[Series]
    note: str = ""

    @property
    def title(self) -> str:
        """What it shows, with the unit."""
        unit = " (per cent of examples)" if words.is_share(self.metric) and self.along is ROUNDS else ""
        return f"{self.metric}{unit} by {self.along.name}"

    def chart(self) -> Chart:
        """For the page."""
        text = partial(words.metric, self.metric)
        chart = lines(self.title, self.columns, self.series, text, along=self.along)
        return dataclasses.replace(chart, note="; ".join(filter(None, [chart.note, self.note])))

    def cut(self) -> Panel:
        """Without the values of a loss that ran away, beside which no other could be told apart."""
        firsts = [next(value for value in one.values if value is not None) for one in self.series]
        limit = RUNAWAY * float(np.median(firsts))
        if is_better_higher(self.metric) or limit <= 0:
            return self
        kept = [_below(one, limit) for one in self.series]
        gone = [one.name for one, less in zip(self.series, kept, strict=True) if one != less]
        if not gone:
            return self
        note = f"above {words.metric(self.metric, limit)} nothing is drawn: {words.names(gone, MOST_LINES)}"
        return dataclasses.replace(
            self, series=[one for one in kept if any(v is not None for v in one.values)], note=note
        )


Drawn = Sequence[tuple[str, Variant]]
"""Variants, each with the key of its colour."""


def panels(drawn: Drawn, place: Place, metric: str) -> tuple[Panel, ...]:
    """A metric of some variants by round, by simulated time if there is any, and by traffic."""
    there = [(key, one) for key, one in drawn if any(trial.measures(place, metric) for trial in one.trials)]
    if not there:
        return ()
    found = [Panel(metric, place, ROUNDS, *_by_round(there, place, metric))]
    if all(trial.is_timed for _, variant in there for trial in variant.trials):
        found.append(Panel(metric, place, HOURS, *_along(there, place, metric, lambda point: point.at_s)))
    found.append(Panel(metric, place, TRAVELLED, *_along(there, place, metric, lambda point: point.size_bytes)))
    return tuple(panel.cut() for panel in found)


def drawn_of(variants: Sequence[Variant], place: Place, metric: str) -> Drawn:
    """The variants that are drawn, the same everywhere; those that end best, if there are more than colours."""
    measured = [one for one in variants if any(trial.measures(place, metric) for trial in one.trials)]
    if len(measured) > MOST_LINES:

        def rank(variant: Variant) -> float:
            last = Stat.of(trial.final(place, metric) for trial in variant.trials)
            return badness(metric, last.mean) if last else math.inf

        best = sorted(measured, key=rank)[:MOST_LINES]
        measured = [one for one in measured if one in best]
    return [(f"v{number}", one) for number, one in enumerate(measured)]


def spread(variant: Variant, metric: str) -> Chart | None:
    """Quantiles over the honest sites of all seeds, by round; ``None`` if none was measured at the sites."""
    rounds = sorted({number for trial in variant.trials for number in trial.at_sites})
    pooled = {
        number: [value for trial in variant.trials for value in trial.spread(number, metric).values()]
        for number in rounds
    }
    rounds = [number for number in rounds if pooled[number]]
    if not rounds:
        return None
    low, p10, p25, p50, p75, p90, high = (
        [float(value) for value in column]
        for column in np.array([np.quantile(pooled[number], QUANTILES) for number in rounds]).T
    )
    worst = p10 if badness(metric, 0) > badness(metric, 1) else p90
    series = [
        Series("spread", "median site", p50, [
            Band(low, high, "at all sites"), Band(p10, p90, "at 80 % of the sites"), Band(p25, p75, "at half of them"),
        ]),
        Series("worst", "the tenth that fares worst begins here", worst),
    ]  # fmt: skip
    return lines(f"{variant.label}: {metric} from site to site", rounds, series, partial(words.metric, metric))


def _by_round(drawn: Drawn, place: Place, metric: str) -> tuple[list[int], list[Series]]:
    """The rounds in which anything was measured, and a line a variant over the seeds that measured it then."""
    values = {
        trial.directory: {point.round: value for point, value in trial.curve(place, metric)}
        for _, variant in drawn
        for trial in variant.trials
    }
    rounds = sorted({number for found in values.values() for number in found})
    series = [
        _over_seeds(
            key, variant, [[values[trial.directory].get(number) for trial in variant.trials] for number in rounds]
        )
        for key, variant in drawn
    ]
    return rounds, series


def _along(drawn: Drawn, place: Place, metric: str, at: Callable[[Point], float]) -> tuple[list[float], list[Series]]:
    """The same along something in which the seeds' rounds do not coincide: between rounds a straight line is taken.

    A run that has all its rounds keeps its last model, so its line goes on level to where the last seed ends.
    """
    lanes = {
        trial.directory: np.array([(at(point), value) for point, value in trial.curve(place, metric)])
        for _, variant in drawn
        for trial in variant.trials
        if trial.measures(place, metric)
    }
    grids = []
    for _, variant in drawn:
        ats = [lanes[trial.directory][:, 0] for trial in variant.trials if trial.directory in lanes]
        ends = np.array([end for at in ats for end in (at[0], at[-1])])
        grids.append(ats[0] if len(ats) == 1 else np.union1d(np.linspace(ends.min(), ends.max(), GRID), ends))
    columns = np.unique(np.concatenate(grids))
    series: list[Series] = []
    for key, variant in drawn:
        mine = [trial for trial in variant.trials if trial.directory in lanes]
        if len(mine) == 1:  # what was measured, and nothing in between
            measured = dict(lanes[mine[0].directory].tolist())
            series.append(_over_seeds(key, variant, [[measured.get(column)] for column in columns.tolist()]))
            continue
        last = max(lanes[trial.directory][-1, 0] for trial in mine)
        values = [
            _on_grid(lanes[trial.directory], columns, until=last if trial.is_finished else None) for trial in mine
        ]
        series.append(_over_seeds(key, variant, list(zip(*values, strict=True))))
    return columns.tolist(), series


def _on_grid(lane: F64, columns: F64, *, until: float | None) -> list[float | None]:
    last = lane[-1, 0] if until is None else until
    inside = (columns >= lane[0, 0]) & (columns <= last)
    values = np.interp(columns, lane[:, 0], lane[:, 1])
    return [float(value) if there else None for value, there in zip(values, inside, strict=True)]


def _below(series: Series, limit: float) -> Series:
    """A line and its bands without the columns in which it is above a limit."""
    is_kept = [value is not None and value <= limit for value in series.values]

    def less(values: Sequence[float | None]) -> list[float | None]:
        return [value if kept else None for value, kept in zip(values, is_kept, strict=True)]

    if all(kept or value is None for kept, value in zip(is_kept, series.values, strict=True)):
        return series
    bands = [Band(less(band.lowest), less(band.highest), band.words) for band in series.bands]
    return dataclasses.replace(series, values=less(series.values), bands=bands)


def _over_seeds(key: str, variant: Variant, columns: Sequence[Sequence[float | None]]) -> Series:
    """Mean, standard deviation and ends of each column, where all seeds that are there have a value.

    A column that only some of the seeds have would make the line jump where one of them ends, so it is left out,
    unless no column has them all.
    """
    most = max((sum(value is not None for value in column) for column in columns), default=0)
    stats = [Stat.of(column) if sum(v is not None for v in column) == most else None for column in columns]
    mean = [stat.mean if stat else None for stat in stats]
    name = variant.label if len(variant.trials) == 1 else f"{variant.label} (mean of {words.plural(most, 'seed')})"
    if most < 2:
        return Series(key, name, mean)
    ends = [(s.low, s.high, s.mean - s.std, s.mean + s.std) if s else (None,) * 4 for s in stats]
    low, high, below, above = zip(*ends, strict=True)
    return Series(key, name, mean, [Band(low, high, "over the seeds"), Band(below, above, "is ± std")])
