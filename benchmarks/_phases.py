"""How long a phase takes in which nothing is done: a message out to two sites, an answer back from each."""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks._server_memory import wait_for
from benchmarks._table import Row
from fl.ports import free_port
from fl.processes import Group, environment, program
from server import bundle
from server.local import FederationConfig, LocalFederation

APP = Path(__file__).parent / "apps" / "phases"
SITES = 2


def phase_seconds(quick: bool) -> list[Row]:
    """Phases without work through the link, and with plain Flower on the same machine in the same run."""
    config = {"phases": 2 if quick else 10, "idle-s": 5.0 if quick else 30.0, "sites": SITES}
    theirs, ours = _plain(config), _ours(config)
    value, plain = statistics.median(ours["phases"]), statistics.median(theirs["phases"])
    idle, plain_idle = ours["after_idle"], theirs["after_idle"]
    return [
        Row(
            "phase_seconds", value, "s", f"{plain:.2f} s", "–", "≤ 0.6 and ≥ 10×", value <= 0.6 and plain >= 10 * value
        ),
        Row("phase_seconds_after_idle", idle, "s", f"{plain_idle:.2f} s", "–", "≤ 4", idle <= 4),
    ]


def _ours(config: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as name:
        federation = FederationConfig(home=Path(name) / "home", sites=SITES)
        with LocalFederation(federation, say=lambda line: print(line, file=sys.stderr)) as running:
            out = Path(name) / "out.json"
            running.control.start_run(bundle.from_directory(APP), {**config, "out": str(out), "how": "ours"})
            return _wait(out, running.poll)


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as name, _flower(Path(name)) as (address, env):
        home, out = Path(name), Path(name) / "out.json"
        (home / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n\n[superlink.bench]\naddress = "{address}"\ninsecure = true\n'
        )
        settings = " ".join(f"{key}={json.dumps(value)}" for key, value in {**config, "out": str(out)}.items())
        command = [program("flwr"), "run", str(APP), "bench", "--run-config", settings]
        subprocess.run(command, check=True, env=env, stdout=subprocess.DEVNULL)
        return _wait(out, lambda: None)


@contextlib.contextmanager
def _flower(home: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Flower as its own documentation starts it: a SuperLink and SuperNodes."""
    port, env = free_port(), environment(home=home)
    del env["FLWR_SUPEREXEC_TASK_POLL_INTERVAL"]  # Flower's own
    address = f"127.0.0.1:{port}"
    with Group() as group:
        group.start(
            "superlink",
            [program("flower-superlink"), "--insecure", "--port", str(port)],
            env=env,
            log=home / "superlink.log",
        )
        wait_for(address)
        for number in range(SITES):
            argv = [program("flower-supernode"), "--insecure", "--superlink", address, "--port", str(free_port())]
            group.start(f"supernode {number}", argv, env=env, log=home / f"supernode-{number}.log")
        yield address, env


def _wait(out: Path, look: Any) -> dict[str, Any]:
    end = time.monotonic() + 900
    while not out.exists():
        look()
        if time.monotonic() > end:
            raise RuntimeError("the phases did not come to an end")
        time.sleep(0.2)
    time.sleep(0.2)  # until it is written
    measured: dict[str, Any] = json.loads(out.read_text())
    return measured
