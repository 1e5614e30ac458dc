"""Promise 2 with secure aggregation: kill the server at any instant; the run ends, and no site reveals twice.

The server is a forked child that kills itself with SIGKILL at the n-th durable step. Its sites live in the parent, as
they do on other machines: what they have answered they have answered, and a reply on its way to a dead server is lost.
"""

from __future__ import annotations

import multiprocessing
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.arrays import ArrayFile
from fl.rounds.journal import EVENTS, load_state
from fl.rounds.port import Reply, Request
from fl.rounds.secure import Credentials
from fl.rounds.secure_site import SecureSite
from fl.secagg.messages import Reveal, kind_of
from tests.fl.rounds.secure_simulator import (
    SecureSimulator,
    run_securely,
    secure_config,
    secure_simulator,
    secure_sites,
)
from tests.fl.rounds.simulator import SimulatedTime
from tests.fl.rounds.test_kill import in_child, kill_at
from tests.fl.rounds.test_secure import Fragile, Killed, model_after

CONFIG = secure_config(2, evaluation={"sites_every": 1}, journal={"keep_models": 9})


class RemoteSites:
    """The port to sites in another process, behind a pipe; time is theirs."""

    def __init__(self, pipe: Connection) -> None:
        self.pipe, self.time = pipe, SimulatedTime()

    def _call(self, name: str, *arguments: Any) -> Any:
        self.pipe.send((name, self.time.now_s, arguments))
        self.time.now_s, answer = self.pipe.recv()
        return answer

    def online(self) -> Sequence[str]:
        return self._call("online")

    def ask(
        self,
        sites: Sequence[str],
        request: Request,
        model: ArrayFile | None,
        payloads: Mapping[str, bytes] | None = None,
    ) -> None:
        arrays = {name: array.copy() for name, array in model.arrays().items()} if model else None
        self._call("ask", sites, request, arrays, payloads)

    def replies(self, timeout_s: float) -> Iterator[Reply]:
        yield from self._call("replies", timeout_s)


