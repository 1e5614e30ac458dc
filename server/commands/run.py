"""``fl run``: submit, follow, list, show, stop and resume runs of a federation."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl import console
from fl.errors import ConfigError, RunError, UnreachableError
from server import local
from server.commands import progress

if TYPE_CHECKING:
    from server.control import Control
    from server.runs import Submitted

app = typer.Typer(help="Submit, follow, list, show, stop and resume runs.", no_args_is_help=True)

Home = Annotated[Path | None, typer.Option(help="Directory of the federation. [dim]default: .fedfleet[/]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Reference = Annotated[str, typer.Argument(metavar="RUN", help="Name of a run, its journal, or Flower's number.")]
Follow = Annotated[bool, typer.Option("--follow/--detach", help="Stay until it ends, or not.")]


@app.command()
def start(
    file: Annotated[Path | None, typer.Argument(metavar="FILE.toml", help="The run file.")] = None,
    app_directory: Annotated[Path | None, typer.Option("--app", metavar="DIR", help="Any Flower app instead.")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("-c", "--config", metavar="KEY=VALUE", help="A change to the app's own run config."),
    ] = None,
    follow: Follow = True,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Submit a run file, or any Flower app, to the federation that fl up runs."""
    from server import runs

    if (file is None) == (app_directory is None):
        raise ConfigError("a run file or --app is needed, and not both", hint="fl run start run.toml")
    where = local.choose_home(home)
    if file is not None:
        if options:
            raise ConfigError("-c changes the run config of a Flower app", hint=f"change {file} instead")
        config = runs.read_run_file(file)
        with local.connect(where) as control:
            journal = runs.create(where.resolve() / "runs", config)
            submitted = runs.submit(control, journal, secagg=local.secagg_of(where), beside=file.resolve().parent)
            _follow(control, submitted, follow=follow, as_json=as_json)
        return
    assert app_directory is not None
    with local.connect(where) as control:
        run_id = runs.submit_app(control, app_directory, options or [], secagg=local.secagg_of(where))
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


@app.command()
def resume(
    journal: Annotated[Path, typer.Argument(metavar="DIR", help="The run's journal.")],
    follow: Follow = True,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Continue a run at the exact point where it ended."""
    from server import runs

    where = local.choose_home(home)
    if not journal.exists() and (where / "runs" / journal).exists():
        journal = where / "runs" / journal
    with local.connect(where) as control:
        _follow(control, runs.resume(control, journal, secagg=local.secagg_of(where)), follow=follow, as_json=as_json)


@app.command("list")
def list_runs(home: Home = None, as_json: AsJson = False) -> None:
    """List the runs of a federation, newest first; also of one that is not running."""
    from server import runs

    where = local.choose_home(home)
    with _if_up(where) as control:
        found = runs.listed(where.resolve() / "runs", control)
    if as_json:
        console.print_json([runs.as_dict(run) for run in found])
        return
    columns = ["run", "app", "status", "rounds", "started"]
    rows = [(run.id, run.app, run.status, run.rounds, run.started[:19].replace("T", " ")) for run in found]
    console.print_table(columns, rows)


@app.command()
def show(reference: Reference, home: Home = None, as_json: AsJson = False) -> None:
    """Show one run: its rounds, who took part, and what came out."""
    from server import runs

    where = local.choose_home(home)
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


@app.command()
def log(
    reference: Reference,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the run ends.")] = False,
    home: Home = None,
) -> None:
    """Print what the run's ServerApp printed."""
    from server import runs

    where = local.choose_home(home)
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


@app.command()
def stop(reference: Reference, home: Home = None, as_json: AsJson = False) -> None:
    """End a run; one with a journal can be resumed."""
    from server import runs

    where = local.choose_home(home)
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
