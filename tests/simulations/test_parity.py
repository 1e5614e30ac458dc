"""A deployed run equals its simulation to the bit, whatever befell its sites; and if it doesn't, it is said where."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fl import cli
from fl.errors import ConfigError, JournalError
from fl.flower.folding import folding_for
from fl.rounds import events
from fl.rounds.config import RunConfig, options
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal, load_state, read
from fl.rounds.site import Worker
from fl.tasks import registry
from simulations import Scenario, simulate
from simulations.clock import VirtualTime
from simulations.engine.sequential import Sequential
from simulations.parity import ParityError, prove
from simulations.sites import SimulatedSites
from simulations.world import build

ROUNDS = 4
RUN: dict[str, Any] = {
    "task": {"name": "digits", "network": "mlp"},
    "run": {"rounds": ROUNDS, "seed": 5},
    "training": {"batch_size": 16},
    "evaluation": {"sites_every": 0},
}


def deploy(directory: Path, run: dict[str, Any], sites: int = 8, **world: Any) -> Path:
    """A run whose sites are late, fail and come and go, with a journal that knows of no simulation."""
    config = RunConfig.from_dict(run)
    scenario = Scenario.from_dict({**run, "population": {"sites": sites}, **world})
    built, task = build(scenario, registry.create(config.task["name"], options(config.task)))
    virtual = VirtualTime()
    alone = Sequential(lambda site: Worker(task, config.training, site))
    port = SimulatedSites(built, alone, lambda jobs, model: alone, virtual)
    with Journal.create(directory, config.to_dict(), clock=virtual.clock(), durable=False) as journal:
        Engine(journal, config, port, folding_for(config.strategy)).run()
    return directory


def of_kind(directory: Path, *kinds: type[events.Event]) -> list[Any]:
    return [record.event for record in read(directory) if isinstance(record.event, kinds)]


def test_a_run_without_incidents_is_proved(tmp_path):
    simulate(RunConfig.from_dict(RUN), tmp_path / "run")
    found = prove(tmp_path / "run", tmp_path / "again")
    found.check()
    assert [it.round for it in found.rounds] == [0, 1, 2, 3, 4]
    assert [it.survivors for it in found.rounds] == [0, 3, 3, 3, 3]
    assert load_state(tmp_path / "again").model_digest == found.rounds[-1].deployed


def test_late_failing_and_absent_sites_are_late_failing_and_absent_again(tmp_path):
    run = {**RUN, "round": {"cohort": 4, "over_selection": 0.5, "quorum": 3, "attempts": 10, "deadline_s": 900.0}}
    run["strategy"] = {"name": "median"}
    world = {
        "devices": [{"name": "slow", "samples_per_s": 1.0}, {"name": "fast", "samples_per_s": 9.0}],
        "faults": {"dropout": 0.3, "crash": 0.2},
    }
    deploy(tmp_path / "run", run, sites=12, **world)
    opened = of_kind(tmp_path / "run", events.RoundOpened)
    assert of_kind(tmp_path / "run", events.RoundAbandoned), "else this tests too little"
    assert of_kind(tmp_path / "run", events.ReplyFailed)
    closed = of_kind(tmp_path / "run", events.RoundClosed)
    assert {len(event.survivors) for event in closed} != {4} or any(event.missing for event in closed)
    found = prove(tmp_path / "run", tmp_path / "again")
    found.check()
    assert [event.cohort for event in of_kind(tmp_path / "again", events.RoundOpened)] == [it.cohort for it in opened]


def test_a_cohort_that_was_drawn_while_unnamed_sites_were_offline_is_drawn_again(tmp_path):
    run = {**RUN, "round": {"cohort": 3}}
    deploy(tmp_path / "run", run, sites=20, devices=[{"name": "laptop", "availability": [0.6] * 24}])
    assert {event.online for event in of_kind(tmp_path / "run", events.RoundOpened)} != {20}
    prove(tmp_path / "run", tmp_path / "again", sites=20).check()


def test_an_unfinished_run_is_proved_as_far_as_it_came(tmp_path):
    config = RunConfig.from_dict(RUN)
    simulate(config, tmp_path / "run")
    lines = (tmp_path / "run" / "events.jsonl").read_bytes().splitlines(keepends=True)
    commits = [place for place, record in enumerate(read(tmp_path / "run")) if record.event.kind == "round_committed"]
    (tmp_path / "run" / "events.jsonl").write_bytes(b"".join(lines[: commits[1] + 2]))
    found = prove(tmp_path / "run", tmp_path / "again")
    found.check()
    assert len(found.rounds) == 3


def test_other_data_is_found_in_the_first_round_and_said(tmp_path):
    simulate(RunConfig.from_dict(RUN), tmp_path / "run", sites=3)
    found = prove(tmp_path / "run", tmp_path / "again", sites=5)
    assert found.parts_at == 1
    with pytest.raises(ParityError, match=r"part in round 1: site-1 trained on \d+ examples, and here on \d+"):
        found.check()
    run = {**RUN, "round": {"cohort": 3}}
    deploy(tmp_path / "split", run, sites=3, split={"kind": "quantity", "alpha": 0.5})
    found = prove(tmp_path / "split", tmp_path / "once more")
    assert found.parts_at == 1
    assert found.reason
    assert "site-1 trained on" in found.reason


def test_an_update_that_was_changed_on_the_way_is_named(tmp_path):
    run = {**RUN, "round": {"cohort": 3}}
    deploy(tmp_path / "run", run, sites=3, hostile=[{"kind": "sign_flip", "share": 0.4}])
    with pytest.raises(ParityError, match=r"part in round 1: the update of site-. differs; it was made on cpu"):
        prove(tmp_path / "run", tmp_path / "again").check()


def test_sites_have_their_own_data_again(tmp_path):
    from server import shards

    directories = [tmp_path / "home" / "sites" / f"site-{number}" / "data" for number in (1, 2)]
    for directory in directories:
        directory.mkdir(parents=True)
    shards.write(shards.ShardsConfig(task="digits", seed=3), directories)
    data = tmp_path / "data"
    data.mkdir()
    for directory in directories:
        (data / directory.parent.name).symlink_to(directory)
    run = tmp_path / "home" / "runs" / "one"
    simulate(RunConfig.from_dict(RUN), run, data=data)
    prove(run, tmp_path / "from its home").check()
    run.rename(tmp_path / "elsewhere")
    assert prove(tmp_path / "elsewhere", tmp_path / "without").parts_at == 1
    prove(tmp_path / "elsewhere", tmp_path / "with", data=data).check()
    with pytest.raises(ConfigError, match=r"no such directory: .*/site-1"):
        prove(tmp_path / "elsewhere", tmp_path / "wrong", data=tmp_path / "home")


def test_what_cannot_be_proved_is_refused(tmp_path):
    simulate(Scenario.from_dict({**RUN, "population": {"sites": 3}}), tmp_path / "simulated")
    with pytest.raises(JournalError, match="is the journal of a simulation"):
        prove(tmp_path / "simulated", tmp_path / "again")
    Journal.create(tmp_path / "new", RunConfig.from_dict(RUN).to_dict()).close()
    with pytest.raises(JournalError, match=r"no round of .* was committed"):
        prove(tmp_path / "new", tmp_path / "again")
    with pytest.raises(JournalError, match="is not a journal"):
        prove(tmp_path / "nothing", tmp_path / "again")
    secure = RunConfig.from_dict({**RUN, "run": {"rounds": 1}, "secagg": {}})
    simulate(secure, tmp_path / "secure")
    with pytest.raises(ConfigError, match=r"the run has \[secagg\]"):
        prove(tmp_path / "secure", tmp_path / "again")
    simulate(RunConfig.from_dict(RUN), tmp_path / "run", sites=4)
    with pytest.raises(ConfigError, match=r"the run asked site-3, which is none of 2 sites"):
        prove(tmp_path / "run", tmp_path / "again", sites=2)


def test_the_command_shows_each_round_and_ends_with_a_status(tmp_path, capsys):
    simulate(RunConfig.from_dict(RUN), tmp_path / "run")
    assert cli.run(["sim", "parity", str(tmp_path / "run")]) == 0
    told = capsys.readouterr()
    assert told.out.count("yes") == 5
    assert "the global model is the same after each of 4 rounds, to the bit" in told.err
    assert cli.run(["sim", "parity", str(tmp_path / "run"), "--json", "--out", str(tmp_path / "kept")]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["is_same"] is True
    assert len(facts["rounds"]) == 5
    assert (tmp_path / "kept" / "events.jsonl").exists()
    assert cli.run(["sim", "parity", str(tmp_path / "run"), "--sites", "5"]) == 1
    assert "the models part in round 1" in capsys.readouterr().err
    assert cli.run(["sim", "parity", str(tmp_path / "run"), "--sites", "5", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["parts_at"] == 1
