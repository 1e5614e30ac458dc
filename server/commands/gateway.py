"""``fl server gateway``: the gateway as a process of its own, started by those who start a SuperLink."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from server.home import choose

app = typer.Typer()


@app.command(hidden=True)
def gateway(
    home: Annotated[Path | None, typer.Option("--home", help="The server's home.")] = None,
) -> None:
    """Run the gateway of a server's home until it is told to end; a SuperLink must have been started from that home."""
    from server.gateway.start import ENVIRONMENT

    if ENVIRONMENT.items() - os.environ.items():  # gRPC has looked at its environment already
        again = [sys.executable, "-m", "fl.cli", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, **ENVIRONMENT})  # noqa: S606, our own program, again
    from server.gateway.process import run

    run(choose(home))
