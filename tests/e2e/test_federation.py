"""Federations of real processes on this computer: what runs, and what is left behind when something is killed."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.federation, pytest.mark.timeout(400)]

FL = str(Path(sys.executable).with_name("fl"))
MEAN_APP = Path(__file__).parent / "apps" / "mean"


def processes_of(home):
    """Command lines of all living processes that have to do with this home, by process number."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            arguments = (entry / "cmdline").read_bytes()
            known = str(home).encode() in arguments + (entry / "environ").read_bytes()
            if known and arguments:
                found[int(entry.name)] = arguments.replace(b"\0", b" ").decode()
    return found


def secrets_of(home):
    """Private keys, secrets and half-written files that lie in a home."""
    kinds = ("*.key", "*.secret", "*.part", "federation.json")
    return [str(path) for kind in kinds for path in home.rglob(kind)]


def wait_until(condition, timeout_s=90, tick_s=0.1):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(tick_s)


def fl(*arguments, home, **options):
    """Run fl to its end."""
    argv = [FL, *map(str, arguments), "--home", str(home)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, **options)


class Up:
    """A running ``fl up``."""

    def __init__(self, home, *arguments):
        self.home, self.log = home, home.with_suffix(".log")
        with self.log.open("w") as log:
            self.process = subprocess.Popen([FL, "up", "--home", str(home), *arguments], stdout=log, stderr=log)
        wait_until(lambda: "ready at" in self.log.read_text() or self.process.poll() is not None)
        assert self.process.poll() is None, self.log.read_text()

    def end(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(60)


@pytest.fixture
def up(tmp_path):
    """Start federations that are gone when the test ends."""
    started = []

    def start(*arguments, home=tmp_path / "home"):
        started.append(Up(home, *arguments))
        return started[-1]

    yield start
    for federation in started:
        federation.end()
    wait_until(lambda: not any(processes_of(federation.home) for federation in started))


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """One federation of two sites with digits, for all tests that leave it as it is."""
    federation = Up(tmp_path_factory.mktemp("running") / "home", "--sites", "2", "--task", "digits")
    yield federation
    federation.end()


def test_any_flower_app_runs_unchanged(running):
    done = fl("run", "start", "--app", MEAN_APP, "-c", "rounds=2", home=running.home)
    assert done.returncode == 0, done.stderr
    assert "the mean is [1.5, 1.5, 1.5]" in done.stdout
    listed = json.loads(fl("run", "list", "--json", home=running.home).stdout)
    ours = next(run for run in listed if run["app"] == "tests/mean-app")
    assert ours["status"] == "completed"
    shown = json.loads(fl("run", "show", ours["id"], "--json", home=running.home).stdout)
    assert shown["flower_run"] == int(ours["id"])
    assert "the mean is" in fl("run", "log", ours["id"], home=running.home).stdout


def test_a_config_key_that_the_app_does_not_have_is_refused(running):
    done = fl("run", "start", "--app", MEAN_APP, "-c", "round=2", home=running.home)
    assert done.returncode == 2
    assert "unknown run config key round" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_no_app_is_refused(running, tmp_path):
    done = fl("run", "start", "--app", tmp_path, home=running.home)
    assert done.returncode == 2
    assert "it has no pyproject.toml" in done.stderr


RUN_FILE = """
[run]
name = "digits"
rounds = {rounds}
[task]
name = "digits"
network = "mlp"
[round]
min_online = 2
[evaluation]
sites_every = {rounds}
"""


def test_a_run_file_is_run_and_recorded(running, tmp_path):
    (tmp_path / "run.toml").write_text(RUN_FILE.format(rounds=1))
    done = fl("run", "start", tmp_path / "run.toml", "--json", home=running.home)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["rounds"]) == ("completed", 1)
    shown = json.loads(fl("run", "show", result["run"], "--json", home=running.home).stdout)
    assert shown["status"] == "completed"
    assert shown["rounds"][0]["survivors"] == 2
    assert 0 < shown["rounds"][0]["accuracy"] <= 1
    assert (Path(result["journal"]) / "rounds" / "0001").is_dir()
    again = fl("run", "resume", result["journal"], home=running.home)
    assert again.returncode == 2
    assert "is complete" in again.stderr


