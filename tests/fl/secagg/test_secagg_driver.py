"""The loops around the state machines: a round as an engine drives it, sites as processes that come and go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fl.errors import BusyError
from fl.files import Lock
from fl.secagg import errors
from fl.secagg.driver import SiteFiles, answer, drive
from fl.secagg.messages import STAGES
from fl.secagg.replay import replay
from fl.secagg.storage import load_ledger, write_private_key
from tests.fl.secagg.federation import ANY_PROFILE, AUTHORITY, NOW_S, Federation, identity, random_source

STATE_KEY = bytes(range(32))


class Processes:
    """Sites of which nothing lives between two messages but files and a sealed blob."""

    def __init__(self, federation: Federation, directory: Path) -> None:
        self.federation, self.sealed = federation, dict[str, bytes]()
        self.silent: set[str] = set()
        self.files = {}
        for name in federation.names:
            key = directory / f"{name}.key"
            write_private_key(key, identity(name).key)
            self.files[name] = SiteFiles(
                site=name,
                key=key,
                ledger=directory / f"{name}.ledger",
                authority=AUTHORITY.public,
                policy=ANY_PROFILE,
            )

    def ask(self, name: str, payload: bytes) -> Any:
        reply, self.sealed[name] = answer(
            self.files[name],
            payload,
            sealed=self.sealed.get(name),
            state_key=STATE_KEY,
            model=self.federation.local_model(name),
            random=random_source(name, len(payload), len(self.sealed.get(name, b""))),
            now_s=NOW_S,
        )
        return reply

    def exchange(self, stage: str, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes, Any]]:
        for name, payload in requests.items():
            if name not in self.silent:
                reply = self.ask(name, payload)
                yield name, reply.payload, reply.vector


def test_a_round_of_processes_that_come_and_go(tmp_path: Path) -> None:
    federation = Federation(5)
    processes = Processes(federation, tmp_path)
    result = drive(federation.server, processes.exchange)
    assert np.abs(result.mean_P - federation.expected_mean(federation.names)).max() < 1e-6
    assert load_ledger(processes.files[federation.names[0]].ledger).runs["run-1"].revealed
    for name in federation.names:
        secret = identity(name).key.private_bytes_raw()
        assert secret not in processes.sealed[name]


def test_what_a_lying_site_sends_costs_only_its_own_update(tmp_path: Path) -> None:
    federation = Federation(5)
    processes = Processes(federation, tmp_path)

    def exchange(stage: str, requests: Mapping[str, bytes]) -> Iterator[tuple[str, bytes, Any]]:
        for name, payload, vector in processes.exchange(stage, requests):
            if stage == "mask" and name == federation.names[2]:
                yield name, payload[:-1], vector
            else:
                yield name, payload, vector

    result = drive(federation.server, exchange)
    assert result.dropped == (federation.names[2],)
    assert federation.server.faults[federation.names[2]].error == "MessageError"


@pytest.mark.parametrize("killed_at", STAGES)
def test_a_server_killed_before_any_stage_goes_on_and_no_site_reveals_twice(tmp_path: Path, killed_at: str) -> None:
    federation = Federation(4)
    processes = Processes(federation, tmp_path)
    stored: dict[str, Any] = {}

    class Killed(Exception):
        pass

    def checkpoint(stage: str, events: bytes, vector: Any) -> None:
        stored.update(events=events, vector=None if vector is None else vector.copy())
        if stage == killed_at and not stored.get("killed"):
            stored["killed"] = True
            raise Killed

    with pytest.raises(Killed):
        drive(federation.server, processes.exchange, checkpoint)
    server = federation.new_server()
    replay(server, stored["events"], stored["vector"])
    result = drive(server, processes.exchange, checkpoint)
    assert np.abs(result.mean_P - federation.expected_mean(federation.names)).max() < 1e-6
    name = federation.names[0]
    federation.attempt = 2
    refused = processes.ask(name, federation.new_server().request_for(name)).refused
    assert isinstance(refused, errors.AttemptError)


def test_a_site_that_trains_for_one_run_answers_another(tmp_path: Path) -> None:
    first, second = Federation(3), Federation(3, settings={"run_id": "run-2"})
    processes, others = Processes(first, tmp_path), Processes.__new__(Processes)
    others.federation, others.sealed, others.silent, others.files = second, {}, set(), processes.files
    for stage in STAGES[:2]:
        for name, payload, _ in processes.exchange(stage, first.server.next_requests()):
            first.server.receive(name, payload)
        first.server.close_stage()
    name = first.names[0]
    model = first.local_model(name)
    answered = []

    def train() -> Any:
        answered.append(others.ask(name, second.server.request_for(name)))
        return model.train()

    first.local_model = lambda name: dataclasses.replace(model, train=train)  # type: ignore[method-assign]
    assert processes.ask(name, first.server.request_for(name)).refused is None
    assert [reply.refused for reply in answered] == [None]
    assert load_ledger(processes.files[name].ledger).runs.keys() == {"run-1", "run-2"}


def test_a_ledger_that_another_message_holds_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(3)
    processes = Processes(federation, tmp_path)
    name = federation.names[0]
    path = processes.files[name].ledger
    monkeypatch.setattr("fl.secagg.driver.LEDGER_WAIT_S", 0.05)
    with Lock(path.with_name(path.name + ".lock")), pytest.raises(BusyError, match="is held by process"):
        processes.ask(name, federation.server.request_for(name))
    assert processes.ask(name, federation.server.request_for(name)).refused is None


def test_a_site_process_without_its_sealed_state_refuses_and_the_next_attempt_works(tmp_path: Path) -> None:
    federation = Federation(4)
    processes = Processes(federation, tmp_path)
    for stage in STAGES[:2]:
        for name, payload, _ in processes.exchange(stage, federation.server.next_requests()):
            federation.server.receive(name, payload)
        federation.server.close_stage()
    name = federation.names[0]
    processes.sealed.clear()
    assert isinstance(processes.ask(name, federation.server.request_for(name)).refused, errors.StageError)
    processes.silent = set(federation.names[1:3])
    with pytest.raises(errors.TooFewSurvivorsError):
        drive(federation.server, processes.exchange)
    processes.silent = set()
    federation.attempt = 2
    assert len(drive(federation.new_server(), processes.exchange).survivors) == 4
