from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]


@cache
def namespaces() -> str | None:
    """Why this machine cannot mount a small disk for a test; ``None`` if it can."""
    try:
        subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as err:
        return f"no mount namespaces here: {err}"
    return None


def on_a_disk_of(size_kib: int, directory: Path) -> dict[str, Any]:
    if reason := namespaces():
        pytest.skip(reason)
    directory.mkdir()
    command = ["unshare", "-rm", sys.executable, "-m", "tests.fl.rounds.full_disk", str(directory), str(size_kib)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def test_a_full_disk_stops_the_run_cleanly_and_it_ends_with_the_same_model_once_there_is_room(tmp_path: Path) -> None:
    ample = on_a_disk_of(8192, tmp_path / "ample")
    assert ample["full"] is None
    stopped_at = set()
    for size_kib in range(12, 72, 8):
        tight = on_a_disk_of(size_kib, tmp_path / str(size_kib))
        if tight["full"] is None:
            break
        assert "No space left on device" in tight["full"], tight
        assert tight["parts"] == [], "half-written files were left"
        assert tight["again"] in (None, "not begun")
        if tight["again"] is None:
            stopped_at.add(tight["committed"])
            assert tight["model"] == ample["model"]
    assert stopped_at, "no size let the run begin and then stopped it"