class _Model:
    """As much of an ``ArrayFile`` as the simulator needs of one."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = lambda: arrays


def attend(pipe: Connection, sites: SecureSimulator) -> None:
    """Be the sites of a server until it is gone."""
    while True:
        try:
            name, sites.time.now_s, arguments = pipe.recv()
        except EOFError:
            return
        if name == "ask":
            names, request, arrays, payloads = arguments
            sites.ask(names, request, _Model(arrays) if arrays else None, payloads)
            answer = None
        else:
            answer = list(sites.replies(*arguments)) if name == "replies" else sites.online()
        pipe.send((sites.time.now_s, answer))


def life(directory: Path, sites: SecureSimulator, credentials: Credentials, *, step: int = 0) -> int:
    """One life of a server, killed before its n-th durable step if one is given; returns its exit code."""
    ours, its = multiprocessing.Pipe()

    def serve() -> None:
        ours.close()
        if step:
            kill_at(step)
        run_securely(directory, RemoteSites(its), CONFIG, credentials)  # type: ignore[arg-type]

    child = in_child(serve)
    its.close()
    attend(ours, sites)
    child.join(60)
    assert child.exitcode is not None
    return child.exitcode


def check_reveals(sites: SecureSimulator) -> None:
    """Each site revealed shares of one session a round, however often the same bytes were sent."""
    revealed = defaultdict(set)
    for reply in sites.replies_seen:
        if reply.request.stage == "unmask" and kind_of(reply.payload) == Reveal.KIND:
            revealed[reply.site, reply.request.round].add(reply.payload)
    assert {len(payloads) for payloads in revealed.values()} == {1}
    for site in sites.secure.values():
        assert len(list((site.directory / "receipts").iterdir())) == CONFIG.run.rounds


def killed_and_resumed(tmp_path: Path, step: int) -> bool:
    """A run that is killed at a step and taken up again by a server that the sites remember."""
    where = f"killed before step {step}"
    directory = tmp_path / str(step) / "run"
    credentials, sites = secure_simulator(tmp_path / str(step) / "keys", secure_sites(3))
    status = life(directory, sites, credentials, step=step)
    if status == 0:
        return False
    assert status == -signal.SIGKILL, f"{where}, the server ended by itself"
    if not (directory / EVENTS).exists():
        shutil.rmtree(directory, ignore_errors=True)  # nothing was begun yet: the submitter begins again
    going_on = {path.name for path in directory.rglob("secagg-*.events")} if directory.exists() else set()
    again = SecureSimulator(sites.sites, sites.secure, sites.time)
    again.replies_seen = sites.replies_seen
    assert life(directory, again, credentials) == 0, f"{where}, the run could not be resumed"
    state = load_state(directory)
    assert state.status == "completed", where
    attempts = [len(entry.opened) for entry in state.rounds.values()]
    assert sum(attempts) <= CONFIG.run.rounds + 1, where
    if going_on:
        assert attempts in ([1, 1], [2, 1], [1, 2]), where
        assert sum(attempts) == CONFIG.run.rounds, f"{where}, an attempt whose sum was masked was begun anew"
    assert state.spent == 0, where
    check_reveals(again)
    assert not list(directory.rglob("*.part")), where
    return True


STRIDE = 11


def test_killed_at_durable_steps_the_run_ends_and_no_site_reveals_twice(tmp_path: Path) -> None:
    step = STRIDE
    while killed_and_resumed(tmp_path, step):
        step += STRIDE
    assert step > 100, "the steps that can be killed are not counted"


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_killed_at_every_durable_step_the_run_ends_and_no_site_reveals_twice(tmp_path: Path) -> None:
    step = 1
    while killed_and_resumed(tmp_path, step):
        step += 1
    assert step > 100, "the steps that can be killed are not counted"


@pytest.mark.parametrize("stage", ["agree", "unmask"])
def test_from_the_masked_sum_on_the_model_is_determined(tmp_path: Path, stage: str) -> None:
    """Two servers that take up copies of one journal end with the same model to the bit."""
    credentials, plain = secure_simulator(tmp_path / "keys", secure_sites(4))
    fragile = Fragile(plain.sites, plain.secure)
    fragile.stage = stage
    with pytest.raises(Killed):
        run_securely(tmp_path / "run", fragile, CONFIG, credentials)
    models = []
    for copy in ("first", "second"):
        shutil.copytree(tmp_path / "run", tmp_path / copy / "run")
        shutil.copytree(tmp_path / "keys", tmp_path / copy / "keys")
        secure = {
            name: SecureSite(tmp_path / copy / "keys" / name, dict(site.memory)) for name, site in plain.secure.items()
        }
        again = SecureSimulator(plain.sites, secure, SimulatedTime())
        state = run_securely(tmp_path / copy / "run", again, CONFIG, credentials)
        assert len(state.rounds[2].opened) == 1
        models.append(model_after(tmp_path / copy / "run", 2).tobytes())
    assert models[0] == models[1]


@pytest.mark.parametrize("stage", ["agree", "unmask"])
def test_sites_that_forgot_everything_with_the_server_take_part_in_a_new_attempt(tmp_path: Path, stage: str) -> None:
    """As Flower does: what a site keeps in memory belongs to a run, and a resumed one is another run of Flower's."""
    credentials, plain = secure_simulator(tmp_path / "keys", secure_sites(4))
    fragile = Fragile(plain.sites, plain.secure)
    fragile.stage, fragile.answers = stage, 2
    with pytest.raises(Killed):
        run_securely(tmp_path / "run", fragile, CONFIG, credentials)
    for site in plain.secure.values():
        site.memory.clear()
    again = SecureSimulator(plain.sites, plain.secure, fragile.time)
    again.replies_seen = fragile.replies_seen
    state = run_securely(tmp_path / "run", again, CONFIG, credentials)
    assert state.status == "completed"
    assert [len(entry.opened) for entry in state.rounds.values()] == [1, 2]
    assert state.spent == (stage == "unmask")
