"""``fl site join``: make this site's keys and ask to take part."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fl import console
from fl.errors import ConfigError

app = typer.Typer(help="Run a site, or keep the list of sites.", no_args_is_help=True)


@app.callback()
def site() -> None:
    """Run a site, or keep the list of sites."""


@app.command()
def join(
    token: Annotated[
        str, typer.Argument(metavar="TOKEN|@FILE|-", help="The join token; from a file with @, from stdin with -.")
    ],
    home: Annotated[Path | None, typer.Option(help="The site's home. [dim]default: .fedfleet/site[/]")] = None,
    proxy: Annotated[str, typer.Option(help="HTTP proxy on the way to the gateway, http://host:port.")] = "",
    new_keys: Annotated[
        bool, typer.Option("--new-keys", help="Make all keys anew, also those that are there.")
    ] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the operator's approval, or not.")] = True,
) -> None:
    """Make this site's keys, ask to take part, and keep the certificates that come. The keys never leave.

    Other users of this machine can read the arguments of your commands: prefer @FILE or -.
    """
    from edge.home import DEFAULT_HOME, Home
    from edge.identity import join as join_with
    from fl.link.token import decode

    known = decode(read_token(token))
    console.say(f"joining as {known.site} at {known.gateways[0]}; transport authority {known.fingerprint}")
    if not join_with(known, Home(home or DEFAULT_HOME), say=console.say, proxy=proxy, new_keys=new_keys, wait=wait):
        console.say("the same command goes on, once the operator has approved")


def read_token(source: str) -> str:
    """A join token as it is given on the command line: itself, ``@FILE``, or ``-`` for stdin.

    Raises:
        ConfigError: If the file cannot be read.
    """
    if source == "-":
        return sys.stdin.read()
    if not source.startswith("@"):
        return source
    try:
        return Path(source[1:]).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as err:
        raise ConfigError(f"cannot read {source[1:]}: {getattr(err, 'strerror', None) or 'not a join token'}") from err
