"""``fl site``: run one site of a federation."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from fl import console

app = typer.Typer(help="Run a site.", no_args_is_help=True)


@app.callback()
def site() -> None:
    """Run a site."""


@app.command()
def run(
    superlink: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where the SuperLink listens.")],
    ca: Annotated[Path, typer.Option(help="The certificate authority that its certificate must come from.")],
    name: Annotated[str, typer.Option(help="The site's name.")],
    home: Annotated[Path, typer.Option(help="Directory of the site's key and logs.")],
    data_dir: Annotated[Path | None, typer.Option(help="Where the site's own data lies.")] = None,
    partition_id: Annotated[int, typer.Option(help="Without data: the site's part of the common data.")] = 0,
    num_partitions: Annotated[int, typer.Option(help="Without data: in how many parts it is cut.")] = 1,
    authority: Annotated[
        Path | None, typer.Option(help="The roster authority's public key, for secure aggregation.")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="Compute threads of each of its processes.")] = None,
) -> None:
    """Run one site's SuperNode and its executor until interrupted.

    The site makes its own keys. The public half of one, HOME/node.pub, has to be registered at the SuperLink; with
    --authority that of the other, HOME/identity.pub, has to be signed into the roster.
    """
    from edge import supernode

    config = supernode.SiteConfig(
        name=name,
        superlink=superlink,
        ca=ca,
        home=home,
        data_dir=data_dir,
        partition_id=partition_id,
        num_partitions=num_partitions,
        authority=authority,
        threads=threads,
    )
    # Asked politely to end is the same as Ctrl-C: the SuperNode says goodbye first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    supernode.run(config, say=console.say)
