"""One simulated run as numbers: a point a round, and the spread over its sites."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fl.config import load
from fl.report.facts import Answer, Facts, Place, Round
from fl.report.gather import gather
from fl.report.words import is_share
from fl.rounds.journal import read
from simulations.faults import FaultConfig
from simulations.hostile import Conspiracy, HostileConfig
from simulations.outcome import Expected, figures_of
from simulations.scenario import SIMULATION, AboutSection

F64 = npt.NDArray[np.float64]

PLACES: tuple[Place, ...] = ("centre", "sites", "training")
"""Where metrics were measured, the most telling first."""

DECILE = 0.1
"""The share of the sites that fare worst whose mean is told."""


@dataclasses.dataclass(frozen=True, slots=True)
class Point:
    """One committed round.

    Attributes:
        round: From 1.
        at_s: When its model was there, in seconds since the run began: simulated ones, if the run is timed.
        size_bytes: What had travelled for training until then, both ways; evaluations are not in it.
        energy_j: What training had used until then; ``None`` if no site says.
        metrics: Means by place.
    """

    round: int
    at_s: float
    size_bytes: int
    energy_j: float | None
    metrics: Mapping[Place, Mapping[str, float]]


@dataclasses.dataclass(frozen=True, slots=True)
class Fairness:
    """How one metric of one model differs from site to site; hostile sites are left out.

    Attributes:
        round: Whose model.
        num_sites: How many were measured.
        worst_decile: The mean of the tenth of the sites that fare worst, of one site at least.
        std: The standard deviation over the sites.
        worst_site: Who fares worst.
        worst: How.
    """

    round: int
    num_sites: int
    worst_decile: float
    std: float
    worst_site: str
    worst: float


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One simulated run.

    Attributes:
        directory: Its journal.
        facts: What its report says, without single rounds and sites.
        points: The committed rounds.
        at_sites: For each round that was evaluated at the sites, what each site measured, by its name.
        hostile: What sites do to harm, by their names, of those that were asked for anything.
        expected: What the scenario expects, and what came out.
        is_timed: Whether its time is simulated.
        wall_s: How long it took on the computer that simulated it.
    """

    directory: Path
    facts: Facts
    points: tuple[Point, ...]
    at_sites: Mapping[int, Mapping[str, Mapping[str, float]]]
    hostile: Mapping[str, str]
    expected: tuple[Expected, ...]
    is_timed: bool
    wall_s: float

    @property
    def is_finished(self) -> bool:
        """Whether it has all its rounds."""
        return self.facts.run.status == "completed"

    def curve(self, place: Place, metric: str) -> list[tuple[Point, float]]:
        """The rounds in which a metric was measured at a place, and its mean; what is not finite is left out."""
        found = ((point, point.metrics.get(place, {}).get(metric, math.nan)) for point in self.points)
        return [(point, value) for point, value in found if math.isfinite(value)]

    def final(self, place: Place, metric: str) -> float | None:
        """What was measured last, which may not be finite; ``None`` if it never was."""
        values = (point.metrics.get(place, {}).get(metric) for point in reversed(self.points))
        return next((value for value in values if value is not None), None)

    @property
    def diverged_in(self) -> int | None:
        """The first round whose metrics are not all finite; ``None`` if there is none."""
        for point in self.points:
            if not all(math.isfinite(value) for metrics in point.metrics.values() for value in metrics.values()):
                return point.round
        return None

    @property
    def simulated_s(self) -> float | None:
        """Simulated seconds until its last model; ``None`` where nothing takes simulated time."""
        return self.points[-1].at_s if self.is_timed and self.points else None

    def measures(self, place: Place, metric: str) -> bool:
        """Whether a metric was measured at a place."""
        return bool(self.curve(place, metric))

    def spread(self, round: int, metric: str) -> dict[str, float]:
        """What each honest site measured of a round's model."""
        return {
            site: metrics[metric]
            for site, metrics in self.at_sites.get(round, {}).items()
            if site not in self.hostile and math.isfinite(metrics.get(metric, math.nan))
        }

    def fairness(self, metric: str) -> Fairness | None:
        """Of the last model that was evaluated at the sites; ``None`` if none was."""
        number = max((number for number in self.at_sites if self.spread(number, metric)), default=None)
        if number is None:
            return None
        values = self.spread(number, metric)
        ranked = sorted(values, key=lambda site: (badness(metric, values[site]), site), reverse=True)
        last = ranked[: math.ceil(DECILE * len(ranked))]
        return Fairness(
            round=number,
            num_sites=len(ranked),
            worst_decile=float(np.mean([values[site] for site in last])),
            std=float(np.std([*values.values()])),
            worst_site=ranked[0],
            worst=values[ranked[0]],
        )