def test_a_stopped_run_is_resumed_where_it_ended(running, tmp_path):
    (tmp_path / "run.toml").write_text(RUN_FILE.format(rounds=15))
    started = json.loads(fl("run", "start", tmp_path / "run.toml", "--detach", "--json", home=running.home).stdout)

    def rounds():
        found = json.loads(fl("run", "show", started["run"], "--json", home=running.home).stdout)["rounds"]
        return [entry for entry in found if entry["training"]]

    wait_until(rounds, timeout_s=200, tick_s=1)
    stopped = fl("run", "stop", started["run"], home=running.home)
    assert stopped.returncode == 0, stopped.stderr
    shown = json.loads(fl("run", "show", started["run"], "--json", home=running.home).stdout)
    assert shown["status"] == "stopped"
    resumed = fl("run", "resume", started["journal"], "--json", home=running.home)
    assert resumed.returncode == 0, resumed.stderr
    assert json.loads(resumed.stdout)["status"] == "completed"


OWN_TASK = """
from dataclasses import dataclass
import torch
from torch import nn
from torch.utils.data import TensorDataset
from fl.tasks import Task

@dataclass(frozen=True)
class Signs(Task):
    width: int = 4
    def model(self):
        return nn.Linear(self.width, 2)
    def train_data(self, site):
        inputs = torch.randn(32, self.width, generator=torch.Generator().manual_seed(site.partition_id))
        return TensorDataset(inputs, (inputs[:, 0] > 0).long())
    evaluation_data = train_data
"""


def test_a_task_beside_the_run_file_travels_with_the_run(running, tmp_path):
    (tmp_path / "signs.py").write_text(OWN_TASK)
    (tmp_path / "run.toml").write_text('[task]\nname = "signs:Signs"\nwidth = 3\n[run]\nrounds = 1\nname = "own"\n')
    done = fl("run", "start", tmp_path / "run.toml", "--json", home=running.home)
    assert done.returncode == 0, done.stderr
    assert (Path(json.loads(done.stdout)["journal"]) / "app" / "signs.py").is_file()


def test_a_home_in_use_is_refused_and_its_holder_named(running):
    done = fl("up", home=running.home)
    assert done.returncode == 1
    assert f"is held by process {running.process.pid}" in done.stderr
    assert running.process.poll() is None


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path):
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        done = fl("up", "--port", server.getsockname()[1], home=tmp_path / "home")
    assert done.returncode == 1
    assert "is in use" in done.stderr
    assert not processes_of(tmp_path / "home")


def test_without_a_federation_the_way_to_start_one_is_named(tmp_path):
    done = fl("run", "start", "--app", MEAN_APP, home=tmp_path)
    assert done.returncode == 4
    assert f"no federation runs in {tmp_path}" in done.stderr
    assert f"fl up --home {tmp_path}" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP], ids=lambda how: how.name)
