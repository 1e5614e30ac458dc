import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from fl.errors import BusyError, ConfigError, JournalError, UnreachableError
from fl.files import Lock
from server import local


def facts(**changes):
    known = {"version": 1, "pid": os.getpid(), "address": "127.0.0.1:9", "ca": "ca.crt", "sites": []}
    return json.dumps(known | changes)


@pytest.fixture
def ended():
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-S", "-c", ""]) as process:
        pass
    return process.pid


def test_the_home_is_the_option_then_the_variable_then_here(monkeypatch):
    monkeypatch.delenv("FEDFLEET_HOME", raising=False)
    assert local.choose_home(None) == Path(".fedfleet")
    monkeypatch.setenv("FEDFLEET_HOME", "/srv/fl")
    assert local.choose_home(None) == Path("/srv/fl")
    assert local.choose_home(Path("mine")) == Path("mine")


def test_a_home_without_a_federation_says_how_to_start_one(tmp_path):
    with pytest.raises(UnreachableError, match="no federation runs in") as caught:
        local.connect(tmp_path)
    assert caught.value.hint == f"fl up --home {tmp_path}"


def test_the_traces_of_a_crashed_federation_are_not_taken_for_one(tmp_path, ended):
    (tmp_path / "federation.json").write_text(facts(pid=ended))
    with pytest.raises(UnreachableError, match="no federation runs in"):
        local.read(tmp_path)


def test_a_running_federation_is_found(tmp_path):
    (tmp_path / "federation.json").write_text(facts())
    assert local.read(tmp_path)["address"] == "127.0.0.1:9"


def test_a_federation_of_a_newer_version_is_refused(tmp_path):
    (tmp_path / "federation.json").write_text(facts(version=2))
    with pytest.raises(JournalError, match="has version 2, this fl knows version 1"):
        local.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"sites": 0}, "sites is 0, must be at least 1"),
        ({"sites": 1000}, "sites is 1000, must be at most 256"),
        ({"port": 0}, "port is 0, must be at least 1"),
        ({"port": 70000}, "port is 70000, must be at most 65535"),
    ],
)
def test_a_wrong_option_is_refused_with_its_value(tmp_path, changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        local.FederationConfig(home=tmp_path, **changes)


def test_a_home_that_is_in_use_is_refused_before_anything_is_touched(tmp_path):
    (tmp_path / "federation.json").write_text(facts())
    config = local.FederationConfig(home=tmp_path, sites=1)
    with Lock(tmp_path / "lock"), pytest.raises(BusyError, match=f"held by process {os.getpid()}") as caught:
        local.LocalFederation(config, say=print).__enter__()
    assert "--home" in caught.value.hint
    assert {path.name for path in tmp_path.iterdir()} == {"federation.json"}


HOLDER = """
import os, pathlib, sys, time
from fl.files import Lock
lock = Lock(pathlib.Path(sys.argv[1]))
lock.acquire()
if os.fork() == 0:
    time.sleep(0.3)
os._exit(0)
"""


def test_the_lock_of_a_crashed_federation_is_waited_for_until_its_processes_are_gone(tmp_path):
    subprocess.run([sys.executable, "-c", HOLDER, tmp_path / "lock"], check=True)
    with pytest.raises(BusyError):
        Lock(tmp_path / "lock").acquire()
    lock = local.take(tmp_path / "lock", hint="end it")
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"
    lock.release()
