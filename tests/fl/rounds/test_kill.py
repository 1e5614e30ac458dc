"""Promise 2: kill the server at any instant; the resumed run ends with the same model, to the bit.

The server is a forked child that runs the engine on simulated sites. It kills itself with SIGKILL at the n-th durable
step (each write is torn in half first), or is killed by its parent after a random time. Then it is started again.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fl.arrays import ArrayFile
from fl.rounds.checkpoint import Streaming, model_path
from fl.rounds.config import RunConfig
from fl.rounds.engine import Engine
from fl.rounds.journal import EVENTS, Journal, load_state
from fl.strategies import registry
from tests.fl.rounds.simulator import SimulatedSite, SiteSimulator, federation, run_config

FORK = multiprocessing.get_context("fork")
CONFIG = run_config(rounds=2, strategy={"name": "fedadam"}, evaluation={"sites_every": 1})


def serve(directory: Path, config: RunConfig, sites: dict[str, SimulatedSite], pause_s: float = 0.0) -> None:
    """What a server process does: begin the run or take it up again."""
    simulator = SiteSimulator(sites)
    for site in simulator.sites.values():
        site.fail = lambda request: time.sleep(pause_s)  # returns None: no failure, only time in which to be killed
    if not (directory / EVENTS).exists():
        for path in sorted(directory.rglob("*"), reverse=True):  # nothing was begun yet: the submitter begins again
            path.rmdir() if path.is_dir() else path.unlink()
        Journal.create(directory, config.to_dict(), clock=simulator.time.clock).close()
    with Journal(directory, clock=simulator.time.clock) as journal:
        if journal.state.created is None:
            raise RuntimeError("a journal without its first event")
        Engine(journal, config, simulator, Streaming(registry.create("fedadam", {}))).run()


def kill_at(step: int) -> None:
    """Let this process kill itself before its n-th durable step; a write is torn in half first."""
    taken = 0

    def counted(function: Callable[..., Any], *, torn: bool = False) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == step:
                if torn:
                    descriptor, data = arguments
                    function(descriptor, data[: len(data) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)

        return wrapper

    os.write = counted(os.write, torn=True)
    os.fsync = counted(os.fsync)
    for name in ("rename", "replace", "unlink", "mkdir", "rmdir"):
        setattr(Path, name, counted(getattr(Path, name)))


def in_child(function: Callable[[], None]) -> multiprocessing.process.BaseProcess:
    child = FORK.Process(target=function)
    child.start()
    return child


def model_of(directory: Path) -> bytes:
    with ArrayFile(model_path(directory, CONFIG.run.rounds)) as file:
        return file.vector_P.tobytes()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory = tmp_path_factory.mktemp("undisturbed") / "run"
    directory.mkdir()
    serve(directory, CONFIG, federation(3))
    return model_of(directory)


def killed_and_resumed(directory: Path, step: int, undisturbed: bytes) -> bool:
    """A run that is killed before a step and taken up again; false if it ends before that step."""
    directory.mkdir()

    def killed() -> None:
        kill_at(step)
        serve(directory, CONFIG, federation(3))

    child = in_child(killed)
    child.join(60)
    if child.exitcode == 0:
        return False
    assert child.exitcode == -signal.SIGKILL, f"step {step}: the server ended by itself"
    again = in_child(lambda: serve(directory, CONFIG, federation(3)))
    again.join(60)
    assert again.exitcode == 0, f"killed before step {step}, the run could not be resumed"
    assert load_state(directory).status == "completed"
    assert model_of(directory) == undisturbed, f"killed before step {step}, the model differs"
    assert not list(directory.rglob("*.part"))
    return True


@pytest.mark.parametrize(
    "stride",
    [
        pytest.param(5, id="one in five"),
        pytest.param(1, id="every one", marks=[pytest.mark.slow, pytest.mark.timeout(600)]),
    ],
)
def test_killed_at_durable_steps_the_resumed_run_ends_with_the_same_model(
    tmp_path: Path, undisturbed: bytes, stride: int
) -> None:
    step = stride
    while killed_and_resumed(tmp_path / str(step), step, undisturbed):
        step += stride
    assert step > 100, "the steps that can be killed are not counted"


@pytest.mark.parametrize("seed", range(6))
def test_killed_again_and_again_at_random_instants_it_still_ends_with_the_same_model(
    tmp_path: Path, undisturbed: bytes, seed: int
) -> None:
    directory = tmp_path / "run"
    directory.mkdir()
    rng = random.Random(seed)  # the seed stands in the test's name
    kills = 0
    for life in range(200):
        child = in_child(lambda: serve(directory, CONFIG, federation(3), pause_s=0.02))
        child.join(rng.uniform(0.02, 0.15) * 1.1**life)  # on a slow machine a life gets longer until it gets somewhere
        if child.is_alive():
            os.kill(child.pid or 0, signal.SIGKILL)
            kills += 1
        child.join(60)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert load_state(directory).status == "completed"
    assert model_of(directory) == undisturbed
    assert kills, "the run was over before it could be killed"


def test_a_resumed_round_asks_only_the_sites_whose_reply_is_missing(tmp_path: Path) -> None:
    directory = tmp_path / "run"
    sites = federation(4)

    def die_in_round_2(request: Any) -> None:
        if request.phase == "train" and request.round == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    sites["site-4"].fail = die_in_round_2
    config = run_config(rounds=2)

    def killed() -> None:
        simulator = SiteSimulator(sites)
        with Journal.create(directory, config.to_dict(), clock=simulator.time.clock) as journal:
            Engine(journal, config, simulator, Streaming(registry.create("fedavg", {}))).run()

    child = in_child(killed)
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    assert sorted(load_state(directory).rounds[2].landed) == ["site-1", "site-2", "site-3"]

    simulator = SiteSimulator(federation(4))
    with Journal(directory, clock=simulator.time.clock) as journal:
        Engine(journal, config, simulator, Streaming(registry.create("fedavg", {}))).run()
    assert {name: len(site.asked) for name, site in simulator.sites.items()} == {
        "site-1": 0,
        "site-2": 0,
        "site-3": 0,
        "site-4": 1,
    }
