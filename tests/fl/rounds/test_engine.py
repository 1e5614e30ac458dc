from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from fl.arrays import ArrayFile
from fl.errors import TooFewSitesError
from fl.flower.folding import folding_for
from fl.rounds import events
from fl.rounds.checkpoint import model_path
from fl.rounds.config import RunConfig
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal, read
from fl.rounds.port import Failure
from fl.rounds.state import RunState
from tests.fl.rounds.simulator import SimulatedSite, SimulatedTime, SiteSimulator, federation, honest_update, run_config


def run(directory: Path, sites: SiteSimulator, config: RunConfig | None = None) -> RunState:
    config = config or run_config()
    if not directory.exists():
        Journal.create(directory, config.to_dict(), clock=sites.time.clock).close()
    with Journal(directory, clock=sites.time.clock) as journal:
        return Engine(journal, config, sites, folding_for(config.strategy)).run()


def final_model(directory: Path, rounds: int = 3) -> np.ndarray:
    with ArrayFile(model_path(directory, rounds)) as file:
        return file.vector_P.copy()


def happened(directory: Path, kind: type[events.Event]) -> list[events.Event]:
    return [record.event for record in read(directory) if isinstance(record.event, kind)]


def test_a_run_commits_each_round_and_completes(tmp_path: Path) -> None:
    state = run(tmp_path / "run", SiteSimulator(federation()))
    assert state.status == "completed"
    assert state.committed_rounds == 3
    assert [entry.number for entry in state.rounds.values()] == [1, 2, 3]
    assert np.isfinite(final_model(tmp_path / "run")).all()


def test_the_model_is_the_weighted_mean_of_the_updates(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(3))
    run(tmp_path / "run", sites, run_config(rounds=1, journal={"keep_updates": True, "keep_models": 5}))
    before = final_model(tmp_path / "run", 0)
    layout = ArrayFile(model_path(tmp_path / "run", 0)).layout
    request = sites.sites["site-1"].asked[-1]
    expected = before.astype(np.float64)
    for i in (1, 2, 3):
        update = honest_update(f"site-{i}", request, layout.split(before))
        vector = np.concatenate([update[name].reshape(-1) for name, _ in layout.entries])
        expected += vector.astype(np.float64) * 10 * i / 60
    np.testing.assert_allclose(final_model(tmp_path / "run", 1), expected, rtol=1e-6, atol=1e-7)


def test_the_order_of_arrival_does_not_change_the_model(tmp_path: Path) -> None:
    run(tmp_path / "slow-last", SiteSimulator(federation()))
    hurried = federation()
    for i, site in enumerate(hurried.values()):
        site.delay_s = 5.0 - i
    run(tmp_path / "slow-first", SiteSimulator(hurried))
    assert final_model(tmp_path / "slow-last").tobytes() == final_model(tmp_path / "slow-first").tobytes()


def test_updates_are_removed_after_their_round_unless_asked_to_keep(tmp_path: Path) -> None:
    run(tmp_path / "lean", SiteSimulator(federation()))
    assert not list((tmp_path / "lean").rglob("update-*"))
    run(tmp_path / "kept", SiteSimulator(federation()), run_config(journal={"keep_updates": True}))
    assert len(list((tmp_path / "kept").rglob("update-*"))) == 12


def test_only_the_newest_models_are_kept(tmp_path: Path) -> None:
    run(tmp_path / "run", SiteSimulator(federation()), run_config(rounds=5, journal={"keep_models": 2}))
    kept = sorted(path.parent.name for path in (tmp_path / "run").rglob("model.safetensors"))
    assert kept == ["0004", "0005"]


def test_a_site_that_fails_is_left_out_with_its_reason_and_the_round_goes_on(tmp_path: Path) -> None:
    broken = SimulatedSite(fail=lambda request: Failure(code="task_failed", reason="the disk of the scanner is full"))
    state = run(tmp_path / "run", SiteSimulator(federation(site_2=broken)))
    assert state.status == "completed"
    closed = state.rounds[1].closed
    assert closed
    assert closed.survivors == ("site-1", "site-3", "site-4")
    assert closed.missing == ("site-2",)
    assert closed.because == "every site had answered"
    assert state.rounds[1].failed["site-2"].reason == "the disk of the scanner is full"