def badness(metric: str, value: float) -> float:
    """The higher the worse."""
    return -value if is_better_higher(metric) else value


def is_better_higher(metric: str) -> bool:
    """Whether more of a metric is better: by its name, as nothing else says so."""
    return is_share(metric) or not any(word in metric for word in ("loss", "error", "perplexity", "mse", "mae"))


def read_trial(directory: Path) -> Trial:
    """What a journal says, also one that is written meanwhile.

    Raises:
        JournalError: If it is not a journal, or damaged.
    """
    records = read(directory)
    facts = gather(directory, records)
    tables = facts.config.get(SIMULATION) or {}
    figures = figures_of(records, is_timed=_is_timed(tables))
    answers = [answer for entry in facts.rounds for answer in entry.answers]
    sessions = facts.run.sessions
    return Trial(
        directory=directory,
        facts=dataclasses.replace(facts, rounds=(), sites=(), initialisation=()),
        points=tuple(_points(facts.rounds)),
        at_sites={entry.number: found for entry in facts.rounds if (found := _at_sites(entry.answers))},
        hostile=_hostile(tables, answers, facts.run.seed),
        expected=tuple(Expected(name, bound, figures.get(name)) for name, bound in _expect(tables).items()),
        is_timed=_is_timed(tables),
        wall_s=sum((session.updated - session.started).total_seconds() for session in sessions),
    )


def _points(rounds: Iterable[Round]) -> Iterable[Point]:
    size_bytes, energy_j = 0, None
    for entry in rounds:
        training = [answer for answer in entry.answers if answer.phase == "train"]
        size_bytes += sum(answer.sent_bytes + answer.received_bytes for answer in training)
        used = [answer.energy_j for answer in training if answer.energy_j is not None]
        energy_j = (energy_j or 0.0) + sum(used) if used else energy_j
        if entry.folded_s is not None:
            metrics = {place: measured.metrics for place, measured in entry.measured.items()}
            yield Point(entry.number, entry.folded_s, size_bytes, energy_j, metrics)


def _at_sites(answers: Sequence[Answer]) -> dict[str, Mapping[str, float]]:
    return {
        answer.site: answer.metrics
        for answer in answers
        if answer.phase == "evaluate" and answer.outcome == "answered" and answer.metrics
    }


def _hostile(tables: Mapping[str, Any], answers: Iterable[Answer], seed: int) -> dict[str, str]:
    """Drawn again by the sites' names, because an evaluation does not say who answers."""
    configs = [load(HostileConfig, entry, table=HostileConfig.TABLE) for entry in tables.get("hostile") or ()]
    conspiracy = Conspiracy(configs, (tables.get("population") or {}).get("seed", seed))
    sites = {answer.site for answer in answers} if configs else set()
    return {site: config.kind for site in sorted(sites) if (config := conspiracy.of(site)) is not None}


def _is_timed(tables: Mapping[str, Any]) -> bool:
    """As ``simulations.world`` has it: where nothing takes simulated time, the clock is the computer's."""
    faults = load(FaultConfig, tables.get("faults") or {}, table="faults")
    return bool(tables.get("devices") or tables.get("links")) or faults != FaultConfig()


def _expect(tables: Mapping[str, Any]) -> Mapping[str, Any]:
    return load(AboutSection, tables.get("scenario") or {}, table="scenario").expect
