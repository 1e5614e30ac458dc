"""Runs that never die: the centre's parts are killed, and the run ends with the model that it would have had."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import select

from fl.arrays import ArrayFile
from fl.processes import program
from fl.rounds import events
from fl.rounds.checkpoint import model_path
from fl.rounds.config import RunConfig
from fl.rounds.journal import load_state, read
from server.store import Store
from server.store.runs import Metric, Model, Reply, Round, Run
from simulations import simulate
from tests.e2e.control_room import Room

pytestmark = [pytest.mark.federation, pytest.mark.timeout(600)]

RUN = {
    "run": {"name": "trial", "rounds": 4, "seed": 11},
    "task": {"name": "digits", "network": "mlp"},
    "round": {"min_online": 2, "quorum": 1.0},
    "evaluation": {"sites_every": 2},
}

SECURE = {
    "run": {"name": "hidden", "rounds": 3, "seed": 11},
    "task": {"name": "digits", "network": "mlp"},
    "round": {"min_online": 4, "quorum": 1.0, "deadline_s": 60.0},
    "evaluation": {"sites_every": 0},
    "secagg": {"weight_cap": 500},
}


def model_of(directory: Path, rounds: int) -> bytes:
    with ArrayFile(model_path(directory, rounds)) as file:
        return file.vector_P.tobytes()


def undisturbed(room: Room, config: dict, folder: Path) -> bytes:
    """The model of the same run, simulated on the sites' data with nothing killed."""
    data = folder / "data"
    data.mkdir()
    names = sorted(path.parent.name for path in room.folder.glob("site-*/data"))
    for name in names:
        (data / name).symlink_to(room.folder / name / "data")
    simulate(RunConfig.from_dict(config), folder / "undisturbed", sites=len(names), data=data)
    return model_of(folder / "undisturbed", config["run"]["rounds"])


def check_tables(room: Room, name: str) -> None:
    """What the dashboard shows is what the journal says."""
    journal = room.home.runs / name
    state, store = load_state(journal), Store(room.home.store)
    with store.read() as session:
        run = session.scalars(select(Run).where(Run.name == name)).one()
        assert (run.state, run.rounds_done, run.lines) == (state.status, state.committed_rounds, len(read(journal)))
        for row in session.scalars(select(Round).where(Round.run == run.number)):
            entry = state.round(row.number)
            assert row.state == "committed"
            assert (row.attempts, row.survivors) == (len(entry.opened), len(entry.closed.survivors))
            assert row.model_digest == entry.committed.model_digest
            of_round = session.scalars(select(Reply).where(Reply.run == run.number, Reply.round == row.number)).all()
            landed = {reply.site for reply in of_round if (reply.phase, reply.outcome) == ("train", "landed")}
            assert landed == set(entry.landed)
        for metric in session.scalars(select(Metric).where(Metric.run == run.number, Metric.place == "sites")):
            assert state.round(metric.round).evaluated["sites"].metrics[metric.name] == metric.value
        (model,) = session.scalars(select(Model).where(Model.run == run.number))
        assert model.digest == state.model_digest
    store.close()


def until(room: Room, name: str, what, *, timeout_s: float = 300.0):
    """Wait for something of a run, through whatever happens to the control room."""

    def look():
        store = Store(room.home.store)
        try:
            with store.read() as session:
                return what(session.scalars(select(Run).where(Run.name == name)).one())
        finally:
            store.close()

    return room.wait(look, f"run {name}", timeout_s=timeout_s)


def test_every_part_is_killed_in_turn_and_the_run_ends_as_if_nothing_had_been(tmp_path):
    room = Room(tmp_path)
    config = {**RUN, "run": {**RUN["run"], "rounds": 6}}
    try:
        with room.client() as client:
            name = client.start_run(config=config)
            number = client.run(name).row.number
        parts = [
            ("flwr-serverapp",),
            ("server.control_room",),
            ("server gateway".replace(" ", "\0"),),
            ("flower-superexec",),
            ("flower-superlink",),
        ]
        for done, part in enumerate(parts):
            until(room, name, lambda run, done=done: run.rounds_done >= done and run.state == "running")
            assert room.kill_part(*part), part
        until(room, name, lambda run: run.state == "completed")
        with room.client() as client:
            assert client.run(name).row.number == number
            assert client.verify_audit().holds
        check_tables(room, name)
        assert model_of(room.home.runs / name, 6) == undisturbed(room, config, tmp_path)
    finally:
        room.end()


