"""``fl run`` against a bare federation (``fl up``): SuperLink alone, without a control room; journals tell the rest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fl import console
from fl.errors import ConfigError, RunError, UnreachableError
from server import local
from server.commands import progress

if TYPE_CHECKING:
    from server.control import Control
    from server.runs import Submitted


def start(where: Path, file: Path, *, follow: bool, as_json: bool) -> None:
    """Submit a run file."""
    from server import runs

    config = runs.read_run_file(file)
    with local.connect(where) as control:
        journal = runs.create(where.resolve() / "runs", config)
        submitted = runs.submit(control, journal, secagg=local.secagg_of(where), beside=file.resolve().parent)
        _follow(control, submitted, follow=follow, as_json=as_json)


def start_app(where: Path, directory: Path, options: list[str], *, follow: bool, as_json: bool) -> None:
    """Submit any Flower app."""
    from server import runs

    with local.connect(where) as control:
        run_id = runs.submit_app(control, directory, options, secagg=local.secagg_of(where))
        console.say(f"run {run_id} was submitted")
        if not follow:
            if as_json:
                console.print_json({"run": str(run_id), "status": "pending"})
            return
        run = runs.follow_log(control, run_id, sys.stderr.write if as_json else sys.stdout.write)
        if as_json:
            console.print_json({"run": str(run_id), "status": run.state, "reason": run.details})
        if run.state != "completed":
            raise RunError(f"run {run_id} {run.state}: {run.details or 'see its log'}", hint=f"fl run log {run_id}")


def resume(where: Path, journal: Path, *, follow: bool, as_json: bool) -> None:
    """Continue a run where it ended."""
    from server import runs

    if not journal.exists() and (where / "runs" / journal).exists():
        journal = where / "runs" / journal
    with local.connect(where) as control:
        _follow(control, runs.resume(control, journal, secagg=local.secagg_of(where)), follow=follow, as_json=as_json)


def list_runs(where: Path, *, as_json: bool) -> None:
    """List runs, also of a federation that is not running."""
    from server import runs

    with _if_up(where) as control:
        found = runs.listed(where.resolve() / "runs", control)
    if as_json:
        console.print_json([runs.as_dict(run) for run in found])
        return
    columns = ["run", "app", "status", "rounds", "started"]
    rows = [(run.id, run.app, run.status, run.rounds, run.started[:19].replace("T", " ")) for run in found]
    console.print_table(columns, rows)


def show(where: Path, reference: str, *, as_json: bool) -> None:
    """Show one run."""
    from server import runs

    with _if_up(where) as control:
        run = runs.find(reference, where.resolve() / "runs", control)
    facts = runs.as_dict(run)
    if run.journal is None:
        if as_json:
            console.print_json(facts)
        else:
            console.print_table(["", ""], [(key, str(value)) for key, value in facts.items() if value])
        return
    from fl.rounds.journal import load_state

    state = load_state(run.journal)
    if as_json:
        console.print_json({**facts, "rounds": [progress.round_facts(entry) for entry in state.rounds.values()]})
    else:
        console.out.print(progress.table(state, title=f"{run.id}: {run.status}"))


def log(where: Path, reference: str, *, follow: bool) -> None:
    """Print what a run's ServerApp printed."""
    from server import runs

    with local.connect(where) as control:
        run = runs.find(reference, where.resolve() / "runs", control)
        if run.flower_run is None:
            raise UnreachableError(f"the federation that runs now does not know run {run.id}", hint="read its journal")
        if follow:
            runs.follow_log(control, run.flower_run, sys.stdout.write)
            return
        for text, _ in control.log(run.flower_run):
            sys.stdout.write(text)
            break  # the first piece is everything so far


def stop(where: Path, reference: str, *, as_json: bool) -> None:
    """End a run."""
    from server import runs

    with local.connect(where) as control:
        run = runs.find(reference, where.resolve() / "runs", control)
        if run.flower_run is None:
            raise ConfigError(f"run {run.id} is {run.status}, not running")
        runs.stop(control, run.flower_run, run.journal)
    if as_json:
        console.print_json({"run": run.id, "status": "stopped"})
    else:
        console.say(f"run {run.id} was stopped")


def _follow(control: Control, submitted: Submitted, *, follow: bool, as_json: bool) -> None:
    """Show a run of ours, round by round."""
    from fl.rounds.journal import load_state
    from server import runs

    name = submitted.journal.name
    console.say(f"run {name} was submitted, as Flower's run {submitted.run_id}")
    if follow:
        for record in runs.follow(control, submitted, tick=lambda: None):
            if (line := progress.line(record)) is not None:
                console.say(line)
        console.say(f"fl report {submitted.journal} draws it")
    if as_json:
        state = load_state(submitted.journal)
        facts = {"run": name, "journal": str(submitted.journal), "flower_run": submitted.run_id}
        console.print_json({**facts, "status": state.status, "rounds": state.committed_rounds})


@contextmanager
def _if_up(home: Path) -> Iterator[Control | None]:
    """The federation of a home, or nothing, because journals can be read without it."""
    try:
        control = local.connect(home)
    except UnreachableError:
        yield None
        return
    with control:
        yield control
