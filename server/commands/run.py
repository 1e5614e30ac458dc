"""``fl run``: submit, follow, list, show, compare, export, pause, stop and resume runs.

Where a control room runs (``fl server up``), it is asked, here or with ``--server``; a bare federation (``fl up``) is
driven as it is.
"""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated

import typer

from fl.errors import ConfigError, InputError
from server.commands import bare
from server.commands.room import AsJson, CaFile, Home, Server, TokenFile, choose_home, maybe, needed

app = typer.Typer(help="Submit, follow, list, compare, pause, stop and resume runs.", no_args_is_help=True)

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
    project: Annotated[str | None, typer.Option(help="Whose run it is. [dim]default: default[/]")] = None,
    priority: Annotated[int, typer.Option(help="Higher starts first, within a project.")] = 0,
    sites: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only sites with this label; may be given again.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(metavar="TIME", help="Not before then: 22:30, or 2026-01-31T22:30, local time.")
    ] = None,
    follow: Follow = True,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Submit a run file, or any Flower app: to the control room's queue, or to the federation that fl up runs."""
    if (file is None) == (app_directory is None):
        raise ConfigError("a run file or --app is needed, and not both", hint="fl run start run.toml")
    if file is not None and options:
        raise ConfigError("-c changes the run config of a Flower app", hint=f"change {file} instead")
    if app_directory is not None and sites:
        raise ConfigError("a Flower app decides itself which sites it asks", hint="leave --sites out")
    where = choose_home(home)
    with maybe(where, server, token_file, ca) as room:
        if room is None:
            _only_bare(project, priority, sites, at, why="for a control room; fl server up runs one")
            if app_directory is not None:
                bare.start_app(where, app_directory, options or [], follow=follow, as_json=as_json)
            elif file is not None:
                bare.start(where, file, follow=follow, as_json=as_json)
            return
        from server.commands import queued

        if app_directory is not None:
            name = queued.start_app(room, app_directory, options or [], project=project, priority=priority, at=at)
        else:
            assert file is not None
            name = queued.start(room, file, project=project, priority=priority, sites=sites or [], at=at)
        queued.follow(room, name, follow=follow, as_json=as_json)


@app.command()
def resume(
    reference: Annotated[str, typer.Argument(metavar="RUN", help="The run's name, or its journal.")],
    follow: Follow = True,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Continue a run at the exact point where it ended."""
    where = choose_home(home)
    with maybe(where, server, token_file, ca) as room:
        if room is None:
            bare.resume(where, Path(reference), follow=follow, as_json=as_json)
            return
        from server.commands import queued

        name = room.change_run(Path(reference).name, "resume")
        queued.follow(room, name, follow=follow, as_json=as_json)


@app.command()
def pause(
    reference: Reference,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """End a run for now; fl run resume goes on where it ended. Needs a control room."""
    with needed(home, server, token_file, ca) as room:
        from server.commands import queued

        queued.change(room, reference, "pause", as_json=as_json)


@app.command()
def stop(
    reference: Reference,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """End a run; one with a journal can be resumed."""
    where = choose_home(home)
    with maybe(where, server, token_file, ca) as room:
        if room is None:
            bare.stop(where, reference, as_json=as_json)
            return
        from server.commands import queued

        queued.change(room, reference, "stop", as_json=as_json)


@app.command("list")
def list_runs(
    state: Annotated[str, typer.Option(help="Only these: active, waiting, finished, or a state.")] = "",
    project: Annotated[str, typer.Option(help="Only of this project.")] = "",
    limit: Annotated[int, typer.Option(help="How many at most.")] = 50,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """List runs, newest first; of a bare federation also when it is not running."""
    if limit < 1:
        raise InputError(f"--limit is {limit}, must be at least 1")
    where = choose_home(home)
    with maybe(where, server, token_file, ca) as room:
        if room is None:
            bare.list_runs(where, as_json=as_json)
            return
        from server.commands import queued

        queued.list_runs(room, state=state, project=project, limit=limit, as_json=as_json)


@app.command()
def show(
    reference: Reference,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Show one run: its rounds, who took part, what came out, and what it used."""
    where = choose_home(home)
    with maybe(where, server, token_file, ca) as room:
        if room is None:
            bare.show(where, reference, as_json=as_json)
            return
        from server.commands import queued

        queued.show(room, reference, as_json=as_json)


@app.command()
def log(
    reference: Reference,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the run ends.")] = False,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
) -> None:
    """Print what the run's ServerApp printed."""
    where = choose_home(home)
    with maybe(where, server, token_file, ca) as room:
        if room is None:
            bare.log(where, reference, follow=follow)
            return
        from server.commands import queued

        queued.log(room, reference, follow=follow)


@app.command()
def compare(
    references: Annotated[list[str], typer.Argument(metavar="RUN RUN …", help="Two to ten runs.")],
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Show runs side by side: settings that differ, their metrics, what they used. Needs a control room."""
    with needed(home, server, token_file, ca) as room:
        from server.commands import queued

        queued.compare(room, references, as_json=as_json)


class Target(enum.StrEnum):
    """What ``--to`` takes."""

    CSV = "csv"
    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"


@app.command()
def export(
    references: Annotated[list[str], typer.Argument(metavar="RUN…", help="Names or numbers of runs.")],
    to: Annotated[Target, typer.Option(help="For what.")],
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE|DIR", help="Of csv and tensorboard. [dim]default: runs.csv, or tensorboard[/]"),
    ] = None,
    experiment: Annotated[str, typer.Option(help="Of mlflow.")] = "fedfleet",
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Give the curves of runs to another program; made again, it replaces what was there. Needs a control room."""
    from server.commands import exports

    exports.check(to.value, out)
    with needed(home, server, token_file, ca) as room:
        runs = [exports.drawn(room, reference) for reference in references]
    exports.write(runs, to.value, out, experiment, as_json=as_json)


def _only_bare(project: str | None, priority: int, sites: list[str] | None, at: str | None, *, why: str) -> None:
    """Refuse options that mean nothing here.

    Raises:
        ConfigError: Naming the first.
    """
    given = {"--project": project, "--priority": priority, "--sites": sites, "--at": at}
    if named := [name for name, value in given.items() if value]:
        raise ConfigError(f"{named[0]} is {why}")