def test_a_serverapp_killed_while_sites_hold_masks_goes_on_by_itself_to_the_same_sum(tmp_path):
    room = Room(tmp_path, sites=SECURE["round"]["min_online"])
    try:
        with room.client() as client:
            name = client.start_run(config=SECURE)
            number = client.run(name).row.number
        journal = room.home.runs / name

        def sites_train():
            closed = [line.event for line in read(journal) if isinstance(line.event, events.StageClosed)]
            return any((event.round, event.stage) == (2, "share") for event in closed)

        room.wait(sites_train, "the second round's shares")
        assert room.kill_part("flwr-serverapp")
        until(room, name, lambda run: run.state == "completed")
        check_tables(room, name)
        state = load_state(journal)
        assert [len(entry.opened) for _, entry in sorted(state.rounds.items())] == [1, 2, 1]
        assert all(entry.sum and len(entry.sum.survivors) == 4 for entry in state.rounds.values())
        with room.client() as client:
            assert client.run(name).row.number == number
            assert client.verify_audit().holds
        ours, theirs = (
            np.frombuffer(model, np.float32) for model in (model_of(journal, 3), undisturbed(room, SECURE, tmp_path))
        )
        step = np.abs(ours - np.frombuffer(model_of(journal, 2), np.float32)).max()
        # The sums are exact; but sites round at random before they mask, so no two runs have the same bits.
        assert np.abs(ours - theirs).max() < 1e-6 < 1e-3 < step
    finally:
        room.end()


def test_the_whole_centre_is_killed_and_the_run_goes_on_when_it_is_back(tmp_path):
    room = Room(tmp_path)
    try:
        with room.client() as client:
            name = client.start_run(config=RUN)
        until(room, name, lambda run: run.rounds_done >= 1)
        room.kill()
        room.start()
        until(room, name, lambda run: run.state == "completed")
        check_tables(room, name)
        assert model_of(room.home.runs / name, 4) == undisturbed(room, RUN, tmp_path)
    finally:
        room.end()


def test_runs_wait_for_a_place_pause_stop_and_resume(tmp_path):
    room = Room(tmp_path, control={"runs_at_once": 1})
    try:
        with room.client() as client:
            first = client.start_run(config=RUN)
            second = client.start_run(config=RUN, project="other")
            until(room, first, lambda run: run.state == "running" and run.rounds_done >= 1)
            assert client.run(second).row.state == "queued"
            client.change_run(first, "pause")
            until(room, first, lambda run: run.state == "paused")
            until(room, second, lambda run: run.state == "running")
            client.change_run(second, "stop")
            until(room, second, lambda run: run.state == "stopped")
            client.change_run(first, "resume")
            until(room, first, lambda run: run.state == "completed")
            check_tables(room, first)
            assert load_state(room.home.runs / second).status == "stopped"
        assert model_of(room.home.runs / first, 4) == undisturbed(room, RUN, tmp_path)
    finally:
        room.end()


def test_a_flower_app_goes_through_the_queue_to_its_end(tmp_path):
    room = Room(tmp_path)
    try:
        app = Path(__file__).parent / "apps" / "mean"
        argv = [program("fl"), "run", "start", "--app", str(app), "-c", "rounds=2", "--project", "xray", "--json"]
        done = subprocess.run([*argv, "--home", str(room.home.path)], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, done.stderr
        name = json.loads(done.stdout)["run"]
        with room.client() as client:
            row = client.run(name).row
            assert (row.state, row.project, row.lives) == ("completed", "xray", 1)
            assert "the mean is [1.0, 1.0, 1.0]" in client.log(name).text  # each is the only site of its own data
            assert client.verify_audit().holds
    finally:
        room.end()


@pytest.mark.slow
def test_an_executor_that_lives_and_does_nothing_is_started_again(tmp_path):
    room = Room(tmp_path)
    try:
        (stuck,) = room.pids("flower-superexec")
        os.kill(stuck, signal.SIGSTOP)
        with room.client() as client:
            name = client.start_run(config={**RUN, "run": {**RUN["run"], "rounds": 1}})
        until(room, name, lambda run: run.state == "completed", timeout_s=150)
        assert "superlink executor does nothing" in room.log.read_text()
        assert room.pids("flower-superexec") != [stuck]
    finally:
        room.end()


@pytest.mark.chaos
@pytest.mark.slow
def test_parts_are_killed_at_random_during_twenty_rounds(tmp_path):
    chance, room = random.Random(20261126), Room(tmp_path)
    config = {**RUN, "run": {**RUN["run"], "rounds": 20}}
    parts = ["flwr-serverapp", "server.control_room", "flower-superexec", "flower-superlink", "server\0gateway"]
    try:
        with room.client() as client:
            name = client.start_run(config=config)
        killed = 0
        for done in range(1, 19, 3):
            until(room, name, lambda run, done=done: run.rounds_done >= done)
            time.sleep(chance.uniform(0, 3))
            killed += room.kill_part(chance.choice(parts))
            if chance.random() < 0.4:
                site = room.sites.children[f"site-{chance.randint(1, 2)}"]
                site.process.kill()
        until(room, name, lambda run: run.state == "completed", timeout_s=500)
        assert killed >= 4
        check_tables(room, name)
        assert model_of(room.home.runs / name, 20) == undisturbed(room, config, tmp_path)
    finally:
        room.end()
