import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fl import processes, watchdog
from fl.errors import BusyError, ProcessError
from fl.files import Lock

# Waits far longer than any test, and says that it runs.
SLEEPER = "import time; print('runs', flush=True); time.sleep(600)"
# Starts a process of its own and hides from polite requests, as does the process that it starts.
STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if len(sys.argv) < 2:
    subprocess.Popen([sys.executable, "-S", "-c", SOURCE, "inner"])
print("runs", flush=True)
time.sleep(600)
"""
STUBBORN = STUBBORN.replace("SOURCE", repr(STUBBORN.replace("SOURCE", "None")))


def python(source, *arguments):
    return [sys.executable, "-S", "-c", source, *arguments]


def wait_until(condition, timeout_s=20):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


@pytest.fixture
def group():
    with processes.Group(grace_s=0.5) as group:
        yield group


@pytest.fixture
def start(group, tmp_path):
    """Start a Python source in the group, by name."""

    def start(name, source, **options):
        return group.start(name, python(source), env=os.environ, log=tmp_path / f"{name}.log", **options)

    return start


def test_closing_a_group_ends_children_and_grandchildren_that_ignore_the_request(tmp_path, start, group):
    start("polite", SLEEPER)
    start("stubborn", STUBBORN)
    wait_until(lambda: (tmp_path / "stubborn.log").read_text().count("runs") == 2)
    assert len(watchdog.members(group.number)) == 4  # with the watchdog
    group.close()
    assert watchdog.members(group.number) == []


OWNER = """
import os, pathlib, sys, time
from fl import processes
from fl.files import Lock
folder = pathlib.Path(sys.argv[1])
lock = Lock(folder / "lock")
lock.acquire()
(folder / "keys").mkdir()
(folder / "keys" / "secret").touch()
group = processes.Group(grace_s=1, hold=[lock.fileno()])
group.erase(folder / "keys")
group.erase(folder / "never made")
group.start("child", [sys.executable, "-S", "-c", sys.argv[2]], env=os.environ, log=folder / "child.log")
while "runs" not in (folder / "child.log").read_text():
    time.sleep(0.02)
print(group.number, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_a_group_does_not_outlive_its_owner(tmp_path, how):
    argv = [sys.executable, "-c", OWNER, str(tmp_path), SLEEPER]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        number = int(owner.stdout.readline())
        assert len(watchdog.members(number)) == 2
        owner.send_signal(how)
    wait_until(lambda: watchdog.members(number) == [])
    assert not (tmp_path / "keys").exists()


def test_a_lock_is_held_until_the_last_process_is_gone(tmp_path):
    stubborn = STUBBORN.replace("if len(sys.argv) < 2", "if False")
    argv = [sys.executable, "-c", OWNER, str(tmp_path), stubborn]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        number = int(owner.stdout.readline())
        owner.kill()
    with pytest.raises(BusyError, match=f"held by process {owner.pid}"):
        Lock(tmp_path / "lock").acquire()
    wait_until(lambda: watchdog.members(number) == [])
    Lock(tmp_path / "lock").acquire()


def test_a_group_whose_watchdog_was_killed_is_still_ended(tmp_path, start, group):
    start("child", SLEEPER)
    group.erase(tmp_path / "child.log")
    os.kill(group.number, signal.SIGKILL)
    wait_until(lambda: group._watchdog.poll() is not None)
    with pytest.raises(ProcessError, match="watchdog"):
        group.poll()
    group.close()
    assert watchdog.members(group.number) == []
    assert not (tmp_path / "child.log").exists()


def test_a_child_without_restart_that_dies_is_an_error_with_its_last_words(tmp_path, start, group):
    child = start("server", "import sys; print('port taken'); sys.exit(3)")
    child.process.wait()
    with pytest.raises(ProcessError, match="server ended with status 3: port taken") as caught:
        group.poll()
    assert caught.value.hint == f"read {tmp_path / 'server.log'}"


def test_a_killed_child_is_started_again(start, group):
    child = start("server", SLEEPER, restart=processes.Restart(first_delay_s=0.01))
    child.process.kill()
    child.process.wait()
    assert group.poll() == ["server was ended by SIGKILL, starting it again in 0.01 s"]
    assert not child.is_running
    time.sleep(0.02)
    assert group.poll() == ["server was started again"]
    assert child.is_running
    assert child.lives == 2


def test_a_child_that_keeps_dying_is_given_up(start, group):
    policy = processes.Restart(first_delay_s=0.01, longest_delay_s=0.02, most_deaths=3, within_s=600)
    start("server", "print('no luck')", restart=policy)
    said = []
    with pytest.raises(ProcessError, match=r"server died 3 times within 600 s, last it ended with status 0: .*no luck"):
        group.wait(lambda: False, what="nothing", timeout_s=30, say=said.append, tick_s=0.01)


def test_an_expected_death_is_explained_once_and_not_counted(start, group):
    policy = processes.Restart(most_deaths=1, expected={"Exit Code: 305": "waits"}, expected_delay_s=0.01)
    child = start("node", "print('Exit Code: 305')", restart=policy)
    said = []
    group.wait(lambda: child.lives > 2, what="three lives", timeout_s=30, say=said.append, tick_s=0.01)
    assert not child.deaths
    assert said == ["node: waits"]  # said once, whatever the number of lives


def test_waiting_longer_than_allowed_is_an_error(start, group):
    start("server", SLEEPER)
    with pytest.raises(ProcessError, match=r"being ready took longer than 0\.01 s"):
        group.wait(lambda: False, what="being ready", timeout_s=0.01, say=print, tick_s=0.01)


def test_one_process_can_be_stopped(tmp_path, start, group):
    child = start("child", SLEEPER)
    group.stop("child")
    assert child.process.returncode == -signal.SIGTERM
    assert group.poll() == []


def test_a_program_that_does_not_exist_is_named(tmp_path, group):
    with pytest.raises(ProcessError, match="cannot start tool: No such file or directory: /no/such/tool"):
        group.start("tool", ["/no/such/tool"], env={}, log=tmp_path / "log")


def test_logs_are_private_and_do_not_grow_for_ever(tmp_path, start, group, monkeypatch):
    monkeypatch.setattr(processes, "LONGEST_LOG_BYTES", 3)
    start("child", SLEEPER)
    log = tmp_path / "child.log"
    assert log.stat().st_mode & 0o077 == 0
    wait_until(lambda: log.read_text() == "runs\n")
    group.poll()
    assert log.read_text() == ""
    assert (tmp_path / "child.log.1").read_text() == "runs\n"
    assert (tmp_path / "child.log.1").stat().st_mode & 0o077 == 0


def test_the_environment_keeps_flower_quiet_offline_and_findable(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "intranet")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    env = processes.environment(home=tmp_path, threads=2, extra={"MORE": "1"})
    assert env["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert env["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert env["FLWR_HOME"] == str(tmp_path)
    assert env["NO_PROXY"] == env["no_proxy"] == "intranet,127.0.0.1,localhost,::1"
    assert env["OMP_NUM_THREADS"] == "2"
    assert env["MORE"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert processes.environment(home=tmp_path, threads=2)["OMP_NUM_THREADS"] == "7"


def test_programs_of_this_install_are_found():
    assert Path(processes.program("flower-superlink")).parent == Path(sys.executable).parent
    with pytest.raises(ProcessError, match="no program flower-rose"):
        processes.program("flower-rose")
