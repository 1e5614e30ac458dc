"""``fl site`` at the centre: invite sites, approve, list, quarantine, revoke, rename, let them join again."""

from __future__ import annotations

import dataclasses
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from fl import console
from fl.errors import ConfigError, StorageError
from fl.files import write_atomic
from fl.link.token import JoinToken
from fl.secagg.identity import fingerprint
from fl.secagg.roster import iso
from server import enrolment
from server.centre import Centre
from server.commands.acting import acting
from server.commands.server import AsJson, HomeOption, age
from server.home import choose
from server.sites import SiteRecord

app = typer.Typer(help="Run a site, or keep the list of sites.", no_args_is_help=True)

Site = Annotated[str, typer.Argument(metavar="ID", help="The site's id.")]
Reason = Annotated[str, typer.Option(help="Why; the site's owner gets to read it.")]
Hours = Annotated[
    float | None, typer.Option(help="How long the token can be used. [dim]default: enrolment.token_hours[/]")
]
Out = Annotated[Path | None, typer.Option(help="Write the token into this file, readable by you only, not to stdout.")]


@app.callback()
def site() -> None:
    """Run a site, or keep the list of sites."""


@app.command()
def add(site: Site, hours: Hours = None, out: Out = None, home: HomeOption = None, as_json: AsJson = False) -> None:
    """Invite a new site: print a join token, which works once and until it expires."""
    with acting(home) as (actions, me):
        _hand_over(actions.add_site(me, site, hours=hours), out, as_json)


@app.command()
def rejoin(site: Site, hours: Hours = None, out: Out = None, home: HomeOption = None, as_json: AsJson = False) -> None:
    """Print another token for a site that lost its keys, slept past its certificate's end, or was revoked."""
    with acting(home) as (actions, me):
        _hand_over(actions.rejoin_site(me, site, hours=hours), out, as_json)


@app.command()
def approve(
    site: Annotated[str | None, typer.Argument(metavar="ID", help="The site's id; without it all that wait.")] = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="What the site's owner read out; approves without asking if it fits.")
    ] = None,
    refuse: Annotated[str | None, typer.Option(metavar="REASON", help="Say no instead, and why.")] = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Let a site in that waits, once its fingerprint is the one that its owner sees; or list those that wait."""
    with acting(home) as (actions, me):
        known = enrolment.waiting(actions.centre.enrolment)
        if site is None:
            _list_waiting(known, as_json)
        elif refuse is not None:
            actions.refuse(me, site, refuse)
            console.say(f"{site} is refused; its token is used up")
        else:
            lines = actions.approve(me, site, fingerprint or _compared(site, known))
            _say(f"{site} is let in", lines)


def _list_waiting(known: list[enrolment.Waiting], as_json: bool) -> None:
    if as_json:
        console.print_json([dataclasses.asdict(one) for one in known])
        return
    rows = [(one.site, one.fingerprint, age(one.asked_s), one.version) for one in known]
    console.print_table(["site", "fingerprint", "asked", "version"], rows)


def _compared(site: str, known: list[enrolment.Waiting]) -> str:
    """The fingerprint that a site asks with, once the operator says that its owner sees the same."""
    shown = next((one.fingerprint for one in known if one.site == site), "")
    if shown and not sys.stdin.isatty():
        raise ConfigError(f"{site} asks with the keys {shown}", hint=f"fl site approve {site} --fingerprint {shown}")
    if shown:
        console.say(f"{site} asks with the keys {shown}")
        typer.confirm("Does the site's owner see the same?", abort=True, err=True)
    return shown


@app.command("list")
def list_sites(home: HomeOption = None, as_json: AsJson = False) -> None:
    """List all sites: state, last contact, days left of the certificate, release, bytes."""
    centre = Centre(choose(home))
    records = centre.registry.all()
    if as_json:
        console.print_json([_facts(record) for record in records])
        return
    rows = [
        (
            record.site,
            "waits for approval" if record.waiting else record.state,
            age(record.seen_s),
            _days_left(record),
            record.release,
            console.human_bytes(record.up_bytes),
            console.human_bytes(record.down_bytes),
        )
        for record in records
    ]
    console.print_table(["site", "state", "seen", "certificate", "release", "up", "down"], rows)


@app.command()
def show(site: Site, home: HomeOption = None, as_json: AsJson = False) -> None:
    """Show one site: its keys' fingerprint, what it reports, and what happened to it."""
    centre = Centre(choose(home))
    record, events = centre.registry.show(site), centre.registry.events(site)
    if as_json:
        happened = [{"at": iso(at_s), "what": what, "words": words} for at_s, what, words in events]
        console.print_json({**_facts(record), "report": record.report, "events": happened})
        return
    state = record.state + (f": {record.reason}" if record.reason else "")
    console.print_table(
        ["", ""],
        [
            ("site", record.site),
            ("state", f"{state}, waits for approval" if record.waiting else state),
            ("keys", record.fingerprint or "none yet"),
            ("certificate", _days_left(record)),
            ("node", str(record.node_id) if record.node_id else "not registered"),
            ("seen", age(record.seen_s)),
            ("release", record.release),
            ("sent", f"{console.human_bytes(record.up_bytes)} in {record.calls} calls"),
            ("received", console.human_bytes(record.down_bytes)),
        ],
    )
    console.print_table(["when", "what", ""], [(iso(at_s), what, words) for at_s, what, words in events])