@pytest.mark.parametrize(
    ("spoil", "code", "words"),
    [
        (lambda update: {**update, "bias": np.full(5, np.nan, np.float32)}, "not_finite", "bias contains NaN"),
        (lambda update: {**update, "bias": np.full(5, np.inf, np.float32)}, "not_finite", "bias contains NaN or inf"),
        (lambda update: {**update, "bias": np.zeros(6, np.float32)}, "wrong_shape", "bias has shape [6], expected [5]"),
        (lambda update: {"weight": update["weight"]}, "wrong_shape", "bias is missing"),
        (lambda update: {**update, "extra": np.zeros(1, np.float32)}, "wrong_shape", "extra is not a parameter"),
        (lambda update: {}, "wrong_shape", "weight is missing"),
    ],
    ids=["NaN", "infinity", "another shape", "a parameter missing", "a parameter too many", "nothing"],
)
def test_an_update_that_cannot_be_folded_is_left_out_and_named(tmp_path, spoil, code, words) -> None:
    liar = SimulatedSite(update=lambda site, request, model: spoil(honest_update(site, request, model)))
    state = run(tmp_path / "run", SiteSimulator(federation(site_3=liar)))
    assert state.status == "completed"
    failed = state.rounds[1].failed["site-3"]
    assert failed.code == code
    assert words in failed.reason
    assert not list((tmp_path / "run").rglob("*.part"))
    assert np.isfinite(final_model(tmp_path / "run")).all()


def test_huge_finite_updates_are_not_mistaken_for_infinite_ones(tmp_path: Path) -> None:
    loud = SimulatedSite(update=lambda *_: {"weight": np.full((3, 5), 3e38, "f4"), "bias": np.zeros(5, "f4")})
    state = run(tmp_path / "run", SiteSimulator(federation(site_1=loud)), run_config(rounds=1))
    assert "site-1" in state.rounds[1].landed


def test_a_site_without_examples_is_left_out(tmp_path: Path) -> None:
    state = run(tmp_path / "run", SiteSimulator(federation(site_1=SimulatedSite(num_examples=0))))
    assert state.rounds[1].failed["site-1"].code == "no_examples"


def test_a_silent_site_costs_the_deadline_and_no_more(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(site_4=SimulatedSite(silent=True)))
    start = sites.time.now_s
    state = run(tmp_path / "run", sites, run_config(rounds=1, round={"deadline_s": 40.0}))
    assert state.status == "completed"
    assert state.rounds[1].closed.because == "the deadline of 40 s had passed"
    assert 40 <= sites.time.now_s - start < 45


def test_a_late_reply_is_recorded_and_not_waited_for(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(site_4=SimulatedSite(delay_s=45.0)))
    state = run(tmp_path / "run", sites, run_config(rounds=3, round={"deadline_s": 30.0}))
    assert state.rounds[1].late == ["site-4"]
    assert "site-4" not in state.rounds[1].closed.survivors


def test_over_selection_closes_the_round_with_the_fastest(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(10))
    state = run(tmp_path / "run", sites, run_config(rounds=1, round={"cohort": 5, "over_selection": 1.0}))
    assert len(state.rounds[1].opened[0].cohort) == 10
    assert state.rounds[1].closed.survivors == tuple(f"site-{i}" for i in range(1, 6))
    assert state.rounds[1].closed.because == "the wanted number of sites had answered"


def test_the_quorum_closes_the_round_after_it_has_lingered(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(4, site_4=SimulatedSite(delay_s=500.0)))
    config = run_config(rounds=1, round={"quorum": 2, "linger_s": 10.0, "deadline_s": 300.0})
    start = sites.time.now_s
    state = run(tmp_path / "run", sites, config)
    assert state.rounds[1].closed.because == "the quorum had answered"
    assert state.rounds[1].closed.survivors == ("site-1", "site-2", "site-3")
    assert sites.time.now_s - start < 20


