"""``fl sim sweep``: real processes, which fail, die and are interrupted, and a table in the end."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fl import cli
from fl.errors import ConfigError
from fl.rounds.journal import load_state
from simulations import Scenario, simulate
from simulations.commands.crew import core_shares
from simulations.commands.sweep import seeds_of

FL = str(Path(sys.executable).with_name("fl"))

SCENARIO = """
[scenario]
expect = { rounds = { at_least = 2 } }

[task]
name = "digits"
network = "mlp"

[run]
name = "small"
rounds = 2

[evaluation]
sites_every = 0

[population]
sites = 4

[sweep]
seeds = [1, 2]
"training.epochs" = [1, 2]
"""

FRAGILE = '''
import os
import signal
from dataclasses import dataclass

from fl.tasks.digits import Digits


@dataclass(frozen=True, kw_only=True)
class Fragile(Digits):
    how: str = "well"
    """What becomes of it."""

    def train_data(self, site):
        if self.how == "fails":
            raise RuntimeError("no data today")
        return super().train_data(site)

    def centre_data(self):
        if self.how == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().centre_data()
'''


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(SCENARIO)
    return tmp_path / "small.toml"


def digests(directory: Path) -> dict[str, str | None]:
    """The last model of each run that is below a directory."""
    return {path.parent.name: load_state(path.parent).model_digest for path in sorted(directory.glob("*/events.jsonl"))}


def wait_until(happens: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end_s = time.monotonic() + timeout_s
    while not happens():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.05)


def committed(directory: Path) -> int:
    """How many rounds there are in all runs below a directory."""
    return sum(load_state(path.parent).committed_rounds for path in directory.glob("*/events.jsonl"))


@pytest.mark.parametrize(
    ("text", "seeds"), [("1", [1]), ("1,2,7", [1, 2, 7]), ("3-5", [3, 4, 5]), (" 1-2 , 9 ", [1, 2, 9]), ("4-4", [4])]
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert seeds_of(text) == seeds


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot choose their cores here")
@pytest.mark.parametrize("processes", [1, 2, 3, 50])
def test_every_process_has_its_share_of_the_cores(processes: int) -> None:
    shares = core_shares(processes)
    cores = os.sched_getaffinity(0)
    assert len(shares) == processes
    assert all(share and share <= cores for share in shares)
    if processes <= len(cores):
        assert sum(len(share) for share in shares) == len(frozenset().union(*shares)) > len(cores) - processes
    else:
        assert frozenset().union(*shares) == cores


@pytest.mark.parametrize("text", ["", "a", "1,", "5-3", "1.5", "-1"])
def test_seeds_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="cannot read the seeds"):
        seeds_of(text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense.toml"], "no such file: nonsense.toml"),
        (["first-step"], "did you mean first-steps?"),
        (["small.toml", "--set", "trainig.epochs=1"], "unknown key trainig"),
        (["small.toml", "--seeds", "1,1"], "sweep.seeds has 1 twice"),
        (["small.toml", "--set", "sweep.seeds=[]"], "sweep.seeds is empty"),
        (["alone.toml"], "alone.toml has nothing to sweep"),
        (["small.toml", "--out", "other"], "other/epochs-1_seed-1 is not empty, and no journal"),
        (["small.toml", "--out", "alone.toml"], "alone.toml is no directory"),
        (["small.toml", "--jobs", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_anything_runs(
    file: Path, arguments: list[str], words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (file.parent / "alone.toml").write_text('[task]\nname = "digits"\n')
    (file.parent / "other" / "epochs-1_seed-1").mkdir(parents=True)
    (file.parent / "other" / "epochs-1_seed-1" / "letter.txt").touch()
    assert cli.run(["sim", "sweep", *arguments]) == 2
    assert words in " ".join(capfd.readouterr().err.split())
    assert not (file.parent / "runs").exists()


@pytest.mark.slow
def test_a_sweep_runs_every_variant_with_every_seed_and_sets_them_side_by_side(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["sim", "sweep", "small.toml", "--out", "swept", "--jobs", "2"]) == 0
    captured = capfd.readouterr()
    names = ["epochs-1_seed-1", "epochs-1_seed-2", "epochs-2_seed-1", "epochs-2_seed-2"]
    models = digests(Path("swept"))
    assert list(models) == names
    assert len(set(models.values())) == 4
    assert [line.split()[:3] for line in captured.out.splitlines()[1:]] == [["epochs", "1", "2"], ["epochs", "2", "2"]]
    assert all(f"{name}: " in captured.err for name in names)
    assert "fl sim compare swept and fl sim report swept tell more" in captured.err
    assert not list(Path("swept").glob("*.log"))

    # The same models as of runs in this process, one after the other.
    for variant in Scenario.from_file(file).variants()[::3]:
        simulate(variant.scenario, Path("alone") / variant.name)
    assert digests(Path("alone")).items() <= models.items()

    # What is complete is left as it is; a run that is missing is made again, and is the same.
    shutil.rmtree("swept/epochs-2_seed-1")
    before = Path("swept/epochs-1_seed-1/events.jsonl").read_bytes()
    assert cli.run(["sim", "sweep", "small.toml", "--out", "swept", "--json"]) == 0
    captured = capfd.readouterr()
    assert captured.err == ""
    told = json.loads(captured.out)
    assert [run["name"] for run in told["runs"]] == names
    assert [run["settings"] for run in told["runs"]] == [{"training.epochs": epochs} for epochs in (1, 1, 2, 2)]
    assert {run["name"]: run["model_digest"] for run in told["runs"]} == models
    assert [bool(run["expected"]) for run in told["runs"]] == [True, True, False, False]
    assert Path("swept/epochs-1_seed-1/events.jsonl").read_bytes() == before

    # Another sweep does not mix with it.
    assert cli.run(["sim", "sweep", "small.toml", "--out", "swept", "--set", "run.rounds=3"]) == 2
    assert "swept/epochs-1_seed-1 was begun with another run" in " ".join(capfd.readouterr().err.split())


def test_a_run_that_fails_or_dies_is_told_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("fragile.py").write_text(FRAGILE)
    tables = SCENARIO.partition("[sweep]")[0].replace('"digits"', '"fragile:Fragile"')
    tables = tables.replace("sites_every = 0", "sites_every = 0\ncentre_every = 2")
    Path("fragile.toml").write_text(f'{tables}\n[sweep]\n"task.how" = ["dies", "fails", "well"]\n')
    assert cli.run(["sim", "sweep", "fragile.toml", "--out", "swept", "--jobs", "1"]) == 1
    captured = capfd.readouterr()
    said = " ".join(captured.err.split())
    assert "how-dies: failed: its process was killed by SIGKILL" in said
    assert "how-fails: failed: round 1: " in said
    assert "no data today" in said
    assert "how-well: accuracy " in said
    assert "fl: error: 2 of 3 runs failed: how-dies, how-fails" in said
    assert "fl: hint: fl sim sweep fragile.toml --out swept tries again" in said
    assert "well" in captured.out
    assert load_state(Path("swept/how-well")).status == "completed"
    assert "no data today" in Path("swept/how-fails.log").read_text()


@pytest.mark.slow
def test_what_does_not_fit_leaves_nothing_behind_and_what_misses_its_expectation_is_told(
    file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file.write_text(SCENARIO.replace("rounds = { at_least = 2 }", "accuracy = { at_least = 0.999 }"))
    large = ["--set", "sweep.population.sites=[4, 2000]", "--seeds", "1"]
    assert cli.run(["sim", "sweep", "small.toml", "--out", "swept", "--jobs", "1", *large]) == 1
    captured = capfd.readouterr()
    said = " ".join(captured.err.split())
    assert "epochs-1_sites-2000_seed-1: failed: 1438 examples do not suffice for 2000 sites" in said
    assert "missed: epochs-1_sites-4_seed-1: accuracy at least 0.999 expected, reached 0." in said
    assert said.count("missed: ") == 1  # two epochs are not what the scenario says
    assert "2 of 4 runs failed" in said
    assert sorted(digests(Path("swept"))) == ["epochs-1_sites-4_seed-1", "epochs-2_sites-4_seed-1"]
    assert len(list(Path("swept").iterdir())) == 2
    assert "epochs 2" in captured.out

    shutil.rmtree("swept/epochs-2_sites-4_seed-1")
    assert (
        cli.run(
            [
                "sim",
                "sweep",
                "small.toml",
                "--out",
                "swept",
                "--jobs",
                "1",
                "--seeds",
                "1",
                "--set",
                "sweep={population={sites=[4]}, training={epochs=[1]}}",
            ]
        )
        == 1
    )
    assert "fl: error: 1 figure is not as the scenario expects" in capfd.readouterr().err


@contextlib.contextmanager
def sweeping(*arguments: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    argv = [FL, "sim", "sweep", *arguments]
    process = subprocess.Popen(argv, cwd=cwd, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def members(group: int) -> set[int]:
    """The living processes of a group."""
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text().rpartition(")")[2].split()
            if int(fields[2]) == group and fields[0] != "Z":
                found.add(int(status.parent.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(
    "to_all",
    [
        pytest.param(True, id="as a terminal sends it"),
        pytest.param(False, id="to the command alone"),
    ],
)
def test_ctrl_c_ends_all_processes_and_the_sweep_goes_on_later_to_the_same_models(
    file: Path, to_all: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    long = ["small.toml", "--set", "run.rounds=30", "--seeds", "1"]
    with sweeping(*long, "--out", "swept", "--jobs", "2", cwd=file.parent) as process:
        wait_until(lambda: committed(Path("swept")) >= 3)
        (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
        assert process.returncode == cli.INTERRUPTED, said
        assert "Traceback" not in said
        assert "fl sim sweep small.toml --out swept --seeds 1 --set run.rounds=30 goes on where it stands" in said
        wait_until(lambda: not members(process.pid), timeout_s=10)
    rounds = committed(Path("swept"))
    assert 3 <= rounds < 60
    assert cli.run(["sim", "sweep", *long, "--out", "swept"]) == 0
    assert committed(Path("swept")) == 60
    scenario = Scenario.from_file(file).changed({"run.rounds": 30, "sweep.seeds": [1]})
    for variant in scenario.variants():
        simulate(variant.scenario, Path("alone") / variant.name)
    assert digests(Path("alone")) == digests(Path("swept"))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_sweep_that_is_killed_leaves_no_process_and_goes_on(file: Path) -> None:
    long = ["small.toml", "--set", "run.rounds=30", "--seeds", "1", "--out", "swept"]
    with sweeping(*long, cwd=file.parent) as process:
        wait_until(lambda: committed(Path("swept")) >= 3)
        process.kill()
        wait_until(lambda: not members(process.pid), timeout_s=30)
    assert committed(Path("swept")) < 60
    assert cli.run(["sim", "sweep", *long]) == 0
    assert committed(Path("swept")) == 60


@pytest.mark.slow
def test_a_terminal_shows_one_bar_for_all_runs(file: Path) -> None:
    mine, theirs = pty.openpty()
    argv = [FL, "sim", "sweep", "small.toml", "--out", "swept", "--seeds", "1"]
    environment = {**os.environ, "COLUMNS": "120", "TERM": "xterm"}
    with subprocess.Popen(argv, cwd=file.parent, stdout=subprocess.DEVNULL, stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal whose process is gone
            while piece := os.read(mine, 4096):
                shown += piece
    os.close(mine)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", shown.decode())
    assert "4/4 rounds 2 of 2 runs left: " in text
    assert "epochs-2_seed-1: accuracy" in text
