"""How long ``make demo`` takes once everything is installed, and how near its model comes to central training."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time

from benchmarks._table import Row


def demo_seconds(quick: bool) -> list[Row]:
    """The demo as a user runs it; it takes minutes, so ``--quick`` leaves it out."""
    if quick:
        print("left out with --quick: demo_seconds takes minutes", file=sys.stderr)
        return []
    with tempfile.TemporaryDirectory(prefix="fedfleet-bench-") as home:
        command = [sys.executable, "-m", "fl.cli", "demo", "--json", "--home", home]
        started = time.monotonic()
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        passed_s = time.monotonic() - started
    result = json.loads(done.stdout)
    behind = 100 * (result["central_accuracy"] - result["accuracy"])
    central = f"{100 * result['central_accuracy']:.1f} % with all data in one place"
    return [
        Row("demo_seconds", passed_s, "s", "-", "2 cores", "≤ 240 (4 minutes)", passed_s <= 240),
        Row("demo_accuracy_points_behind", behind, "points", central, "0", "≤ 1", behind <= 1),
    ]
