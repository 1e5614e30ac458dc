"""How long tasks and rounds take at a site, and what a site that only waits costs: ours, and plain Flower beside it.

Plain Flower is what its documentation starts: ``flower-superlink`` and ``flower-supernode``, which start their own
executors. Ours is ``fl up``: the centre with its gateway, and at each site link, SuperNode and runner.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._table import Row
from edge.runner.config import RunnerConfig, command
from fl.ports import accepts_connections, free_port
from fl.processes import Group, environment, program
from fl.rounds.journal import EVENTS

if TYPE_CHECKING:
    from tests.supernode import Node

APPS = Path(__file__).parent / "apps"
FL = [sys.executable, "-m", "fl.cli"]
SITES = 3
RUN_FILE = """\
[run]
name = "digits"
rounds = {rounds}
seed = 1
[task]
name = "digits"
network = "cnn"
[training]
epochs = {epochs}
batch_size = 32
learning_rate = 0.05
[round]
min_online = 3
cohort = 1.0
quorum = 3
[evaluation]
sites_every = 1
"""
IDLE_APP = """
@app.train()
def train(message, context):
    return reply(message, fine=True)
"""


def round_ratio(quick: bool) -> list[Row]:
    """A round of digits, training and evaluation, at three sites; the first, in which everything is imported, apart."""
    rounds, epochs = (3, 1) if quick else (6, 3)
    theirs = _rounds_of_flower(rounds, epochs)
    ours = _rounds_of_ours(rounds, epochs)
    work_s = _work_s(epochs)
    value, plain = statistics.median(ours[1:]), statistics.median(theirs[1:])
    return [
        Row(
            "round_ratio",
            plain / value,
            f"times shorter: {value:.2f} s (first {ours[0]:.1f} s)",
            f"flwr: {plain:.1f} s (first {theirs[0]:.1f} s)",
            f"{plain / work_s:.0f} ({work_s:.2f} s of work, sites side by side)",
            "≥ 8",
            plain / value >= 8,
        )
    ]


def task_seconds(quick: bool) -> list[Row]:
    """From a message at the SuperNode to its reply there, with no work between."""
    times = 5 if quick else 20
    ours = _tasks(_runner, times)
    theirs = _tasks(_superexec, 2 if quick else 5)
    fork_s = statistics.median(_fork_s() for _ in range(20))
    value = statistics.median(ours[1:])
    baseline = f"flower-superexec: {statistics.median(theirs):.2f} s"
    return [Row("task_seconds", value, "s", baseline, f"{fork_s:.3f} s (a bare fork)", "≤ 0.3", value <= 0.3)]


def idle_site_mib(quick: bool) -> list[Row]:
    """Memory of a site's processes (shared pages counted once) and their processor time while nothing happens."""
    watch_s = 10.0 if quick else 60.0
    with _group() as (group, home):
        theirs, theirs_cpu = _idle(_supernode(group, home, _superlink(group, home), 0), watch_s)
    with _group() as (group, directory):
        home = directory / "home"
        _up(group, home, 1)
        (site,) = (home / "sites").iterdir()
        before, _ = _idle(_site_process(site), 0.0)
        _restart_late(group, site)
        ours, cpu = _idle(_site_process(site), watch_s)
    return [
        Row(
            "idle_site_mib",
            ours,
            f"MiB before torch ({before:.0f} MiB with torch ready)",
            f"flwr: {theirs:.0f} MiB, without a link",
            "-",
            "≤ 350",
            ours <= 350,
        ),
        Row("idle_site_cpu", cpu, "% of a core", f"flwr: {theirs_cpu:.2f} %", "0", "≤ 1", cpu <= 1),
    ]


def _rounds_of_flower(rounds: int, epochs: int) -> list[float]:
    with _group() as (group, home):
        address = _superlink(group, home)
        for part in range(SITES):
            _supernode(group, home, address, part)
        out = home / "times.json"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{address}"\ninsecure = true\n'
        )
        argv = [program("flwr"), "run", str(APPS / "digits"), "bench", "--run-config"]
        argv += [f'out="{out}" sites={SITES} rounds={rounds} epochs={epochs}']
        subprocess.run(argv, check=True, env=_env(home), stdout=subprocess.DEVNULL)
        _wait(group, out.exists, 300)
        return [float(passed) for passed in json.loads(out.read_text())]


def _rounds_of_ours(rounds: int, epochs: int) -> list[float]:
    """From one round's opening to the next one's, and of the last to the end of the run."""
    with _group() as (group, directory):
        home = directory / "home"
        _up(group, home, SITES)
        file = directory / "run.toml"
        file.write_text(RUN_FILE.format(rounds=rounds, epochs=epochs))
        argv = [*FL, "run", "start", str(file), "--home", str(home)]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, timeout=300)
        (journal,) = (home / "runs").glob(f"*/{EVENTS}")
        events = [json.loads(line) for line in journal.read_text().splitlines()]
    ends = [event["clock_s"] for event in events if event["event"] in ("round_opened", "run_ended")]
    if len(ends) != rounds + 1:
        raise RuntimeError(f"the run opened {len(ends) - 1} rounds instead of {rounds}")
    return [after - before for before, after in itertools.pairwise(ends)]


