"""The numbers of the simulator: rounds beside Flower's simulation (Ray), pfl-research and bare loops; start; memory.

python -m benchmarks.simulation [--quick] [--json] [NAME …]

Every engine has the same data, model, initial parameters, sites and batch order, and a row counts only if its final
model is theirs. Each engine is a process of its own, they take turns, and the median round of each counts: Flower's
take 0.1 s or 0.2, as its polling falls, and the fastest of an engine may be one in hundreds. Flower and pfl-research
are installed into ``.fedfleet/benchmarks/simulation`` from the package index at the first run; ``--quick`` measures
them if they are there already.
"""

from __future__ import annotations

import functools
import json
import math
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._table import Row, main
from benchmarks._workloads import DATA, WORKLOADS, data, model

ROOT = Path(__file__).parent.parent
FOREIGN = ROOT / ".fedfleet" / "benchmarks" / "simulation"
PACKAGES = ["flwr[simulation]==1.41.*", "pfl==0.6.0"]

ROUNDS = {"w1": (60, 20), "w2": (16, 6), "w3": (4, 3)}
"""Rounds of a turn, and of a quick one; the first two are left out."""

TOLERANCE = 1e-3
"""How far final models may be apart, as a share of their distance from zero: only the order of sums differs."""

TARGETS = {
    ("w1", "flower"): 40.0,
    ("w1", "pfl"): 15.0,
    ("w2", "flower"): 5.0,
    ("w2", "pfl"): 2.4,
    ("w3", "flower"): 1.25,
    ("w3", "limit"): 0.95,
}


def foreign(quick: bool) -> Path | None:
    """The other engines' Python, made if it isn't there; it borrows torch from this one."""
    python = FOREIGN / "bin" / "python"
    ready = FOREIGN / "ready"
    if ready.exists():
        return python
    if quick:
        print("Flower and pfl-research aren't installed: python -m benchmarks.simulation does that", file=sys.stderr)
        return None
    print(f"installing {' and '.join(PACKAGES)} into {FOREIGN}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", str(FOREIGN)], check=True)
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *PACKAGES], check=True)
    site = FOREIGN / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (site / "zz-torch.pth").write_text(sysconfig.get_path("purelib") + "\n")
    ready.touch()
    return python


def _run(command: list[str], **environment: str) -> None:
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "RAY_DEDUP_LOGS": "1", "FLWR_TELEMETRY_ENABLED": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **settings, **environment}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def _engine(engine: str, python: Path, schedule: Path, result: Path, **environment: str) -> None:
    script = ["-m", "benchmarks._engines", engine, str(schedule), str(result)]
    if engine == "pfl":
        count = str(len(os.sched_getaffinity(0)))
        script = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count, *script]
    _run([str(python), *script], PFL_PYTORCH_DEVICE="cpu", **environment)


@functools.cache
def seconds(name: str, quick: bool) -> dict[str, float]:
    """The median round of each engine that is there."""
    took: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as scratch:
        _run([sys.executable, "-m", "benchmarks._workloads", name, scratch])
        for turn in range(1 if quick else 2):
            for engine, rounds_s in _turn(name, quick, Path(scratch) / str(turn), is_first=turn == 0):
                took.setdefault(engine, []).extend(rounds_s)
    medians = {engine: statistics.median(rounds_s) for engine, rounds_s in took.items()}
    print(f"{name}: " + ", ".join(f"{engine} {value:.4f} s" for engine, value in medians.items()), file=sys.stderr)
    return medians


def _turn(name: str, quick: bool, directory: Path, *, is_first: bool) -> Iterator[tuple[str, list[float]]]:
    """The seconds of each engine's rounds, one engine after the other; their models are compared."""
    python, rounds = foreign(quick), ROUNDS[name][quick]
    bare = ["tight", "pool"] if name == "w3" or not quick else ["tight"]
    examples = {DATA: str(directory.parent)}
    _run([sys.executable, "-m", "benchmarks._ours", name, str(rounds), str(directory)], **examples)
    ours: dict[str, Any] = torch.load(directory / "ours.pt", weights_only=False)
    if is_first:
        print(f"{name}: {json.dumps(ours['engine'])}", file=sys.stderr)
    for engine in ["ours", *bare, *(["flower", "pfl"] if python else [])]:
        result = directory / f"{engine}.pt"
        if engine != "ours":
            where = python if python and engine in ("flower", "pfl") else Path(sys.executable)
            _engine(engine, where, directory / "schedule.json", result, **examples)
        found: dict[str, Any] = torch.load(result, weights_only=False)
        apart = float((found["model"] - ours["model"]).norm() / ours["model"].norm())
        if not apart < TOLERANCE:
            raise SystemExit(f"{name}: the model of {engine} is {apart:.2g} from ours")
        yield engine, found["seconds"][min(2, rounds - 1) :]