def test_nothing_is_left_however_it_ends_and_the_home_can_be_used_again(up, how):
    federation = up("--sites", "1", "--task", "digits")
    run = subprocess.Popen(
        [FL, "run", "start", "--app", str(MEAN_APP), "--detach", "--home", str(federation.home)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert run.wait(60) == 0
    wait_until(lambda: any("flwr-serverapp" in line for line in processes_of(federation.home).values()))
    assert secrets_of(federation.home)
    status = federation.end(how)
    assert status == (-signal.SIGKILL if how == signal.SIGKILL else 0)
    # A polite end is over when fl ends; a killed one is cleared away by the watchdogs soon after.
    if how == signal.SIGKILL:
        wait_until(lambda: not processes_of(federation.home), timeout_s=30)
    assert processes_of(federation.home) == {}
    assert secrets_of(federation.home) == []
    up("--sites", "1")
    listed = json.loads(fl("run", "list", "--json", home=federation.home).stdout)
    assert [run["status"] for run in listed] == ["stopped"]


def test_an_end_during_the_start_leaves_nothing(tmp_path):
    home = tmp_path / "home"
    process = subprocess.Popen([FL, "up", "--home", str(home)], stderr=subprocess.DEVNULL)
    wait_until(lambda: any("flower-superlink" in line for line in processes_of(home).values()))
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert processes_of(home) == {}
    assert secrets_of(home) == []


def test_a_superlink_that_is_killed_is_started_again_and_the_run_completes(up):
    federation = up("--sites", "2")
    argv = [FL, "run", "start", "--app", str(MEAN_APP), "-c", "rounds=2 pause-s=4", "--home", str(federation.home)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        logs = list((federation.home / "sites").glob("*/supernode.log"))
        wait_until(lambda: any("Received successfully" in log.read_text() for log in logs))
        superlink = [pid for pid, line in processes_of(federation.home).items() if "flower-superlink" in line]
        assert len(superlink) == 1
        os.kill(superlink[0], signal.SIGKILL)
        output = run.communicate(timeout=300)[0]
    assert run.returncode == 0, output
    assert "the mean is [1.5, 1.5, 1.5]" in output
    assert "superlink was ended by SIGKILL, starting it again" in federation.log.read_text()


def test_a_site_that_is_killed_is_started_again(up):
    federation = up("--sites", "1")
    before = {pid for pid, line in processes_of(federation.home).items() if "site run" in line}
    assert len(before) == 1
    os.kill(before.copy().pop(), signal.SIGKILL)
    wait_until(lambda: "site-1 was started again" in federation.log.read_text())
    # Its own watchdog has ended the processes of its former life.
    wait_until(lambda: sum("flower-supernode" in line for line in processes_of(federation.home).values()) == 1)


ISOLATED = """
ip link set lo up
"$1" up --sites 2 --task digits --home "$2" > "$2.log" 2>&1 &
pid=$!
until grep -q "ready at" "$2.log"; do sleep 0.2; kill -0 $pid || exit 9; done
"$1" run start --app "$3" --home "$2"
status=$?
kill -TERM $pid
wait $pid
exit $status
"""


@pytest.mark.skipif(not (shutil.which("unshare") and shutil.which("ip")), reason="needs unshare and ip")
def test_it_works_without_any_network(tmp_path):
    if subprocess.run(["unshare", "-rn", "ip", "link", "set", "lo", "up"], capture_output=True).returncode:
        pytest.skip("this machine does not let us make a network namespace")
    home = tmp_path / "home"
    argv = ["unshare", "-rn", "sh", "-c", ISOLATED, "sh", FL, str(home), str(MEAN_APP)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + home.with_suffix(".log").read_text()
    assert "the mean is [1.5, 1.5, 1.5]" in done.stdout


def test_the_demo_learns_across_sites_and_draws_its_report(tmp_path):
    home = tmp_path / "home"
    done = fl("demo", "--rounds", 2, "--json", home=home)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["accuracy"] > 0.8
    assert result["central_accuracy"] > 0.9
    assert result["received_bytes"] > 0
    assert Path(result["model"]).is_file()
    assert Path(result["report"]).is_file()
    assert processes_of(home) == {}
    assert secrets_of(home) == []
    assert not list(home.rglob("update-site*")), "the server kept a site's update"


def test_a_demo_of_two_sites_is_refused_because_each_would_know_the_other(tmp_path):
    done = fl("demo", "--sites", 2, home=tmp_path / "home")
    assert done.returncode == 2
    assert "--no-secagg" in done.stderr
