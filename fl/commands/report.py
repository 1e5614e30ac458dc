"""``fl report``."""

from __future__ import annotations

import enum
import shlex
import webbrowser
from pathlib import Path
from typing import Annotated, get_args

import typer

from fl import console
from fl.errors import ConfigError
from fl.report.facts import Format


class Choice(enum.StrEnum):
    """What ``--format`` takes."""

    HTML = "html"
    JSON = "json"
    CSV = "csv"
    PNG = "png"
    ALL = "all"


def report(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The journal of a run, also of one in progress.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE|DIR", help="Where to write. [dim]default: DIR/report.html[/]")
    ] = None,
    formats: Annotated[
        list[Choice] | None, typer.Option("--format", help="What to write; can be repeated. [dim]default: html[/]")
    ] = None,
    prices: Annotated[
        Path | None, typer.Option(metavar="FILE.toml", help="File with a table of prices, such as server.toml.")
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Draw a run from its journal: one page that needs no network, or JSON, CSV and PNG files."""
    from fl.report.export import write_files
    from fl.report.gather import gather
    from fl.report.prices import NO_PRICES, read_prices

    chosen = _chosen(formats, out)
    where, file = (directory, None) if out is None else (out, None) if out.is_dir() else (out.parent, out)
    if file and len(chosen) > 1:
        raise ConfigError(
            f"{file} is no directory, and several formats do not go into one file",
            hint=f"mkdir {shlex.quote(str(file))}",
        )
    if open_it and "html" not in chosen:
        raise ConfigError("--open needs the page", hint="add --format html")
    facts = gather(directory, prices=read_prices(prices) if prices else NO_PRICES)
    written = write_files(facts, chosen, where, file=file)
    if as_json:
        run = facts.run
        files = [{"format": name, "path": str(path)} for name, path in written]
        console.print_json({"run": run.name, "status": run.status, "rounds": run.rounds_committed, "files": files})
    else:
        for _, path in written:
            console.out.print(str(path), markup=False, soft_wrap=True)
    if open_it:
        page = next(path for name, path in written if name == "html")
        if not webbrowser.open(page.absolute().as_uri()):
            console.say(f"no browser was found; open {page} yourself")


def _chosen(formats: list[Choice] | None, out: Path | None) -> list[Format]:
    """The formats asked for, each once; without any, the one that the file's name asks for."""
    if formats is None:
        ending = out.suffix[1:] if out is not None and not out.is_dir() else ""
        formats = [Choice(ending) if ending in set(Choice) - {Choice.ALL} else Choice.HTML]
    if Choice.ALL in formats:
        formats = [choice for choice in Choice if choice is not Choice.ALL]
    return [name for name in get_args(Format) if name in formats]