@functools.cache
def operations_per_s() -> float:
    """Floating-point operations of large products, on all processors: matrices, or a convolution where that is faster.

    The two come from different libraries, and one of them may not use the widest registers of a processor.
    """
    size, side, channels = 1024, 64, 128
    one, other = torch.randn(2, size, size)
    pictures = torch.randn(2, channels, side, side).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3).contiguous(memory_format=torch.channels_last)
    kept = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    matrices_s = _fastest_s(lambda: one @ other)
    convolution_s = _fastest_s(lambda: functional.conv2d(pictures, weight, padding=1))
    torch.set_num_threads(kept)
    return max(2 * size**3 / matrices_s, 2 * 2 * side**2 * channels**2 * 9 / convolution_s)


def _fastest_s(work: Callable[[], object]) -> float:
    best_s = math.inf
    for _ in range(20):
        started = time.perf_counter()
        work()
        best_s = min(best_s, time.perf_counter() - started)
    return best_s


def arithmetic_s(name: str) -> float:
    """What the products of a round would take at that speed."""
    work, net = WORKLOADS[name], model(name)
    inputs, targets = data(name, 0)
    with FlopCounterMode(display=False) as counter:
        functional.cross_entropy(net(inputs[: work.batch]), targets[: work.batch]).backward()
    examples = work.cohort * work.examples * work.epochs
    return counter.get_total_flops() / work.batch * examples / operations_per_s()


def _rows(name: str, quick: bool) -> Iterator[Row]:
    medians = seconds(name, quick)
    limit = min(medians[engine] for engine in ("tight", "pool") if engine in medians)
    for (workload, other), target in TARGETS.items():
        baseline = limit if other == "limit" else medians.get(other)
        if workload == name and baseline:
            value = baseline / medians["ours"]
            told = {"flower": "Flower, Ray", "pfl": "pfl-research", "limit": "the best bare loop"}[other]
            yield Row(
                f"{name}_vs_{other}",
                value,
                "×",
                f"{told} {1e3 * baseline:.3g} ms a round, here {1e3 * medians['ours']:.3g}",
                f"the products alone {1e3 * arithmetic_s(name):.3g} ms, the best bare loop {1e3 * limit:.3g}",
                f"≥ {target:g}",
                value >= target,
            )


def w1(quick: bool) -> Iterator[Row]:
    """MLP 64-64-10, 100 sites × 15 examples, 10 a round, batches of 5, 5 epochs."""
    return _rows("w1", quick)


def w2(quick: bool) -> Iterator[Row]:
    """CNN of 87 k parameters, 28 × 28, 1,000 sites × 50, 50 a round, batches of 10."""
    return _rows("w2", quick)


def w3(quick: bool) -> Iterator[Row]:
    """CNN of 1.2 M parameters, 32 × 32 × 3, 100 sites × 500, 10 a round, batches of 50."""
    return _rows("w3", quick)


EMPTY = """
import json, sys, time
import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from simulations.app import simulate_app

clients, rounds = map(int, sys.argv[1:])
server, client = ServerApp(), ClientApp()

@client.train()
def _(message, context):
    return Message(content=message.content, reply_to=message)

@client.evaluate()
def _(message, context):
    return Message(content=RecordDict({"metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

took = []

@server.main()
def _(grid, context):
    arrays = ArrayRecord([np.zeros(25_000, np.float32)])
    for _ in range(rounds):
        for kind in ("train", "evaluate"):
            started = time.perf_counter()
            content = RecordDict({"arrays": arrays})
            nodes = list(grid.get_node_ids())
            replies = list(grid.send_and_receive([Message(content, node, kind) for node in nodes]))
            assert len(replies) == clients and not any(reply.has_error() for reply in replies)
            took.append((time.perf_counter() - started) / clients)

simulate_app((server, client), sites=clients)
print(json.dumps(min(took)))
"""


