"""``fl roster``: who takes part in secure aggregation, under the key of an authority that is not the server.

``add`` and ``remove`` leave the roster unsigned; ``sign`` gives it the next version and a signature. So the roster can
be edited anywhere, and the authority's key stays where only ``init`` and ``sign`` run.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Annotated

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fl import console
from fl.config import check_site_name
from fl.errors import ConfigError
from fl.files import write_atomic
from fl.secagg.documents import text_of
from fl.secagg.errors import RosterSiteError
from fl.secagg.identity import Identity, fingerprint
from fl.secagg.roster import Entry, Roster, iso, parse_roster, read_roster, sign_roster
from fl.secagg.storage import read_identity, read_public_key, read_roster_file, write_private_key

app = typer.Typer(no_args_is_help=True, help="Keep the signed list of sites that take part in secure aggregation.")

DAY_S = 86_400

File = Annotated[Path, typer.Option("--roster", help="The roster's file.")]
Key = Annotated[Path, typer.Option("--key", help="The authority's private key.")]
Password = Annotated[Path | None, typer.Option("--password-file", help="Holds the key's password.")]

ROSTER = Path("fleet.roster")
KEY = Path("roster-authority.key")


@app.command()
def init(roster: File = ROSTER, key: Key = KEY, password_file: Password = None, days: int = 365) -> None:
    """Make the authority's key and an empty, signed roster. Keep the key off the aggregation server."""
    if roster.exists():
        raise ConfigError(f"{roster} exists", hint="fl roster show")
    authority = Identity("authority", Ed25519PrivateKey.generate())
    write_private_key(key, authority.key, _password(password_file))
    now_s = int(time.time())
    empty = Roster(version=1, authority=authority.public, issued_s=now_s, expires_s=now_s + days * DAY_S, sites={})
    write_atomic(roster, sign_roster(empty, authority))
    console.say(f"wrote {roster} and the authority's private key {key}; sites pin this public key:")
    console.out.print(authority.public.hex(), markup=False, soft_wrap=True)


@app.command()
def add(
    site: Annotated[str, typer.Argument(help="The site's id.")],
    public_key: Annotated[str, typer.Argument(metavar="KEY", help="Its public key: 64 hex digits, or a file.")],
    roster: File = ROSTER,
) -> None:
    """Add a site, or give it a new key. The roster is then unsigned."""
    check_site_name(site)
    content = parse_roster(read_roster_file(roster))
    public = read_public_key(public_key)
    for other, entry in content.sites.items():
        if entry.key == public and other != site:
            raise RosterSiteError(f"the site {other} has this key already")
    sites = {**content.sites, site: Entry(public, content.version + 1)}
    _write_draft(roster, dataclasses.replace(content, sites=sites))
    console.say(f"added {site} with key {fingerprint(public)}; now run fl roster sign")


@app.command()
def remove(site: Annotated[str, typer.Argument(help="The site's id.")], roster: File = ROSTER) -> None:
    """Revoke a site. Its entry stays, so that it cannot come back unnoticed. The roster is then unsigned."""
    content = parse_roster(read_roster_file(roster))
    content.key_of(site)
    sites = {**content.sites, site: dataclasses.replace(content.sites[site], revoked=True)}
    _write_draft(roster, dataclasses.replace(content, sites=sites))
    console.say(f"revoked {site}; now run fl roster sign")


@app.command()
def sign(
    roster: File = ROSTER,
    key: Key = KEY,
    password_file: Password = None,
    days: Annotated[int, typer.Option(min=1, help="Valid for so many days.")] = 365,
) -> None:
    """Sign the roster as its next version."""
    content = parse_roster(read_roster_file(roster))
    authority = read_identity(key, "authority", _password(password_file))
    now_s = int(time.time())
    content = dataclasses.replace(content, version=content.version + 1, issued_s=now_s, expires_s=now_s + days * DAY_S)
    write_atomic(roster, sign_roster(content, authority))
    console.say(
        f"signed version {content.version} with {len(content.active())} sites, valid until "
        f"{iso(content.expires_s)}; send {roster} to the server"
    )


@app.command()
def show(
    roster: File = ROSTER,
    authority: Annotated[str | None, typer.Option(help="The pinned public key: 64 hex digits, or a file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the sites of a roster and whether its signature holds."""
    data = read_roster_file(roster)
    content = parse_roster(data)
    signed = text_of(data) != data
    if signed or authority:
        content = read_roster(data, authority=read_public_key(authority) if authority else content.authority)
    if as_json:
        console.print_json(
            {
                "version": content.version,
                "signed": signed,
                "authority": content.authority.hex(),
                "issued": iso(content.issued_s),
                "expires": iso(content.expires_s),
                "sites": {
                    site: {"key": entry.key.hex(), "epoch": entry.epoch, "revoked": entry.revoked}
                    for site, entry in sorted(content.sites.items())
                },
            }
        )
        return
    rows = [
        (site, fingerprint(entry.key), str(entry.epoch), "revoked" if entry.revoked else "active")
        for site, entry in sorted(content.sites.items())
    ]
    console.print_table(["site", "key", "since version", "state"], rows)
    state = f"version {content.version}, valid until {iso(content.expires_s)}" if signed else "not signed yet"
    console.out.print(f"{state}; authority {fingerprint(content.authority)}", markup=False)
    if signed and not authority:
        console.say("compare the authority's fingerprint with the one that was told to you")


def _password(path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes().strip()
    except OSError as err:
        raise ConfigError(f"cannot read {path}: {err.strerror}") from err


def _write_draft(path: Path, roster: Roster) -> None:
    write_atomic(path, roster.body() + b"\n")
