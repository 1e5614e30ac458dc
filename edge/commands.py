"""``fl site``: run one site of a federation, see how it is, check what its owner allows."""

from __future__ import annotations

import datetime
import signal
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from fl import console

app = typer.Typer(help="Run a site.", no_args_is_help=True)
policy = typer.Typer(help="The site owner's policy file.", no_args_is_help=True)
app.add_typer(policy, name="policy")

HomeOption = Annotated[Path | None, typer.Option(help="The site's home; .fedfleet/site if not given.")]


@app.callback()
def site() -> None:
    """Run a site."""


@policy.callback()
def policy_group() -> None:
    """Check and sign the site owner's policy file."""


@app.command()
def run(
    home: HomeOption = None,
    token: Annotated[
        str | None,
        typer.Option(metavar="TOKEN|@FILE|-", help="Join with this token first, if the site has not joined yet."),
    ] = None,
) -> None:
    """Run a site: link, SuperNode and runner, until interrupted.

    What it needs to know is in HOME/site.toml, what its owner allows in HOME/policy.toml.
    """
    from edge import site
    from edge.join_command import read_token

    # Asked politely to end is the same as Ctrl-C: the SuperNode says goodbye first.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if token is not None:
        site.join_first(_home(home), read_token(token), say=console.say)
    site.run(_home(home), say=console.say)


@app.command()
def status(
    home: HomeOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> int:
    """Show how the site is: what it waits for, its last contact, certificate, budgets, GPU.

    Ends with status 0 if it is connected, 4 if not, so that a probe can use it.
    """
    from edge.link.show import rows, status_now

    said = status_now(_home(home))
    if as_json:
        console.print_json(said)
    else:
        console.print_table(("", ""), rows(said, time.time()))
    return 0 if said["state"] == "connected" else 4


@policy.command()
def check(
    file: Annotated[Path | None, typer.Argument(help="The policy file; that of the site's home if not given.")] = None,
    home: HomeOption = None,
    app_digest: Annotated[
        str | None, typer.Option("--app", metavar="DIGEST", help="Say whether this app may run.")
    ] = None,
    at: Annotated[
        datetime.datetime | None, typer.Option(help="For this time, by the policy's time zone, instead of now.")
    ] = None,
) -> None:
    """Check a policy file, and say in words what it allows now.

    Ends with status 2 if the file cannot be used, or if it refuses the app of --app.
    """
    from edge import policy as rules
    from edge import windows
    from edge.link.show import policy_rows
    from edge.usage import Usage
    from fl.errors import ConfigError

    path = file or _home(home).policy
    if not path.exists():
        raise ConfigError(f"no such file: {path}", hint="fl site run makes one; without it everything is allowed")
    found = rules.Policy.from_file(path)
    zone = windows.find_zone(found.hours.time_zone)
    now = at.replace(tzinfo=zone) if at else datetime.datetime.now(zone)
    console.print_table(("", ""), policy_rows(found, Usage(_home(home).usage, found), now))
    if app_digest is not None:
        rules.check_app(found, app_digest)
        rules.check_work_hours(found, now)
        console.say(f"the app {app_digest} may run")


@policy.command()
def sign(
    file: Annotated[Path, typer.Argument(help="The policy file.")],
    key: Annotated[Path, typer.Option(help="The owner's private key, as fl secagg key makes one.")],
    password_file: Annotated[Path | None, typer.Option(help="File with the key's password.")] = None,
) -> None:
    """Sign a policy file: for sites that take a signed one only.

    The public key goes to HOME/keys/policy.pub of the site; from then on it takes no work without this signature.
    """
    from edge import policy as rules
    from fl.secagg.storage import read_identity

    password = password_file.read_bytes().rstrip(b"\n") if password_file else None
    beside = rules.sign(file, read_identity(key, "owner", password).key)
    console.say(f"wrote {beside}")


def _home(option: Path | None) -> Any:
    from edge.home import DEFAULT_HOME, Home

    return Home(option or DEFAULT_HOME)
