"""``fl server``: make a centre's home, show it, bring a signed roster, rotate the transport authority."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from fl import console
from fl.config import unknown
from fl.errors import ConfigError
from fl.secagg.identity import fingerprint
from fl.secagg.roster import iso
from fl.secagg.storage import read_public_key, read_roster_file
from server.ca import TransportCA
from server.centre import Centre, found
from server.commands.acting import acting
from server.gateway.config import GatewayConfig
from server.home import EnrolmentConfig, ServerConfig, choose
from server.roster import Rosters

app = typer.Typer(help="The centre: its home, keys and roster.", no_args_is_help=True)

HomeOption = Annotated[Path | None, typer.Option("--home", help="The server's home. [dim]default: .fedfleet/server[/]")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
APPROVALS = ("automatic", "operator")


@app.callback()
def server() -> None:
    """The centre: its home, keys and roster."""


@app.command()
def init(
    address: Annotated[
        list[str], typer.Option(metavar="HOST:PORT", help="Where sites reach the gateway; may be given again.")
    ],
    roster_authority: Annotated[
        str | None,
        typer.Option(
            help="Public key of a roster authority kept elsewhere (fl roster init): 64 hex digits, or a file."
        ),
    ] = None,
    roster_key_here: Annotated[
        bool,
        typer.Option(
            "--roster-key-here", help="Keep the roster authority's key in this home: it could then add sites."
        ),
    ] = False,
    listen: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Where the gateway listens. [dim]default: [::]:8443[/]"),
    ] = None,
    approval: Annotated[str, typer.Option(help="Who lets sites in: automatic or operator.")] = "operator",
    certificate_days: Annotated[float, typer.Option(help="Life of a site's certificate.")] = 7.0,
    home: HomeOption = None,
) -> None:
    """Make a centre's home: the transport authority, the store, the roster authority's public key, server.toml."""
    where = choose(home)
    if approval not in APPROVALS:
        raise unknown("value of --approval", approval, APPROVALS)
    if (roster_authority is None) == (not roster_key_here):
        raise ConfigError(
            "either --roster-authority KEY or --roster-key-here is needed",
            hint="fl roster init, on another machine, prints KEY; with the key here the server could add sites",
        )
    public = read_public_key(roster_authority) if roster_authority else None
    config = ServerConfig(
        addresses=tuple(address),
        enrolment=EnrolmentConfig(
            approval=cast(Literal["automatic", "operator"], approval), certificate_days=certificate_days
        ),
        gateway=GatewayConfig(listen=tuple(listen)) if listen else GatewayConfig(),
    )
    found(where, config, roster_authority=public)
    authority, public = TransportCA(where.ca).serving(), Rosters(where.secagg).authority
    console.say(f"wrote {where.path}; transport authority {authority.fingerprint}")
    console.say(f"roster authority {fingerprint(public)}; next: fl site add ID")


@app.command()
def show(home: HomeOption = None, as_json: AsJson = False) -> None:
    """Show where the gateway is reached, whom it trusts, how long certificates hold, and how many sites there are."""
    where = choose(home)
    centre = Centre(where)
    states = Counter(record.state for record in centre.registry.all())
    current = centre.rosters.current()
    authorities = centre.ca.trusted()
    facts = {
        "home": str(where.path),
        "addresses": list(centre.config.addresses),
        "approval": centre.config.enrolment.approval,
        "certificate_days": centre.config.enrolment.certificate_days,
        "sites": dict(states),
        "authorities": [
            {
                "number": one.number,
                "fingerprint": one.fingerprint,
                "expires": iso(one.expires_s),
                "serves_from": iso(one.serves_from_s) if one.serves_from_s else None,
            }
            for one in authorities
        ],
        "roster_authority": centre.rosters.authority.hex(),
        "roster_version": current.version if current else 0,
        "roster_expires": iso(current.expires_s) if current else None,
        "roster_draft": str(centre.rosters.draft_file) if centre.rosters.draft_file.exists() else None,
    }
    if as_json:
        console.print_json(facts)
        return
    serving = authorities[-1]
    rows = [
        ("gateway", ", ".join(centre.config.addresses)),
        ("approval", centre.config.enrolment.approval),
        ("sites", ", ".join(f"{number} {state}" for state, number in sorted(states.items())) or "none yet"),
        ("authority", f"{serving.number}, until {iso(serving.expires_s)}"),
        ("", serving.fingerprint),
        *(
            ("successor", f"{one.number}, vouches for the gateway from {iso(one.serves_from_s)}")
            for one in authorities[:-1]
        ),
        ("roster", f"version {current.version}, until {iso(current.expires_s)}" if current else "not signed yet"),
        ("", fingerprint(centre.rosters.authority)),
    ]
    if facts["roster_draft"]:
        rows.append(("draft", f"{facts['roster_draft']} waits for fl roster sign"))
    console.print_table(["", ""], rows)


@app.command()
def roster(
    file: Annotated[Path, typer.Argument(help="The roster, signed by fl roster sign.")],
    home: HomeOption = None,
) -> None:
    """Bring a roster that was signed elsewhere; sites are given it with their next call."""
    with acting(home) as (actions, me):
        done, lines = actions.install_roster(me, read_roster_file(file))
        console.say(f"the roster has version {done.version}, {len(done.active())} sites, until {iso(done.expires_s)}")
        for line in lines:
            console.say(line)
        known = actions.centre.registry.identities()
        if missing := sorted(site for site, key in known.items() if not _has(done.sites, site, key)):
            console.say(f"it lacks {', '.join(missing)}: sign {actions.centre.rosters.draft_file} next")


@app.command("rotate-ca")
def rotate_ca(
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Trust the old one no more, from now on: every site has to join again.")
    ] = False,
    home: HomeOption = None,
) -> None:
    """Make a successor of the transport authority. Sites get to know it as they renew; none has to join again."""
    with acting(home) as (actions, me):
        made = actions.rotate_authority(me, at_once=at_once)
        records = actions.centre.registry.all()
    console.say(f"made authority {made.number}: {made.fingerprint}")
    if at_once:
        sites = [record.site for record in records if record.state in ("active", "quarantined")]
        console.say(f"{len(sites)} sites have to join again: fl site rejoin ID")
    else:
        console.say(
            f"it vouches for the gateway from {iso(made.serves_from_s)}; the one before is then erased by itself"
        )


@app.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where to; must not exist. It holds private keys: mode 0600.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Write one file with the store, the keys, the roster and the named models, while the centre runs or not."""
    from server import backup as backups

    where = choose(home)
    journals = backups.write(where, file)
    with acting(home) as (actions, me):
        actions.note(me, "server.backup", str(file))
    if as_json:
        console.print_json({"file": str(file), "journals": [one.name for one in journals]})
        return
    console.say(f"wrote {file}, {console.human_bytes(file.stat().st_size)}; keep it as you would a private key")
    if journals:
        console.say(f"{len(journals)} journals are not in it: copy {where.runs} too")


@app.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup, written by fl server backup.")],
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Make a centre's home of a backup; the home must not exist, or be empty."""
    from server import backup as backups

    where = choose(home)
    journals = backups.restore(file, where)
    with acting(home) as (actions, me):
        actions.note(me, "server.restore", str(file))
    if as_json:
        console.print_json({"home": str(where.path), "journals": [one.name for one in journals]})
        return
    console.say(f"made {where.path} of {file}")
    if journals:
        console.say(f"{len(journals)} journals lay beside it: put them into {where.runs}, then fl server up")


def _has(sites: object, site: str, key: bytes) -> bool:
    assert isinstance(sites, dict)
    entry = sites.get(site)
    return entry is not None and entry.key == key and not entry.revoked


def age(seconds: float | None) -> str:
    """How long ago a time was, for people."""
    return "never" if seconds is None else f"{console.human_seconds(max(0.0, time.time() - seconds))} ago"