def test_the_cohort_is_drawn_from_the_seed_and_recorded(tmp_path: Path) -> None:
    config = run_config(rounds=4, round={"cohort": 0.3})
    first = run(tmp_path / "a", SiteSimulator(federation(10)), config)
    second = run(tmp_path / "b", SiteSimulator(federation(10)), config)
    cohorts = [entry.opened[0].cohort for entry in first.rounds.values()]
    assert cohorts == [entry.opened[0].cohort for entry in second.rounds.values()]
    assert all(len(cohort) == 3 for cohort in cohorts)
    assert len(set(cohorts)) > 1


def test_an_attempt_below_its_quorum_is_tried_again_and_keeps_what_landed(tmp_path: Path) -> None:
    attempts = {"left": 1}

    def fail_once(request):
        if request.phase == "train" and attempts["left"]:
            attempts["left"] -= 1
            return Failure(code="task_failed", reason="out of memory")
        return None

    sites = SiteSimulator(federation(3, site_1=SimulatedSite(fail=fail_once)))
    state = run(tmp_path / "run", sites, run_config(rounds=1, round={"quorum": 1.0}))
    assert [opened.attempt for opened in state.rounds[1].opened] == [1, 2]
    assert state.rounds[1].closed.survivors == ("site-1", "site-2", "site-3")
    trained = [request for request in sites.sites["site-2"].asked if request.phase == "train"]
    assert len(trained) == 1


def test_too_few_answers_for_too_long_end_the_run_with_its_reason(tmp_path: Path) -> None:
    silent = {f"site-{i}": SimulatedSite(silent=True) for i in (2, 3, 4)}
    sites = SiteSimulator({**federation(), **silent})
    config = run_config(round={"quorum": 3, "deadline_s": 20.0, "attempts": 2})
    with pytest.raises(TooFewSitesError, match="round 1: 1 of 3 needed sites answered in 2 attempts"):
        run(tmp_path / "run", sites, config)
    (ended,) = happened(tmp_path / "run", events.RunEnded)
    assert ended.status == "failed"


def test_too_few_sites_online_for_too_long_end_the_run(tmp_path: Path) -> None:
    sites = SiteSimulator({"site-1": SimulatedSite(), "site-2": SimulatedSite(online=False)})
    start = sites.time.now_s
    with pytest.raises(TooFewSitesError, match="1 sites online, 2 needed"):
        run(tmp_path / "run", sites, run_config(round={"wait_s": 60.0}))
    assert 60 <= sites.time.now_s - start < 63


def test_a_failed_run_can_be_resumed_when_the_sites_are_back(tmp_path: Path) -> None:
    sites = SiteSimulator({"site-1": SimulatedSite(), "site-2": SimulatedSite(online=False)})
    with pytest.raises(TooFewSitesError):
        run(tmp_path / "run", sites)
    sites.sites["site-2"].online = True
    assert run(tmp_path / "run", sites).status == "completed"


def test_a_round_waits_for_sites_that_were_there_a_moment_ago(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(3))
    flapping = sites.sites["site-2"]

    class Flapping(SiteSimulator):
        def online(self):
            if flapping.asked and self.time.now_s < 112:
                return [name for name in super().online() if name != "site-2"]
            return super().online()

    state = run(tmp_path / "run", Flapping(sites.sites), run_config(rounds=2))
    assert all(entry.closed.survivors == ("site-1", "site-2", "site-3") for entry in state.rounds.values())


def test_an_automatic_deadline_follows_what_earlier_rounds_took(tmp_path: Path) -> None:
    sites = SiteSimulator(federation(3, site_3=SimulatedSite(delay_s=50.0)))
    state = run(tmp_path / "run", sites, run_config(rounds=3, round={"deadline_max_s": 600.0}))
    assert [entry.opened[0].deadline_s for entry in state.rounds.values()] == [600.0, 150.0, 150.0]


