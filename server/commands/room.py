"""Which control room a command speaks to: that of a home, that of ``--server``, or none."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl.errors import ConfigError, UnreachableError
from server import local
from server.home import DEFAULT, VARIABLE

if TYPE_CHECKING:
    from server.client import Client

CONTROL = "control.json"
TOKEN_VARIABLE, CA_VARIABLE, SERVER_VARIABLE = "FEDFLEET_TOKEN_FILE", "FEDFLEET_CA_FILE", "FEDFLEET_SERVER"

Home = Annotated[
    Path | None,
    typer.Option("--home", help="Home of the centre or the federation. [dim]default: .fedfleet, .fedfleet/server[/]"),
]
Server = Annotated[
    str | None, typer.Option("--server", metavar="URL", help="A control room elsewhere. [dim]FEDFLEET_SERVER[/]")
]
TokenFile = Annotated[
    Path | None,
    typer.Option("--token-file", help="File (0600) with an access token for --server. [dim]FEDFLEET_TOKEN_FILE[/]"),
]
CaFile = Annotated[
    Path | None,
    typer.Option("--ca", help="Authority of --server's certificate; the system's without. [dim]FEDFLEET_CA_FILE[/]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def choose_home(option: Path | None) -> Path:
    """The home that runs are started in: the option, else of the environment, else the one here that is running."""
    if option is not None:
        return option
    for name in (local.HOME_VARIABLE, VARIABLE):
        if os.environ.get(name):
            return Path(os.environ[name])
    here = local.choose_home(None)
    return DEFAULT if not (here / local.FEDERATION).exists() and (DEFAULT / CONTROL).exists() else here


@contextlib.contextmanager
def maybe(home: Path, server: str | None, token_file: Path | None, ca: Path | None) -> Iterator[Client | None]:
    """The control room that is meant, or nothing if a bare federation is.

    Raises:
        ConfigError: If there is a URL without a token.
    """
    url = server or os.environ.get(SERVER_VARIABLE)
    if url is None and not (home / CONTROL).exists():
        yield None
        return
    from server.client import Client

    if url is not None:
        file = token_file or _path(TOKEN_VARIABLE)
        if file is None:
            raise ConfigError("--server needs an access token", hint="--token-file FILE; fl user token NAME makes one")
        room = Client.at(url, file, ca=ca or _path(CA_VARIABLE))
    else:
        room = Client.of_home(home)
    with room:
        yield room


@contextlib.contextmanager
def needed(home: Path | None, server: str | None, token_file: Path | None, ca: Path | None) -> Iterator[Client]:
    """The control room that is meant.

    Raises:
        UnreachableError: If none runs.
    """
    where = choose_home(home)
    with maybe(where, server, token_file, ca) as room:
        if room is None:
            raise UnreachableError(f"no control room runs in {where}", hint="fl server up; --home names its home")
        yield room


def _path(variable: str) -> Path | None:
    value = os.environ.get(variable)
    return Path(value) if value else None
