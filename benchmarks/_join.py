"""How long it takes from a join token to a completed round: ``fl site run --token`` at a site that has nothing yet."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks._centre import running
from benchmarks._table import Row
from fl.files import write_atomic
from fl.processes import Group, program
from fl.rounds.config import RunConfig
from fl.rounds.events import RoundCommitted
from server import runs, tokens
from server.centre import Centre

TARGET_S = 15.0
CONFIG = {
    "run": {"name": "join", "rounds": 1, "seed": 1},
    "task": {"name": "digits", "network": "mlp"},
    "training": {"epochs": 1},
    "round": {"min_online": 1, "quorum": 1},
    "evaluation": {"sites_every": 0, "centre_every": 0},
}


def join_seconds(quick: bool) -> list[Row]:
    """From the start of a new site's processes to the first round that it completes, in a run that waits for it.

    In it: keys, enrolment, certificate, registration at SuperLink, SuperNode, runner with torch, initial model, one
    epoch, the reply, the fold. The limit is how long this machine takes to import torch, which no site can do without.
    """
    values = sorted(_join() for _ in range(1 if quick else 3))
    value = values[len(values) // 2]
    limit = f"{_import_s():.1f} s (import torch)"
    return [Row("join_seconds", value, "s", "–", limit, f"≤ {TARGET_S:.0f}", value <= TARGET_S)]


def _join() -> float:
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as name:
        folder = Path(name)
        with running(folder / "server", sites=0) as centre:
            registry = Centre(centre.home)
            write_atomic(folder / "token", tokens.invite(registry.enrolment, "new").encode(), mode=0o600)
            registry.close()
            (folder / "runs").mkdir()
            journal = runs.create(folder / "runs", RunConfig.from_dict(CONFIG))
            submitted = runs.submit(centre.control, journal)
            started = time.monotonic()
            argv = [program("fl"), "site", "run", "--home", str(folder / "site"), "--token", f"@{folder / 'token'}"]
            centre.group.start("site", argv, env=os.environ, log=folder / "site.log")
            for record in runs.follow(centre.control, submitted, tick=lambda: _look(centre.group)):
                if isinstance(record.event, RoundCommitted) and record.event.round == 1:
                    return time.monotonic() - started
    raise AssertionError("the run ended without a round")


def _look(group: Group) -> None:
    for line in group.poll():
        print(line, file=sys.stderr)


def _import_s() -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", "import torch"], check=True)
    return time.monotonic() - started