def test_a_wall_clock_that_jumps_changes_no_deadline_and_no_duration(tmp_path: Path) -> None:
    time = SimulatedTime()

    def jump(request):
        time.wall_offset_s += -86_400 if request.round % 2 else 7 * 86_400
        return

    sites = SiteSimulator(federation(3, site_1=SimulatedSite(fail=jump)), time)
    state = run(tmp_path / "run", sites, run_config(round={"deadline_s": 30.0}))
    assert state.status == "completed"
    assert all(0 <= landed.waited_s < 30 for entry in state.rounds.values() for landed in entry.landed.values())
    clocks = [record.clock_s for record in read(tmp_path / "run")][1:]
    assert clocks == sorted(clocks)


def test_evaluation_at_the_sites_is_the_mean_over_all_examples(tmp_path: Path) -> None:
    state = run(tmp_path / "run", SiteSimulator(federation(3)), run_config(evaluation={"sites_every": 2}))
    assert [number for number, entry in state.rounds.items() if "sites" in entry.evaluated] == [2, 3]
    evaluated = state.rounds[3].evaluated["sites"]
    assert evaluated.num_examples == 60
    assert evaluated.sites == 3


def test_a_run_starts_from_a_model_file_if_one_is_named(tmp_path: Path) -> None:
    run(tmp_path / "first", SiteSimulator(federation()))
    model = model_path(tmp_path / "first", 3)
    config = run_config(run={"name": "second", "rounds": 1, "initial_model": str(model)})
    run(tmp_path / "second", SiteSimulator(federation()), config)
    assert final_model(tmp_path / "second", 0).tobytes() == final_model(tmp_path / "first").tobytes()


def test_initial_parameters_come_from_the_next_site_if_the_first_cannot(tmp_path: Path) -> None:
    broken = SimulatedSite(fail=lambda request: Failure(code="task_failed", reason="no torch here"))
    state = run(tmp_path / "run", SiteSimulator(federation(site_1=broken)), run_config(rounds=1))
    assert state.initialised.source == "site site-2"


def test_the_journal_holds_the_resolved_configuration_and_the_environment(tmp_path: Path) -> None:
    run(tmp_path / "run", SiteSimulator(federation()))
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert RunConfig.from_dict(config) == run_config()
    assert config["round"]["wait_s"] == 300.0
    assert json.loads((tmp_path / "run/environment.json").read_text())["packages"]["numpy"] == np.__version__


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "median", "flwr.serverapp.strategy:FedAdam"])
def test_a_resumed_run_continues_with_the_strategys_state(tmp_path: Path, name: str) -> None:
    config = run_config(rounds=4, strategy={"name": name})
    run(tmp_path / "whole", SiteSimulator(federation()), config)
    halves = dataclasses.replace(config, run=dataclasses.replace(config.run, rounds=2))
    run(tmp_path / "halves", SiteSimulator(federation()), halves)
    run(tmp_path / "rest", _continued(tmp_path / "halves", tmp_path / "rest", config), config)
    assert final_model(tmp_path / "rest", 4).tobytes() == final_model(tmp_path / "whole", 4).tobytes()


def _continued(half: Path, directory: Path, config: RunConfig) -> SiteSimulator:
    """A journal as a server leaves it that is killed after two of four rounds."""
    import shutil

    shutil.copytree(half, directory)
    lines = (directory / "events.jsonl").read_bytes().splitlines(keepends=True)
    (directory / "events.jsonl").write_bytes(b"".join(lines[:-1]))
    return SiteSimulator(federation())


def test_the_server_says_how_many_sites_it_asks(tmp_path: Path) -> None:
    sites = federation(4)
    run(tmp_path / "run", SiteSimulator(sites), run_config(2, round={"cohort": 3}))
    asked = [request.cohort for site in sites.values() for request in site.asked if request.phase == "train"]
    assert asked == [3] * 6
