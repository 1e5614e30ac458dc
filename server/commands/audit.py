"""``fl audit``: every change of anything, by whom, and whether the log holds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fl import console
from fl.errors import StorageError
from server.commands.room import AsJson, CaFile, Home, Server, TokenFile, choose_home, maybe

if TYPE_CHECKING:
    from server.store import Store

app = typer.Typer(help="Every change of anything, by whom, in a log that shows when it was altered.")

BY_HAND = "the chain value of the last row; note it down elsewhere, and check later: fl audit verify --expect"


@app.command("list")
def list_rows(
    who: Annotated[str, typer.Option(help="Only by this user.")] = "",
    action: Annotated[str, typer.Option(help="Such as run.stop, or run for all of them.")] = "",
    subject: Annotated[str, typer.Option(help="Only to this run, site or user.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """List changes, the newest first."""
    from fl.secagg.roster import iso
    from server.commands.queued import as_plain
    from server.views import models

    wanted = {"who": who, "action": action, "subject": subject}
    with maybe(choose_home(home), server, token_file, ca) as room:
        if room is not None:
            found = room.audit(limit=limit, **wanted)
        else:
            with _store(home).read() as session:
                found = list(models.audit(session, limit=min(limit, 1000), **wanted).items)
    if as_json:
        console.print_json(as_plain(found))
        return
    rows = [
        (
            str(row.number),
            iso(row.at_s),
            row.who,
            f"{row.via} {row.address}".strip(),
            row.action,
            row.subject,
            _changed(dict(row.before), dict(row.after)),
        )
        for row in found
    ]
    console.print_table(["row", "when", "who", "from", "action", "to", ""], rows)


@app.command()
def verify(
    expect: Annotated[str | None, typer.Option(metavar="CHAIN", help="A chain value noted earlier.")] = None,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
    as_json: AsJson = False,
) -> None:
    """Compute the chain again; ends with 1 and the first row that does not hold, if one was altered or removed."""
    from server import audit

    with maybe(choose_home(home), server, token_file, ca) as room:
        if room is not None:
            said = room.verify_audit(expect)
            if not said.holds:
                raise audit.AuditError(said.problem)
            rows, chain = said.rows, said.chain
        else:
            with _store(home).read() as session:
                rows, chain = audit.verify(audit.rows(session), expect=expect)
    if as_json:
        console.print_json({"holds": True, "rows": rows, "chain": chain})
        return
    console.say(f"{rows} rows hold; {BY_HAND}")
    console.out.print(chain, markup=False, soft_wrap=True)


@app.command()
def export(
    out: Annotated[Path | None, typer.Argument(metavar="FILE", help="Where to; stdout without it.")] = None,
    after: Annotated[int, typer.Option(min=0, help="Only rows behind this number.")] = 0,
    home: Home = None,
    server: Server = None,
    token_file: TokenFile = None,
    ca: CaFile = None,
) -> None:
    """Write all rows as JSON, one a line, in order, each with its chain value."""
    with maybe(choose_home(home), server, token_file, ca) as room:
        lines = room.export_audit(after) if room is not None else _lines(home, after)
        if out is None:
            for line in lines:
                console.out.print(line, markup=False, soft_wrap=True)
            return
        try:
            with out.open("w", encoding="utf-8") as file:
                count = sum(1 for line in lines if file.write(line + "\n"))
        except OSError as err:
            raise StorageError(f"cannot write {out}: {err.strerror}") from err
    console.say(f"wrote {count} rows to {out}")


def _lines(home: Path | None, after: int) -> Iterator[str]:
    from server import audit

    with _store(home).read() as session:
        for row in audit.rows(session, after=after):
            yield json.dumps({**audit.as_dict(row), "chain": row.chain}, sort_keys=True)


def _store(home: Path | None) -> Store:
    """The store of a home where no control room runs."""
    from server.home import choose

    return choose(home).open_store()


def _changed(before: dict[str, object], after: dict[str, object]) -> str:
    """What changed, in a few words."""
    words = []
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        if key in before and key in after and old != new:
            words.append(f"{key}: {old} → {new}")
        elif old != new:
            words.append(f"{key}: {new if key in after else old}")
    return ", ".join(words)[:120]
