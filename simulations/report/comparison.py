"""Variants side by side: what each reached in the end, how it differs from site to site, and what it cost."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from fl.errors import ConfigError
from fl.report.facts import Place
from fl.report.words import is_share, names
from simulations.report.find import Found
from simulations.report.reach import Reached, best_common, reached
from simulations.report.trial import Fairness, Trial, badness
from simulations.report.variants import Stat, Variant, metrics_of, place_of, variants


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One variant; figures are over its seeds, and ``None`` where no seed has them.

    Attributes:
        variant: Whose.
        final: What its last models measure, by metric.
        worst_decile: The mean over the tenth of the sites that fare worst.
        fairness: How the sites of each seed differ, by seed.
        rounds: Committed.
        size_bytes: Of training, both ways.
        simulated_s: Until the last model.
        energy_j: Of training.
        wall_s: On the computer that simulated it.
        reached: What the target cost.
    """

    variant: Variant
    final: Mapping[str, Stat]
    worst_decile: Stat | None
    fairness: Mapping[int, Fairness]
    rounds: Stat | None
    size_bytes: Stat | None
    simulated_s: Stat | None
    energy_j: Stat | None
    wall_s: Stat | None
    reached: Reached | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Variants side by side.

    Attributes:
        found: The runs.
        metric: What they are compared by; ``None`` if none of them has measured anything yet.
        place: Where it was measured; ``None`` if that is not one place for all of them.
        metrics: All that can be compared, with their places.
        target: Value of the metric whose price is told.
        is_given: Whether somebody asked for that target; otherwise it is the best that all runs reached.
        lines: One a variant.
    """

    found: Found
    metric: str | None
    place: Place | None
    metrics: Mapping[str, Place]
    target: float | None
    is_given: bool
    lines: tuple[Line, ...]

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Those of the lines."""
        return tuple(line.variant for line in self.lines)

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The runs that count, one a variant and seed."""
        return tuple(trial for line in self.lines for trial in line.variant.trials)

    @property
    def best(self) -> Line | None:
        """The line whose mean is best in the end; ``None`` where that cannot be said."""
        ranked = [line for line in self.lines if self.metric in line.final]
        if self.metric is None or not ranked:
            return None
        return min(ranked, key=lambda line: badness(str(self.metric), line.final[str(self.metric)].mean))


def compare(found: Found, *, metric: str | None = None, target: float | None = None) -> Comparison:
    """Put the variants of some runs side by side.

    Args:
        found: The runs.
        metric: What to compare them by; accuracy, loss or the first there is without it.
        target: Value of the metric whose price is told; the best that all runs reached without it.

    Raises:
        ConfigError: If the metric was measured in none of the runs (with those that were), or the target is no value
            that it can have.
    """
    everyone = variants(found.trials)
    trials = [trial for variant in everyone for trial in variant.trials]
    known = metrics_of(trials)
    if metric is not None and metric not in known:
        raise ConfigError(
            f"no run measured {metric}", hint=f"one of: {names(known, 12)}" if known else "wait for the first round"
        )
    places = {name: place for name in known if (place := place_of(trials, name)) is not None}
    if metric is None:
        metric = next(iter(places), known[0] if known else None)
    place = places.get(metric) if metric else None
    if target is not None and metric and is_share(metric) and not 0 < target <= 1:
        raise ConfigError(f"{metric} cannot reach {target:g}", hint="a share: 0.9 for 90 %")
    wanted = target
    if wanted is None and metric and place:
        wanted = best_common(trials, place, metric)
    return Comparison(
        found=found,
        metric=metric,
        place=place,
        metrics=places,
        target=wanted,
        is_given=target is not None,
        lines=tuple(_line(variant, places, metric, wanted) for variant in everyone),
    )


def _line(variant: Variant, places: Mapping[str, Place], metric: str | None, target: float | None) -> Line:
    trials = variant.trials
    begun = [trial for trial in trials if trial.points]
    finals = {name: Stat.of(trial.final(place, name) for trial in trials) for name, place in places.items()}
    fairness = {
        trial.facts.run.seed: fair for trial in trials if metric and (fair := trial.fairness(metric)) is not None
    }
    place = places.get(metric) if metric else None
    return Line(
        variant=variant,
        final={name: stat for name, stat in finals.items() if stat is not None},
        worst_decile=Stat.of(fair.worst_decile for fair in fairness.values()),
        fairness=fairness,
        rounds=Stat.of(len(trial.points) for trial in trials),
        size_bytes=Stat.of(trial.points[-1].size_bytes for trial in begun),
        simulated_s=Stat.of(trial.simulated_s for trial in trials),
        energy_j=Stat.of(trial.points[-1].energy_j for trial in begun),
        wall_s=Stat.of(trial.wall_s for trial in trials),
        reached=reached(variant, place, metric, target) if place and metric and target is not None else None,
    )


def as_dict(comparison: Comparison) -> dict[str, Any]:
    """As plain data: ``metric``, ``place``, ``target``, ``variants`` and ``unread``; numbers are finite or ``None``."""
    return {
        "metric": comparison.metric,
        "place": comparison.place,
        "target": comparison.target,
        "target_is_given": comparison.is_given,
        "variants": [_line_dict(line) for line in comparison.lines],
        "unread": [{"directory": str(run.directory), "why": run.why} for run in comparison.found.unread],
    }


def rows(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """The same as a table of plain values for a spreadsheet: a row a variant, a mean and a deviation a figure."""
    plain = ("rounds", "size_bytes", "simulated_s", "energy_j", "wall_s")
    costs = ("rounds", "size_bytes", "at_s", "energy_j")
    settings = list(dict.fromkeys(key for line in comparison.lines for key in line.variant.settings))
    columns = ["variant", "seeds", *settings]
    for name in (*comparison.metrics, "worst_decile", *plain):
        columns += [name, f"{name}_std"]
    columns += ["target", "reached", *(f"reach_{name}" for name in costs)]
    table = []
    for line in comparison.lines:
        stats = [*(line.final.get(name) for name in comparison.metrics), line.worst_decile]
        stats += [getattr(line, name) for name in plain]
        row = [
            line.variant.label,
            len(line.variant.seeds),
            *(_value(line.variant.settings.get(key)) for key in settings),
        ]
        row += [value for stat in stats for value in ((stat.mean, stat.std) if stat else (None, None))]
        prices = [getattr(line.reached, name) if line.reached else None for name in costs]
        row += [comparison.target, line.reached.count if line.reached else None]
        table.append([*row, *(price.mean if price else None for price in prices)])
    return columns, table


def _line_dict(line: Line) -> dict[str, Any]:
    variant = line.variant
    return {
        "variant": variant.label,
        "settings": dict(variant.settings),
        "seeds": list(variant.seeds),
        "runs": [str(trial.directory) for trial in variant.trials],
        "statuses": [trial.facts.run.status for trial in variant.trials],
        "final": {name: dataclasses.asdict(stat) for name, stat in line.final.items()},
        "worst_decile": _stat(line.worst_decile),
        **{name: _stat(getattr(line, name)) for name in ("rounds", "size_bytes", "simulated_s", "energy_j", "wall_s")},
        "reached": line.reached
        and {
            "seeds": line.reached.count,
            **{name: _stat(getattr(line.reached, name)) for name in ("rounds", "size_bytes", "at_s", "energy_j")},
        },
    }


def _stat(stat: Stat | None) -> dict[str, Any] | None:
    return dataclasses.asdict(stat) if stat else None


def _value(value: Any) -> Any:
    return str(value) if isinstance(value, (list, dict)) else value


def seeds_of(lines: Sequence[Line]) -> list[int]:
    """Every seed of any variant."""
    return sorted({seed for line in lines for seed in line.variant.seeds})
