"""A whole simulated run: repeatable, resumable to the bit, and the same engine as deployment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl.arrays import ArrayFile
from fl.errors import JournalError
from fl.rounds import checkpoint, events
from fl.rounds.journal import Journal, read
from simulations import Scenario, simulate
from simulations.run import Progress

ROUNDS = 4
SCENARIO: dict[str, Any] = {
    "task": {"name": "digits", "network": "mlp"},
    "run": {"rounds": ROUNDS, "seed": 5},
    "training": {"batch_size": 8},
    "round": {"cohort": 6, "over_selection": 0.5},
    "evaluation": {"sites_every": 2, "cohort": 4},
    "population": {"sites": 30},
    "split": {"kind": "dirichlet"},
}
WORLD: dict[str, Any] = {
    "devices": [{"name": "jetson"}, {"name": "server", "share": 0.5}],
    "links": [{"name": "dsl"}, {"name": "satellite"}],
    "faults": {"dropout": 0.2, "crash": 0.1},
    "hostile": [{"kind": "sign_flip", "share": 0.2}],
}


class Stopped(Exception):
    """As if the process had been killed."""


def model_of(directory: Path) -> bytes:
    with ArrayFile(checkpoint.model_path(directory, ROUNDS)) as file:
        return file.vector_P.tobytes()


def events_of(directory: Path, *kinds: type[events.Event]) -> list[events.Event]:
    return [record.event for record in read(directory) if isinstance(record.event, kinds)]


def last_closed(directory: Path) -> dict[int, tuple[str, ...]]:
    closed = events_of(directory, events.RoundClosed)
    return {event.round: event.survivors for event in closed if isinstance(event, events.RoundClosed)}


@pytest.mark.parametrize("world", [{}, WORLD], ids=["real time", "simulated time"])
def test_a_run_repeats_to_the_bit(tmp_path: Path, world: dict[str, Any]) -> None:
    scenario = Scenario.from_dict({**SCENARIO, **world})
    for name in ("first", "second"):
        simulate(scenario, tmp_path / name)
    assert model_of(tmp_path / "first") == model_of(tmp_path / "second")


def test_a_run_that_is_stopped_after_any_line_ends_with_the_bits_and_the_survivors_of_the_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = Scenario.from_dict({**SCENARIO, **WORLD})
    simulate(scenario, tmp_path / "whole")
    lines = len(read(tmp_path / "whole"))
    append = Journal.append
    for stop_after in range(3, lines, 5):
        left = stop_after

        def append_some(journal: Journal, event: events.Event) -> None:
            nonlocal left
            append(journal, event)
            left -= 1
            if left == 0:
                raise Stopped

        directory = tmp_path / f"stopped-{stop_after}"
        with monkeypatch.context() as patch:
            patch.setattr(Journal, "append", append_some)
            with pytest.raises(Stopped):
                simulate(scenario, directory)
        simulate(scenario, directory)
        assert last_closed(directory) == last_closed(tmp_path / "whole"), f"stopped after line {stop_after}"
        assert model_of(directory) == model_of(tmp_path / "whole"), f"stopped after line {stop_after}"


def test_the_journal_says_what_each_reply_cost_in_simulated_time(tmp_path: Path) -> None:
    scenario = Scenario.from_dict({**SCENARIO, **WORLD})
    simulate(scenario, tmp_path / "run")
    landed = events_of(tmp_path / "run", events.UpdateLanded)
    assert landed
    for event in landed:
        assert isinstance(event, events.UpdateLanded)
        assert event.report["simulated_s"] == pytest.approx(event.waited_s, abs=2e-3)
        assert event.report["down_bytes"] == event.size_bytes
        assert event.report["device"] in ("jetson", "server")
    assert {event.report.get("hostile") for event in landed} == {None, "sign_flip"}  # type: ignore[attr-defined]


def test_real_time_sets_no_deadline_that_a_slow_computer_could_miss(tmp_path: Path) -> None:
    simulate(Scenario.from_dict(SCENARIO), tmp_path / "run")
    (opened, *_) = events_of(tmp_path / "run", events.RoundOpened)
    assert isinstance(opened, events.RoundOpened)
    assert opened.deadline_s > 1e7


def test_the_configuration_in_the_journal_gives_the_same_run_again(tmp_path: Path) -> None:
    simulate(Scenario.from_dict({**SCENARIO, **WORLD}), tmp_path / "first")
    simulate(Scenario.from_journal(tmp_path / "first"), tmp_path / "second")
    assert model_of(tmp_path / "first") == model_of(tmp_path / "second")
    config = json.loads((tmp_path / "first" / "config.json").read_text())
    assert config["simulation"]["population"]["sites"] == 30


def test_another_scenario_does_not_go_on_with_a_journal(tmp_path: Path) -> None:
    simulate(Scenario.from_dict(SCENARIO), tmp_path / "run")
    with pytest.raises(JournalError, match="is the journal of another run"):
        simulate(Scenario.from_dict({**SCENARIO, "split": {"kind": "iid"}}), tmp_path / "run")


def test_progress_is_told_after_each_round(tmp_path: Path) -> None:
    told: list[Progress] = []
    simulate(Scenario.from_dict({**SCENARIO, **WORLD}), tmp_path / "run", progress=told.append)
    assert sorted({progress.round for progress in told}) == [1, 2, 3, 4]
    assert told[-1].rounds == ROUNDS
    assert told[-1].left_s == 0
    assert told[-1].simulated_s
    assert "accuracy" in told[-1].metrics


def test_directories_of_old_rounds_are_used_again_and_none_is_left_empty(tmp_path: Path) -> None:
    simulate(Scenario.from_dict(SCENARIO), tmp_path / "run")
    left = {path.name: sorted(it.name for it in path.iterdir()) for path in (tmp_path / "run" / "rounds").iterdir()}
    assert left == {"0003": ["model.safetensors"], "0004": ["model.safetensors"]}
