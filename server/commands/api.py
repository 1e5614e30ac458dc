"""``fl server api``: more of the API and the dashboard, beside a control room that runs elsewhere."""

from __future__ import annotations

import contextlib
from typing import Annotated

import typer

from fl.errors import ConfigError
from server.commands.federation import ending_politely
from server.commands.server import HomeOption
from server.home import choose

app = typer.Typer()


@app.command()
def api(
    beside: Annotated[
        str, typer.Option("--beside", metavar="URL", help="The control room of the same home: https://HOST:8444.")
    ],
    listen: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="Where it listens. [dim]default: control.listen of server.toml[/]")
    ] = "",
    home: HomeOption = None,
) -> None:
    """Serve the API and the dashboard beside the control room of fl server up, until it is told to end.

    There can be many. All see one home, on a volume that they share, and one store in PostgreSQL. Whichever is asked
    answers; what happens at one is told by all.
    """
    if not beside.startswith(("https://", "http://")):
        raise ConfigError(f"--beside is {beside[:100]!r}, no address of a control room", hint="https://HOST:8444")
    from server.control_room.process import run_api

    with ending_politely(), contextlib.suppress(KeyboardInterrupt):
        run_api(choose(home), beside, listen)