@app.command()
def quarantine(
    site: Site,
    reason: Reason = "",
    release: Annotated[bool, typer.Option("--release", help="End the quarantine.")] = False,
    home: HomeOption = None,
) -> None:
    """Give a site no more work, from its next message on; it stays connected and can be released."""
    with acting(home) as (actions, me):
        if release:
            _say(f"{site} is active again", actions.release(me, site))
        else:
            _say(f"{site} is in quarantine", actions.quarantine(me, site, reason))


@app.command()
def revoke(site: Site, reason: Reason = "", home: HomeOption = None) -> None:
    """Let a site in no longer, from its next message on, also in the middle of a run. Its keys never come back."""
    with acting(home) as (actions, me):
        _say(f"{site} is revoked", actions.revoke(me, site, reason))


@app.command()
def label(
    site: Site,
    labels: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE", help="A label; without the value it is taken away.")
    ],
    home: HomeOption = None,
) -> None:
    """Give a site labels; fl run start --sites KEY=VALUE chooses sites by them."""
    given: dict[str, str | None] = {}
    for text in labels:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"{text[:80]} is no label", hint=f"fl site label {site} region=north")
        given[key] = value or None
    with acting(home) as (actions, me):
        actions.label(me, site, given)
    console.say(f"{site} is labelled {', '.join(labels)}")


@app.command()
def rename(
    site: Site,
    new: Annotated[str, typer.Argument(metavar="NEW", help="Its new id.")],
    out: Out = None,
    home: HomeOption = None,
    as_json: AsJson = False,
) -> None:
    """Give a site another id. Its history stays; it has to join again, with the token that this prints."""
    with acting(home) as (actions, me):
        token, lines = actions.rename_site(me, site, new)
        _say(f"{site} is now {new}, and out until it joins again", lines)
        _hand_over(token, out, as_json)


def _hand_over(token: JoinToken, out: Path | None, as_json: bool) -> None:
    """Print a token, or write it into a file that only its owner can read."""
    line = token.encode()
    if out is not None:
        if not out.parent.is_dir():
            raise StorageError(f"no such directory: {out.parent}")
        write_atomic(out, line + "\n", mode=0o600)
    if as_json:
        facts = {
            "site": token.site,
            "token_id": token.id,
            "expires": iso(token.expires_s),
            "gateways": list(token.gateways),
            "authority": token.fingerprint,
            "roster_authority": token.roster_authority.hex(),
            "new_keys": token.new_keys,
        }
        console.print_json(facts | ({} if out else {"token": line}))
        return
    console.say(f"join token for {token.site}: works once, until {iso(token.expires_s)}; gateway {token.gateways[0]}")
    console.say(f"transport authority {token.fingerprint}")
    console.say(f"roster authority {fingerprint(token.roster_authority)}")
    if out is None:
        console.say("send it as you would a password; at the site: fl site join -")
        console.out.print(line, markup=False, soft_wrap=True)
    else:
        console.say(f"wrote {out}; send it as you would a password; at the site: fl site join @{out.name}")


def _say(what: str, lines: list[str]) -> None:
    for line in (what, *lines):
        console.say(line)


def _days_left(record: SiteRecord) -> str:
    if record.certificate_expires_s is None:
        return "none"
    left_s = record.certificate_expires_s - time.time()
    return f"{left_s / 86_400:.1f} days left" if left_s > 0 else f"expired {age(record.certificate_expires_s)}"


def _facts(record: SiteRecord) -> dict[str, object]:
    facts = dataclasses.asdict(record)
    del facts["report"]
    for key in ("created_s", "seen_s", "certificate_expires_s"):
        value = facts.pop(key)
        facts[key.removesuffix("_s")] = None if value is None else iso(value)
    return facts
