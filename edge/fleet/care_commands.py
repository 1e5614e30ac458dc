"""``fl fleet`` beside its rollouts: remove sites, collect logs, the doctor, host keys, plain pyinfra."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fl import console
from fl.errors import InputError, SitesError, UnreachableError

if TYPE_CHECKING:
    from edge.fleet.session import Session

app = typer.Typer()

File = Annotated[Path, typer.Argument(metavar="FLEET.yaml", help="The fleet file.")]
Home = Annotated[Path | None, typer.Option(help="Directory of all fleets' states. [dim]default: .fedfleet/fleet[/]")]
Names = Annotated[list[str] | None, typer.Option("--site", metavar="ID", help="Only this site; may be repeated.")]
Labels = Annotated[
    list[str] | None, typer.Option("--label", metavar="KEY=VALUE", help="Only sites with this label; may be repeated.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Parallel = Annotated[int, typer.Option(min=1, max=500, help="At how many sites at once.")]


def open_session(file: Path, home: Path | None, names: Any = (), labels: Any = ()) -> Session:
    """Read a fleet file; only then is what it needs loaded."""
    from edge.fleet.session import open_fleet

    return open_fleet(file, home=home, names=names or (), labels=labels or ())


@app.command()
def remove(
    file: File,
    names: Names = None,
    labels: Labels = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    parallel: Parallel = 20,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Leave hosts as they were before the fleet came: release, keys, cluster, files. Data of the site stays."""
    session = open_session(file, home, names, labels)
    if not yes:
        listed = ", ".join(site.id for site in session.sites[:5])
        more = f" and {len(session.sites) - 5} more" if len(session.sites) > 5 else ""
        typer.confirm(f"Remove {listed}{more}, with their keys?", abort=True, err=True)
    with session.store.lock:
        answers = _everywhere(session, "remove", parallel)
    if as_json:
        console.print_json([{"site": it.site, "ok": it.ok, "error": it.error} for it in answers])
    for answer in answers:
        if answer.ok and not as_json:
            console.say(f"{answer.site}: removed; at the centre: fl site revoke {answer.site}")
    _complain(answers)


@app.command()
def logs(
    file: File,
    out: Annotated[Path, typer.Option(help="Directory for the logs, one below it a site.")] = Path("fleet-logs"),
    names: Names = None,
    labels: Labels = None,
    since: Annotated[str, typer.Option(help="How far back: 30m, 24h.")] = "24h",
    lines: Annotated[int, typer.Option(min=1, max=100_000, help="Lines of each log at most.")] = 5000,
    parallel: Parallel = 20,
    home: Home = None,
) -> None:
    """Collect pods, events, release and the cluster's own logs of sites into a directory."""
    session = open_session(file, home, names, labels)
    answers = _everywhere(session, "collect", parallel, {"since": since, "lines": lines})
    for answer in answers:
        if answer.ok:
            folder = out / answer.site
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in answer.result.items():
                (folder / name).write_text(text + "\n", encoding="utf-8")
            console.say(f"{answer.site}: {len(answer.result)} files in {folder}")
    _complain(answers)


@app.command()
def doctor(
    file: File,
    names: Names = None,
    labels: Labels = None,
    parallel: Parallel = 50,
    home: Home = None,
    as_json: AsJson = False,
) -> None:
    """Look for what stands in a site's way: egress, DNS, clock, disk, memory, GPU, certificates; with what to type."""
    from edge.fleet.doctor import findings

    session = open_session(file, home, names, labels)
    gateway = session.fleet.gateway
    asked = {"addresses": list(gateway.addresses), "proxy": gateway.proxy}
    answers = _everywhere(session, "examine", parallel, asked, executes=False)
    now = datetime.datetime.now(datetime.UTC)
    found = {
        it.site: findings(session.fleet, session.fleet.site(it.site), it.result, now=now) for it in answers if it.ok
    }
    if as_json:
        facts: dict[str, Any] = {name: [dataclasses.asdict(one) for one in all_] for name, all_ in found.items()}
        facts |= {it.site: [{"check": "ssh", "level": "problem", "words": it.error}] for it in answers if not it.ok}
        console.print_json(facts)
    else:
        rows = [(name, one.check, one.level, one.words, one.command) for name, all_ in found.items() for one in all_]
        rows += [(it.site, "ssh", "problem", it.error, "") for it in answers if not it.ok]
        console.print_table(["site", "check", "", "found", "type"], rows)
    sick = [name for name, all_ in found.items() if any(one.level == "problem" for one in all_)]
    sick += [it.site for it in answers if not it.ok]
    if sick:
        raise SitesError(f"{len(sick)} of {len(answers)} sites have a problem: {', '.join(sorted(sick)[:5])}")


@app.command()
def trust(
    file: File,
    names: Names = None,
    labels: Labels = None,
    fingerprint: Annotated[
        str | None, typer.Option(help="What the host's owner read out; pins without asking if it fits.")
    ] = None,
    home: Home = None,
) -> None:
    """Pin the SSH keys of hosts in the fleet's known_hosts file, after somebody compared their fingerprints."""
    from edge.fleet import trust as keys

    session = open_session(file, home, names, labels)
    if fingerprint is not None and len(session.sites) != 1:
        raise InputError("--fingerprint fits one site", hint="add --site ID")
    for site in session.sites:
        shown, known = keys.scan(site), keys.pinned(site)
        if {key.key for key in known} and {key.key for key in known} <= {key.key for key in shown}:
            console.say(f"{site.id}: {known[0].fingerprint} is pinned")
            continue
        if known:
            console.say(f"{site.id} shows OTHER keys than those pinned: a new host, or somebody in between")
        if fingerprint is not None:
            if fingerprint not in {key.fingerprint for key in shown}:
                raise InputError(f"{site.id} shows {shown[0].fingerprint}, not {fingerprint}")
        else:
            console.say(f"{site.id} ({site.host}) shows {shown[0].kind} {shown[0].fingerprint}")
            typer.confirm(
                "Does ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub there say the same?", abort=True, err=True
            )
        keys.pin(site, shown)
        console.say(f"{site.id}: pinned in {site.ssh.known_hosts}")


@app.command()
def inventory(
    file: File,
    names: Names = None,
    labels: Labels = None,
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("inventory.py"),
    home: Home = None,
) -> None:
    """Write an inventory for plain pyinfra: pyinfra inventory.py deploy.py, with edge.fleet.deploys in deploy.py."""
    from edge.fleet.inventory import inventory_text, write_ssh_config
    from fl.files import write_atomic

    session = open_session(file, home, names, labels)
    config = write_ssh_config(session.fleet, session.store.directory)
    write_atomic(out, inventory_text(session.fleet, session.wanted, config), mode=0o600)
    console.say(f"wrote {out} with {len(session.wanted)} hosts")


def _everywhere(
    session: Session, do: str, parallel: int, arguments: Mapping[str, Any] | None = None, *, executes: bool = True
) -> list[Any]:
    """Do something at all sites that are meant; their answers in the file's order."""
    with session.hands(executes=executes) as hands:
        found = {
            answer.site: answer
            for answer in hands.each(session.wanted, do, parallel=parallel, arguments=lambda name: arguments or {})
        }
    return [found[site.id] for site in session.sites]


def _complain(answers: list[Any]) -> None:
    bad = [answer for answer in answers if not answer.ok]
    if len(bad) == len(answers) and all(answer.kind == "unreachable" for answer in bad):
        raise UnreachableError(f"{bad[0].site}: {bad[0].error}")
    if bad:
        raise SitesError(f"{len(bad)} of {len(answers)} sites failed: {bad[0].site}: {bad[0].error}")