def empty_client(quick: bool) -> Iterator[Row]:
    """An unmodified Flower app whose clients do nothing, with a model of 0.1 MB."""
    rounds = 3 if quick else 10
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", EMPTY, "100", str(rounds)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    value = 1e6 * float(done.stdout.split()[-1])
    whole = f"the command {time.perf_counter() - started:.2g} s for {rounds} rounds of 100"
    yield Row("empty_client_us", value, "µs", "Ray about 36,000", whole, "≤ 500", value <= 500)


def start(quick: bool) -> Iterator[Row]:
    """From the command to the opening of the first round of a scenario with digits, the import of torch included."""
    from fl.rounds import events
    from fl.rounds.journal import read

    best, torch_s = math.inf, math.inf
    for _ in range(2 if quick else 5):
        with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as scratch:
            out = Path(scratch) / "run"
            command = [sys.executable, "-m", "fl.cli", "sim", "run", "first-steps", "--out", str(out)]
            began = time.time()
            subprocess.run([*command, "--set", "run.rounds=1"], cwd=ROOT, capture_output=True, check=False)
            opened = next(record for record in read(out) if isinstance(record.event, events.RoundOpened))
            best = min(best, opened.time.timestamp() - began)
            began = time.time()
            subprocess.run([sys.executable, "-c", "import torch"], check=True)
            torch_s = min(torch_s, time.time() - began)
    yield Row("start_s", best, "s", "Ray 3 to 12", f"import torch {torch_s:.2g} s", "≤ 2.5", best <= 2.5)


PEAK = """
import json, logging, resource, sys, tempfile
from pathlib import Path
from benchmarks._memory import resident_bytes
from simulations import Scenario, simulate

scenario = Scenario.from_dict(json.loads(sys.argv[1]))
with tempfile.TemporaryDirectory() as scratch:
    simulate(scenario, Path(scratch) / "run", search_path=Path.cwd())
print(max(resident_bytes("VmHWM") // 1024, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
"""


def peak_mib(tables: dict[str, Any]) -> float:
    """Peak memory of a simulation, of its largest process."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, json.dumps(tables)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return int(done.stdout.split()[-1]) / 1024


def memory_flat(quick: bool) -> Iterator[Row]:
    """Peak memory with a cohort of 1,000 over that with 10, a model of 1 MB, in the way that the engine chooses."""
    tables: dict[str, Any] = {
        "task": {"name": "benchmarks._sites:Bench", "parameters": 250_000},
        "run": {"rounds": 1},
        "population": {"sites": 1000},
        "evaluation": {"sites_every": 0, "centre_every": 0},
        "training": {"device": "cpu"},
    }
    large = 200 if quick else 1000
    few, many = (peak_mib({**tables, "round": {"cohort": cohort}}) for cohort in (10, large))
    yield Row(
        "memory_flat", many / few, "×", f"cohort 10: {few:.0f} MiB", f"cohort {large}: {many:.0f} MiB", "≤ 1.3",
        many / few <= 1.3,
    )  # fmt: skip


def population(quick: bool) -> Iterator[Row]:
    """Peak memory with a million sites over that with a thousand, cohorts of 100."""
    tables: dict[str, Any] = {
        "task": {"name": "digits", "network": "mlp"},
        "run": {"rounds": 2},
        "round": {"cohort": 100},
        "evaluation": {"sites_every": 0, "centre_every": 0},
        "training": {"device": "cpu"},
    }
    few, many = (peak_mib({**tables, "population": {"sites": sites, "examples": 20}}) for sites in (1000, 1_000_000))
    yield Row(
        "population_1m", many / few, "×", f"1 k sites: {few:.0f} MiB", f"1 M sites: {many:.0f} MiB", "≤ 1.2",
        many / few <= 1.2,
    )  # fmt: skip


if __name__ == "__main__":
    main(__doc__ or "", [w1, w2, w3, empty_client, start, memory_flat, population])
