"""What a reader of a comparison should know first: what is missing, unfinished, unequal or not as expected."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from fl.report import words
from fl.report.advice import Concern, advice
from fl.report.words import names, plural
from simulations.report.comparison import Comparison
from simulations.report.trial import Trial

ENDED_EARLY = ("failed", "stopped")


def concerns(comparison: Comparison) -> list[Concern]:
    """The gravest first."""
    found = [*_runs(comparison), *_figures(comparison)]
    levels = ("error", "warning", "note")
    return sorted(found, key=lambda concern: levels.index(concern.level))


def _runs(comparison: Comparison) -> Iterator[Concern]:
    for unread in comparison.found.unread:
        yield Concern(
            level="error",
            what=f"{unread.directory.name} is left out: its journal cannot be read",
            why=unread.why,
            do="run it again, or remove its directory",
        )
    trials = comparison.trials
    for trial in trials:
        run = trial.facts.run
        if trial.diverged_in is not None:
            yield Concern(
                level="error",
                what=f"{called(trial)} diverged in round {trial.diverged_in}",
                why="a metric is not finite there; such values are in no mean and no line",
                do="lower training.learning_rate or the server's learning rate",
            )
        if run.status in ENDED_EARLY:
            yield Concern(
                level="error",
                what=f"{called(trial)} {run.status} after {plural(run.rounds_committed, 'round')}",
                why=run.reason or "its journal does not say",
                do=advice(trial.facts.reasons[0].code)
                if trial.facts.reasons
                else "read why, mend it, and go on with it",
                command=f"fl sim run {shlex.quote(str(trial.directory))}",
            )
        elif not trial.is_finished:
            is_going = run.status == "running"
            yield Concern(
                level="note" if is_going else "warning",
                what=f"{called(trial)} is {run.status}: {run.rounds_committed} of {run.rounds_planned} rounds",
                why="its last figures so far are shown as its final ones",
                do="draw the page again when it is done" if is_going else "go on with it",
                command=None if is_going else f"fl sim run {shlex.quote(str(trial.directory))}",
            )
        elif (rose := _rose(comparison, trial)) is not None:
            yield Concern(
                level="warning",
                what=f"{called(trial)} learned nothing: its loss rose from {rose[0]} to {rose[1]}",
                why="updates point past the minimum, or away from it",
                do="choose a strategy that withstands hostile sites: median, trimmed_mean, multi_krum"
                if trial.hostile
                else "lower training.learning_rate or the server's learning rate",
            )
        for expected in trial.expected:
            if trial.is_finished and not expected.is_met:
                yield Concern(level="error", what=f"{called(trial)}: {expected}", why="its scenario expects it")
    counted = {trial.directory for trial in trials}
    if twice := [trial for trial in comparison.found.trials if trial.directory not in counted]:
        yield Concern(
            level="note",
            what=f"{plural(len(twice), 'run')} left out: {names([str(trial.directory) for trial in twice])}",
            why="another run has the same configuration and the same seed, and counts once",
        )


def _figures(comparison: Comparison) -> Iterator[Concern]:
    trials = comparison.trials
    if comparison.metric is None:
        yield Concern(level="note", what="nothing was measured yet", why="no round has been committed")
        return
    if comparison.place is None:
        yield Concern(
            level="warning",
            what=f"{comparison.metric} cannot be compared",
            why="the runs measured it at different places: some at the centre, others at the sites",
            do="give all of them the same evaluation.centre_every and evaluation.sites_every",
        )
    elif comparison.place == "training":
        whose = [trial for trial in trials if trial.points and not _is_evaluated(trial, comparison.metric)]
        yield Concern(
            level="warning",
            what=f"{comparison.metric} is that of the training: models of {_whom(whose, trials)} were not evaluated",
            why="each site measures while its own model changes; only this is there for all runs",
            do="set evaluation.centre_every or evaluation.sites_every",
        )
    planned = sorted({trial.facts.run.rounds_planned for trial in trials})
    if len(planned) > 1:
        yield Concern(
            level="warning",
            what=f"the runs have unequal numbers of rounds: {names([str(number) for number in planned])}",
            why="final figures of different rounds stand side by side; the price of a value is comparable",
        )
    if missing := _without_sites(trials, comparison.metric):
        yield Concern(
            level="note",
            what=f"fairness is not known of {_whom(missing, trials)}",
            why="no model was evaluated at single sites",
            do="set evaluation.sites_every",
        )


def _without_sites(trials: Sequence[Trial], metric: str) -> list[Trial]:
    return [trial for trial in trials if trial.points and trial.fairness(metric) is None]


def _is_evaluated(trial: Trial, metric: str) -> bool:
    return trial.measures("centre", metric) or trial.measures("sites", metric)


def _rose(comparison: Comparison, trial: Trial) -> tuple[str, str] | None:
    """The loss of the first model and of the last, if that is higher."""
    place = comparison.metrics.get("loss")
    curve = trial.curve(place, "loss") if place else []
    if len(curve) < 2 or curve[-1][1] <= curve[0][1]:
        return None
    return words.metric("loss", curve[0][1]), words.metric("loss", curve[-1][1])


def _whom(some: Sequence[Trial], everyone: Sequence[Trial]) -> str:
    if len(some) == len(everyone):
        return "any run" if len(some) > 1 else "the run"
    return names([called(trial) for trial in some])


def called(trial: Trial) -> str:
    """A run by the name of its directory."""
    return trial.directory.resolve().name
