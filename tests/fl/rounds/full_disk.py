"""A server on a disk of a given size: run in a mount namespace of its own by ``test_storage``.

Usage: full_disk.py DIRECTORY SIZE_KIB. Mounts a tmpfs on DIRECTORY, runs until the disk is full, then makes room and
resumes; prints what happened as JSON.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

from fl.errors import StorageError
from fl.rounds.checkpoint import Streaming, model_path
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal, load_state, read
from fl.strategies import registry
from tests.fl.rounds.simulator import SiteSimulator, federation, run_config


def serve(directory: Path) -> str | None:
    sites, config = SiteSimulator(federation(3)), run_config(rounds=3)
    try:
        if not directory.exists():
            Journal.create(directory, config.to_dict(), clock=sites.time.clock).close()
        with Journal(directory, clock=sites.time.clock) as journal:
            Engine(journal, config, sites, Streaming(registry.create("fedadam", {}))).run()
    except StorageError as err:
        return err.message
    return None


def main(mount: Path, size_kib: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "none", str(mount)], check=True)
    run = mount / "run"
    full = serve(run)
    events = len(read(run)) if (run / "events.jsonl").exists() else 0
    committed = load_state(run).committed_rounds if events else 0
    parts = [str(path) for path in mount.rglob("*.part")]
    subprocess.run(["mount", "-o", "remount,size=8m", str(mount)], check=True)
    again = serve(run) if events else "not begun"
    model = model_path(run, 3)
    print(
        json.dumps(
            {
                "full": full,
                "committed": committed,
                "parts": parts,
                "again": again,
                "model": hashlib.sha256(model.read_bytes()).hexdigest() if model.exists() else None,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