def _work_s(epochs: int) -> float:
    """Seconds of training and evaluating at one site, in this process, where everything is imported."""
    from fl.tasks import registry
    from fl.tasks.base import Site
    from fl.tasks.loop import evaluate, initial_arrays, train
    from fl.tasks.training import TrainingConfig

    task = registry.create("digits", {"network": "cnn"})
    site = Site(id="site-0", data_dir=None, partition_id=0, num_partitions=SITES)
    training = TrainingConfig(epochs=epochs, batch_size=32, learning_rate=0.05)
    arrays = initial_arrays(task, 1)
    took = []
    for _ in range(2):
        began = time.monotonic()
        train(task, arrays, site, training, seed=1)
        evaluate(task, arrays, task.evaluation_data(site), training)
        took.append(time.monotonic() - began)
    return took[-1]


def _tasks(start: Callable[[Node, Path], list[str]], times: int) -> list[float]:
    from tests.supernode import Node, app_of

    with _group() as (group, home):
        node = Node(home)
        fab = app_of(IDLE_APP)
        took = []
        group.start("executor", start(node, home), env=_env(home), log=home / "executor.log")
        for _ in range(times):
            time.sleep(0.7)  # so that it comes at any time of the executor's pause
            began = time.monotonic()
            node.deliver(fab)
            _wait(group, node.has_reply, 120)
            took.append(time.monotonic() - began)
            node.take()
        node.stop()
    return took


def _runner(node: Node, home: Path) -> list[str]:
    return command(RunnerConfig(home=home, runtime_api=node.address, secret_file=node.secret, preload=()))


def _superexec(node: Node, home: Path) -> list[str]:
    argv = [program("flower-superexec"), "--insecure", "--runtime-api-address", node.address]
    return [*argv, "--superexec-auth-secret-file", str(node.secret)]


def _fork_s() -> float:
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return time.monotonic() - began


def _env(home: Path) -> dict[str, str]:
    env = environment(home=home / "flower")
    env["FLWR_HOME"] = str(home)
    env.pop("FLWR_SUPEREXEC_TASK_POLL_INTERVAL")  # Flower's own
    return env


@contextlib.contextmanager
def _group() -> Iterator[tuple[Group, Path]]:
    """Processes that end with this one, in whatever way it ends, and a directory for them."""
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as name, Group(grace_s=3.0) as group:
        yield group, Path(name)


def _superlink(group: Group, home: Path) -> str:
    """Start plain Flower's centre; where it listens."""
    port = free_port()
    argv = [program("flower-superlink"), "--insecure", "--port", str(port)]
    group.start("superlink", argv, env=_env(home), log=home / "superlink.log")
    _wait(group, lambda: accepts_connections("127.0.0.1", port), 120)
    return f"127.0.0.1:{port}"


def _supernode(group: Group, home: Path, address: str, part: int) -> int:
    """Start a site of plain Flower; its process number."""
    argv = [program("flower-supernode"), "--insecure", "--superlink", address, "--port", str(free_port())]
    argv += ["--node-config", f"partition-id={part} num-partitions={SITES}"]
    child = group.start(f"site-{part}", argv, env=_env(home), log=home / f"site-{part}.log")
    return child.process.pid


def _up(group: Group, home: Path, sites: int) -> None:
    """Start a federation of ours; it is ready for runs on return."""
    argv = [*FL, "up", "--sites", str(sites), "--home", str(home)]
    group.start("up", argv, env=os.environ, log=home.with_suffix(".log"))
    _wait(group, (home / "federation.json").exists, 240)


def _site_process(site: Path) -> int:
    """Number of the ``fl site run`` of a site."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            argv = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if {str(site).encode(), b"site", b"run"} <= set(argv):
                return int(entry.name)
    raise RuntimeError(f"no process runs the site {site}")


def _restart_late(group: Group, site: Path) -> None:
    """Let the site import torch with its first task only; ``fl up`` starts its supervisor again."""
    file = site / "site.toml"
    file.write_text('preload_at = "first-task"\n' + file.read_text())
    for name in ("status.json", "runner.sock"):
        (site / name).unlink()
    os.kill(_site_process(site), signal.SIGTERM)
    _wait(group, lambda: (site / "runner.sock").exists() and (site / "status.json").exists(), 120)


def _idle(pid: int, watch_s: float) -> tuple[float, float]:
    """MiB of a process and all below it, and per cent of a core over a time."""
    time.sleep(12.0)  # until it is at rest
    began, used = time.monotonic(), _cpu_s(pid)
    time.sleep(watch_s)
    cpu = 100 * (_cpu_s(pid) - used) / (time.monotonic() - began)
    return sum(_pss_mib(member) for member in _family(pid)), cpu


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(member for child in children for member in _family(int(child)))]


def _pss_mib(pid: int) -> float:
    found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else 0.0


def _cpu_s(pid: int) -> float:
    ticks = 0
    for member in _family(pid):
        ticks += sum(map(int, Path(f"/proc/{member}/stat").read_text().rpartition(") ")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _wait(group: Group, until: Callable[[], bool], timeout_s: float) -> None:
    group.wait(until, what="a step of the benchmark", timeout_s=timeout_s, say=print, tick_s=0.05)
