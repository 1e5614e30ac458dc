"""``fl model``: models that are kept, where they come from, and their names."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl import console
from fl.errors import ConfigError, StorageError
from server.commands.room import AsJson, CaFile, Home, Server, TokenFile, needed

app = typer.Typer(help="Models that are kept: lineage, download, names such as production.", no_args_is_help=True)

Reference = Annotated[str, typer.Argument(metavar="MODEL", help="A model's number, or a name that points at it.")]
Alias = Annotated[str, typer.Argument(metavar="NAME", help="The name, such as production.")]


@app.command("list")
def list_models(
    run: Annotated[str, typer.Option(help="Only of this run.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """List models, the newest first."""
    from fl.secagg.roster import iso
    from server.commands.queued import as_plain

    with needed(home, server, token_file, ca) as room:
        found = room.models(limit=limit, **({"run": run} if run else {}))
    if as_json:
        console.print_json(as_plain(found))
        return
    rows = [
        (
            str(model.number),
            ", ".join(model.aliases),
            model.run,
            str(model.round),
            f"{model.parameters:,}",
            console.human_bytes(model.size_bytes),
            iso(model.created_s),
        )
        for model in found
    ]
    console.print_table(["model", "names", "run", "round", "parameters", "size", "made"], rows)


@app.command()
def show(
    reference: Reference,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Show a model: the run and round that made it, digests of its file, its data's schema and its app."""
    from fl.report import words
    from fl.secagg.roster import iso
    from server.commands.queued import as_plain

    with needed(home, server, token_file, ca) as room:
        model = room.model(reference)
    if as_json:
        console.print_json(as_plain(model))
        return
    console.print_table(
        ["", ""],
        [
            ("model", str(model.number)),
            ("names", ", ".join(model.aliases) or "none"),
            ("run", f"{model.run}, round {model.round}, project {model.project}"),
            ("parameters", f"{model.parameters:,}"),
            ("size", console.human_bytes(model.size_bytes)),
            ("digest", model.digest),
            ("data schema", model.schema_digest),
            ("app", model.app_digest or "that of this fedfleet"),
            ("made", iso(model.created_s)),
            *(
                (f"{name}, {place}", words.metric(name, value))
                for place, values in model.metrics.items()
                for name, value in sorted(values.items())
            ),
        ],
    )


@app.command()
def download(
    reference: Reference,
    out: Annotated[Path, typer.Argument(metavar="FILE", help="Where to; must not exist.")],
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
) -> None:
    """Fetch a model's file, safetensors, and check it against its digest."""
    from fl.digests import is_intact
    from fl.files import storage_error

    with needed(home, server, token_file, ca) as room:
        model = room.model(reference)
        part = out.with_name(f".{out.name}.part")
        if out.exists():
            raise ConfigError(f"there is a file {out}", hint="another name, or remove it")
        try:
            with part.open("wb") as file:
                for piece in room.download(str(model.number)):
                    file.write(piece)
            if not is_intact(part, model.digest):
                raise StorageError("what arrived is not the model: its digest differs", hint="try again")
            part.replace(out)
        except OSError as err:
            raise storage_error(out, err) from err
        finally:
            part.unlink(missing_ok=True)
    console.say(f"wrote {out}: model {model.number} of run {model.run}, round {model.round}")


@app.command()
def promote(
    reference: Reference,
    alias: Alias,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
) -> None:
    """Have a name point at a model. The model's file is then kept, whatever happens to its run."""
    with needed(home, server, token_file, ca) as room:
        model = room.model(reference)
        room.set_alias(alias, model.number)
    console.say(f"{alias} is model {model.number} now, of run {model.run}, round {model.round}")


@app.command()
def rollback(
    alias: Alias, home: Home = None, server: Server = None, token_file: TokenFile = None, ca: CaFile = None
) -> None:
    """Have a name point at the model that it pointed at before."""
    with needed(home, server, token_file, ca) as room:
        room.roll_back_alias(alias)
        model = room.model(alias)
    console.say(f"{alias} is model {model.number} again, of run {model.run}, round {model.round}")
