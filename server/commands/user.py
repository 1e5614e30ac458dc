"""``fl user``: who may sign in at the control room, and with which tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fl import console
from fl.errors import StorageError
from fl.files import write_atomic
from server.commands.room import AsJson, CaFile, Home, Server, TokenFile

app = typer.Typer(help="People who may sign in at the control room, and their tokens.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
Projects = Annotated[
    list[str] | None,
    typer.Option("--project", help="A project whose runs they see; may be given again. [dim]default: all[/]"),
]
Days = Annotated[float, typer.Option(help="How long the token is good.")]
Out = Annotated[Path | None, typer.Option(help="Write the token into this file, readable by you only, not to stdout.")]


@app.command()
def add(
    name: Name,
    role: Annotated[str, typer.Option(help="viewer, operator or admin.")] = "viewer",
    projects: Projects = None,
    days: Days = 90.0,
    out: Out = None,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a user, and their first token: it is shown this once, and signs in at the dashboard and the API."""
    _check_out(out)
    from server.commands.people import people

    with people(home, server, token_file, ca) as them:
        them.add_user(name, role, projects or ["*"])
        made = them.add_token(name, "first", days)
    _hand_over(name, made.secret, made.expires_s, out, as_json)


@app.command()
def token(
    name: Name,
    purpose: Annotated[str, typer.Option("--for", help="What it is for.")] = "",
    days: Days = 90.0,
    revoke: Annotated[str | None, typer.Option(metavar="ID", help="End this token instead; fl user list.")] = None,
    out: Out = None,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Make another access token for a user; it is shown this once. Or end one."""
    _check_out(out)
    from server.commands.people import people

    with people(home, server, token_file, ca) as them:
        if revoke is not None:
            them.revoke_token(name, revoke)
            console.say(f"token {revoke} of {name} is no longer good")
            return
        made = them.add_token(name, purpose, days)
    _hand_over(name, made.secret, made.expires_s, out, as_json)


@app.command("list")
def list_users(
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """List users with their roles, projects and tokens."""
    from server.commands.people import people
    from server.commands.queued import as_plain
    from server.commands.server import age

    with people(home, server, token_file, ca) as them:
        found = them.users()
    if as_json:
        console.print_json(as_plain(found))
        return
    rows = [
        (
            user.name,
            f"{user.role}, disabled" if user.disabled_s else user.role,
            ", ".join(user.projects),
            one.id if one else "",
            (one.name or "no name") if one else "",
            ("revoked" if one.revoked_s else _until(one.expires_s)) if one else "",
            age(one.used_s) if one else "",
        )
        for user in found
        for one in (user.tokens or (None,))
    ]
    console.print_table(["user", "role", "projects", "token", "for", "good", "used"], rows)


@app.command()
def role(
    name: Name,
    wanted: Annotated[str, typer.Argument(metavar="ROLE", help="viewer, operator or admin.")],
    projects: Projects = None,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
) -> None:
    """Change what a user may do, from their next request on; projects stay unless --project is given."""
    from server.commands.people import people

    with people(home, server, token_file, ca) as them:
        them.set_role(name, wanted, projects)
    console.say(f"{name} is {wanted} now")


@app.command()
def disable(
    name: Name, home: Home = None, server: Server = None, token_file: TokenFile = None, ca: CaFile = None
) -> None:
    """Let a user in no longer: tokens and sessions end."""
    from server.commands.people import people

    with people(home, server, token_file, ca) as them:
        them.change_user(name, "disable")
    console.say(f"{name} is disabled")


@app.command()
def enable(
    name: Name, home: Home = None, server: Server = None, token_file: TokenFile = None, ca: CaFile = None
) -> None:
    """Let a user in again, with a new token of fl user token."""
    from server.commands.people import people

    with people(home, server, token_file, ca) as them:
        them.change_user(name, "enable")
    console.say(f"{name} is enabled; next: fl user token {name}")


def _hand_over(name: str, secret: str, expires_s: float, out: Path | None, as_json: bool) -> None:
    if out is not None:
        write_atomic(out, secret + "\n", mode=0o600)
    if as_json:
        console.print_json({"user": name, "expires": _date(expires_s), **({} if out else {"token": secret})})
        return
    console.say(f"token of {name}, good until {_date(expires_s)}; it is shown this once")
    if out is None:
        console.out.print(secret, markup=False, soft_wrap=True)
    else:
        console.say(f"wrote {out}")


def _check_out(out: Path | None) -> None:
    if out is not None and not out.parent.is_dir():
        raise StorageError(f"no such directory: {out.parent}")


def _until(expires_s: float) -> str:
    return f"until {_date(expires_s)}"


def _date(at_s: float) -> str:
    from fl.secagg.roster import iso

    return iso(at_s)
