"""What a reader is told first."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest

from simulations.outcome import Expected
from simulations.report.comparison import compare
from simulations.report.concerns import concerns
from simulations.report.find import Found, Unread, find
from simulations.report.trial import Trial, read_trial
from simulations.scenario import Bound


@pytest.fixture(scope="module")
def trial(run: Path) -> Trial:
    return read_trial(run)


def told(*trials: Trial, unread: tuple[Unread, ...] = ()) -> list[tuple[str, str]]:
    return [(concern.level, concern.what) for concern in concerns(compare(Found(trials, unread)))]


def with_run(trial: Trial, **changed: object) -> Trial:
    return dataclasses.replace(
        trial,
        facts=dataclasses.replace(trial.facts, run=dataclasses.replace(trial.facts.run, **changed)),  # type: ignore[arg-type]
    )


def test_a_sweep_as_it_should_be_needs_no_attention(sweep: Path) -> None:
    assert told(*find(sweep).trials) == []


def test_a_run_that_cannot_be_read_is_named(trial: Trial) -> None:
    (first, *_) = told(trial, unread=(Unread(Path("sweep/broken"), "it is damaged"),))
    assert first == ("error", "broken is left out: its journal cannot be read")


@pytest.mark.parametrize(
    ("status", "level", "what"),
    [
        ("running", "note", "is running: 4 of 4 rounds"),
        ("interrupted", "warning", "is interrupted: 4 of 4 rounds"),
        ("failed", "error", "failed after 4 rounds"),
        ("stopped", "error", "stopped after 4 rounds"),
    ],
)
def test_a_run_that_is_not_complete_says_how_it_stands(trial: Trial, status: str, level: str, what: str) -> None:
    assert told(with_run(trial, status=status)) == [(level, f"strategy-fedavg_seed-1 {what}")]


def test_a_run_can_be_gone_on_with_by_the_command_that_is_told(trial: Trial) -> None:
    (concern,) = concerns(compare(Found((with_run(trial, status="interrupted"),), ())))
    assert concern.command == f"fl sim run {trial.directory}"


def test_a_run_that_diverged_is_an_error_and_one_whose_loss_rose_a_warning(trial: Trial) -> None:
    def with_losses(*losses: float) -> Trial:
        points = [
            dataclasses.replace(point, metrics={"centre": {"loss": loss}})
            for point, loss in zip(trial.points, losses, strict=False)
        ]
        return dataclasses.replace(trial, points=tuple(points), at_sites={1: {"site-1": {"loss": 1.0}}})

    assert told(with_losses(2.0, math.nan)) == [("error", "strategy-fedavg_seed-1 diverged in round 2")]
    assert told(with_losses(2.0, 1.0, 3.0)) == [
        ("warning", "strategy-fedavg_seed-1 learned nothing: its loss rose from 2 to 3")
    ]
    assert told(with_losses(2.0, 1.0, 1.5)) == []
    attacked = dataclasses.replace(with_losses(2.0, 3.0), hostile={"site-2": "sign_flip"})
    for one, words in (
        (attacked, "withstands hostile sites"),
        (dataclasses.replace(attacked, hostile={}), "learning_rate"),
    ):
        (concern,) = concerns(compare(Found((one,), ())))
        assert words in concern.do


def test_what_a_scenario_expects_and_did_not_get_is_an_error(trial: Trial) -> None:
    missed = dataclasses.replace(trial, expected=(Expected("accuracy", Bound(at_least=0.9), 0.5),))
    assert told(missed) == [
        ("error", "strategy-fedavg_seed-1: accuracy at least 0.9 expected, reached 0.5"),
    ]
    assert told(dataclasses.replace(trial, expected=(Expected("accuracy", Bound(at_least=0.4), 0.5),))) == []


def test_runs_of_unequal_length_are_told(trial: Trial) -> None:
    longer = with_run(dataclasses.replace(trial, directory=Path("longer")), rounds_planned=9, seed=7)
    assert ("warning", "the runs have unequal numbers of rounds: 4, 9") in told(trial, longer)


def test_a_second_run_of_a_seed_is_told(trial: Trial) -> None:
    assert told(trial, dataclasses.replace(trial, directory=Path("again"), points=trial.points[:1])) == [
        ("note", "1 run left out: again")
    ]


def test_runs_that_were_not_evaluated_or_not_at_the_same_place_are_told(trial: Trial, untimed: Path) -> None:
    plain = read_trial(untimed)
    assert told(plain) == [
        ("warning", "accuracy is that of the training: models of the run were not evaluated"),
        ("note", "fairness is not known of the run"),
    ]
    both = told(trial, plain)
    assert ("warning", "accuracy is that of the training: models of untimed were not evaluated") in both
    assert ("note", "fairness is not known of untimed") in both
    elsewhere = dataclasses.replace(
        plain,
        points=tuple(dataclasses.replace(point, metrics={"sites": {"accuracy": 0.1}}) for point in plain.points),
    )
    centre = dataclasses.replace(
        trial,
        points=tuple(dataclasses.replace(point, metrics={"centre": {"accuracy": 0.1}}) for point in trial.points),
    )
    assert ("warning", "accuracy cannot be compared") in told(centre, elsewhere)


def test_nothing_measured_yet_is_a_note(trial: Trial) -> None:
    assert ("note", "nothing was measured yet") in told(dataclasses.replace(trial, points=()))
