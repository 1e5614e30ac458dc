"""Journals for tests of the report: whole ones, killed ones that were taken up again, failed ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fl.errors import RunError
from fl.flower.folding import folding_for
from fl.rounds import events
from fl.rounds.config import RunConfig
from fl.rounds.engine import Engine
from fl.rounds.journal import Journal, Record, read
from fl.rounds.port import Failure
from tests.fl.rounds.simulator import SimulatedSite, SiteSimulator, federation, run_config

EVENTS = "events.jsonl"


def journal(directory: Path, sites: Mapping[str, SimulatedSite] | SiteSimulator | None = None, **tables: Any) -> Path:
    """The journal of a run that went on until it was completed or failed; ``rounds`` is 3 unless said."""
    port = sites if isinstance(sites, SiteSimulator) else SiteSimulator(sites or federation())
    config = run_config(**tables)
    Journal.create(directory, config.to_dict(), clock=port.time.clock).close()
    return resume(directory, port, config)


def resume(directory: Path, port: SiteSimulator, config: RunConfig) -> Path:
    """Take a run up again, until it is completed or failed."""
    with Journal(directory, clock=port.time.clock) as opened, contextlib.suppress(RunError):
        Engine(opened, config, port, folding_for(config.strategy), evaluate_centre=evaluate_centre).run()
    return directory


def evaluate_centre(arrays: Mapping[str, Any]) -> tuple[int, Mapping[str, float]]:
    return 100, {"loss": float(sum(abs(array).mean() for array in arrays.values())), "accuracy": 0.5}


def cut(directory: Path, keep: int) -> None:
    """Leave only the first lines, as if the server had been killed then."""
    lines = (directory / EVENTS).read_bytes().splitlines(keepends=True)
    (directory / EVENTS).write_bytes(b"".join(lines[:keep]))


def after(directory: Path, is_it: Callable[[Record], bool]) -> int:
    """How many lines there are up to the first that is it, and with it."""
    return next(i for i, record in enumerate(read(directory), 1) if is_it(record))


def killed_in_round_two(directory: Path, *, spoil: bool = False) -> Path:
    """Two of four updates of round 2 had landed when the server was killed; then it was taken up again.

    Args:
        directory: Of the journal.
        spoil: Whether one of them is damaged on disk meanwhile.
    """
    tables: dict[str, Any] = {"rounds": 2, "journal": {"keep_updates": True}}
    journal(directory, **tables)
    is_second = lambda r: isinstance(r.event, events.UpdateLanded) and (r.event.round, r.event.site) == (2, "site-2")  # noqa: E731
    cut(directory, after(directory, is_second))
    if spoil:
        path = directory / "rounds/0002/update-site-1.safetensors"
        path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    return resume(directory, SiteSimulator(federation()), run_config(**tables))


def failing(reason: str, *, phase: str = "train", rounds: tuple[int, ...] = ()) -> SimulatedSite:
    """A site that fails in a phase, in some rounds or in all."""

    def fail(request: Any) -> Failure | None:
        is_due = request.phase == phase and (not rounds or request.round in rounds)
        return Failure(code="task_failed", reason=reason) if is_due else None

    return SimulatedSite(fail=fail)
