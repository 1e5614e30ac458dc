"""``fl sim parity``."""

from __future__ import annotations

import contextlib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fl import console

DIGITS = 16
"""Of a digest, in the table; ``--json`` has all of them."""


def parity(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The journal of a deployed run, also of one in progress.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Keep the simulation's journal here. [dim]default: not kept[/]")
    ] = None,
    sites: Annotated[
        int | None,
        typer.Option(min=1, help="How many sites there were. [dim]default: as many as were online at once[/]"),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="One directory of data a site. [dim]default: that of the journal's home[/]"),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prove that a deployed run equals its simulation: the same global model, to the bit, after every round.

    The run's configuration and seed are simulated on the sites' own data. Who was online and who answered is taken
    from the journal. If the models part, it says in which round and why, and ends with status 1.
    """
    from simulations import parity as proof
    from simulations.commands.progress import showing

    with contextlib.ExitStack() as stack:
        directory = out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        progress = stack.enter_context(showing(run.name, quiet=as_json))
        found = proof.prove(run, directory, sites=sites, data=data, progress=progress)
    if as_json:
        console.print_json(found.as_dict())
        if found.parts_at is not None:
            raise typer.Exit(proof.ParityError.exit_status)
        return
    rows = [
        (
            str(it.round),
            str(it.survivors) if it.round else "",
            it.deployed[:DIGITS],
            it.simulated[:DIGITS] if it.simulated else "",
            "yes" if it.is_same else "no",
        )
        for it in found.rounds
    ]
    console.print_table(["round", "sites", "deployed model", "simulated model", "same"], rows)
    found.check()
    rounds = len(found.rounds) - 1
    console.say(f"the global model is the same after each of {rounds} rounds, to the bit")
