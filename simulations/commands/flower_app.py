"""``fl sim run`` of a Flower app."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fl import console

if TYPE_CHECKING:
    from simulations.app import AppResult
    from simulations.commands.run import Backend

SITES = 10
"""How many sites an app has unless that is said."""

MOST_TOLD = 5
"""Lines about sites that answered with errors."""


def run_app(
    directory: Path,
    run_config: Mapping[str, Any],
    *,
    sites: int | None,
    workers: int | None,
    seed: int | None,
    backend: Backend | None,
    as_json: bool,
) -> None:
    """Run an app, and tell what came out; what it prints itself goes to the standard error with ``--json``.

    Raises:
        FLError: As ``simulate_app`` does.
    """
    from simulations.app import simulate_app

    sites = sites or SITES
    elsewhere = contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext()
    with elsewhere:
        result = simulate_app(
            directory,
            sites=sites,
            run_config=run_config,
            workers=workers or min(sites, len(os.sched_getaffinity(0))),
            seed=seed or 0,
            backend=backend.value if backend else "in-process",
        )
    if as_json:
        console.print_json(_as_dict(directory, sites, result))
        return
    _print(sites, result)


def _as_dict(directory: Path, sites: int, result: AppResult) -> dict[str, Any]:
    return {
        "app": str(directory),
        "sites": sites,
        "seconds": round(result.seconds, 3),
        "answered": result.answered,
        "errors": {str(partition): list(reasons) for partition, reasons in sorted(result.errors.items())},
        "metrics": result.metrics,
    }


def _print(sites: int, result: AppResult) -> None:
    failed = sum(map(len, result.errors.values()))
    facts = [("sites", str(sites)), ("seconds", f"{result.seconds:.3g}")]
    if result.answered:
        facts.insert(1, ("messages", f"{result.answered} answered, {failed} of them with an error"))
    numbers = {name: value for name, value in result.metrics.items() if isinstance(value, int | float)}
    console.print_table(["", ""], [*facts, *((name, f"{value:.6g}") for name, value in numbers.items())])
    for partition, reasons in sorted(result.errors.items())[:MOST_TOLD]:
        console.say(f"warning: partition {partition} answered {len(reasons)} times with an error: {reasons[0]}")
    if len(result.errors) > MOST_TOLD:
        console.say(f"and {len(result.errors) - MOST_TOLD} more partitions")
