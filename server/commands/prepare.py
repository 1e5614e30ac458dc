"""``fl server prepare``: what the chart runs before the centre: its home is made once, its configuration each time."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import typer

from fl import config as configs
from fl import console
from fl.errors import ConfigError
from fl.files import write_atomic
from fl.secagg.storage import read_public_key
from server.centre import found
from server.commands.server import HomeOption
from server.home import ServerConfig, choose

app = typer.Typer()


@app.command()
def prepare(
    settings: Annotated[Path, typer.Option(help="The whole server.toml, which replaces that of the home.")],
    roster_authority: Annotated[
        str | None, typer.Option(help="Public key of the roster authority: 64 hex digits, or a file.")
    ] = None,
    roster_key_here: Annotated[
        bool, typer.Option("--roster-key-here", help="Keep the roster authority's key in this home.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Make a centre's home if there is none, and bring its server.toml; a wrong one changes nothing.

    Can be run again and again, and goes on where it was killed. How the roster authority is known counts only when the
    home is made.
    """
    where = choose(home)
    text = settings.read_text(encoding="utf-8") if settings.is_file() else ""
    if not text:
        raise ConfigError(f"{settings} is missing or empty", hint="it is a server.toml: docs/reference/server-file.md")
    config = configs.load(ServerConfig, _toml(settings, text))
    if not where.config_file.exists():
        if (roster_authority is None) == (not roster_key_here):
            raise ConfigError("either --roster-authority KEY or --roster-key-here is needed", hint="fl roster init")
        found(where, config, roster_authority=read_public_key(roster_authority) if roster_authority else None)
        console.say(f"made a centre's home in {where.path}")
    if where.config_file.read_text(encoding="utf-8") != text:
        write_atomic(where.config_file, text)
        console.say(f"wrote {where.config_file}")


def _toml(path: Path, text: str) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise ConfigError(f"{path} is no TOML: {err}") from err
