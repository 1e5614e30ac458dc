"""The audit: one row for every change of anything, each chained to the one before by a hash.

``append`` writes a row in the same transaction as the change that it tells of, so there is never one without the
other. ``verify`` computes the chain again and names the first row that was altered, removed or put in between. Who
can write to the database can also compute a whole new chain; so ``fl audit verify --expect`` takes the last chain
value that somebody wrote down elsewhere, as ``fl audit export`` prints it (hash chaining as in Schneier and Kelsey,
"Secure audit logs to support computer forensics", TISSEC 1999, without their forward-secure keys).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from fl.errors import FLError
from server.store.runs import Audit

Via = Literal["cli", "api", "web", "controller", "gateway"]

START = "0" * 64
"""What stands before the first row."""

HIDDEN = ("secret", "password", "token", "private", "key_pem", "cookie")
"""A field whose name has one of these in it is not written down."""


class AuditError(FLError):
    """The audit does not hold: a row was altered, removed, or put in between."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Actor:
    """Who changes something, and from where."""

    who: str
    """A user's name, or ``fl`` for what happens by itself."""
    via: Via
    address: str = ""


def append(
    session: Session,
    actor: Actor,
    action: str,
    subject: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    at_s: float | None = None,
) -> Audit:
    """Write down a change, in the transaction that makes it.

    Args:
        session: A transaction that writes (``Store.write``), so that nobody else appends meanwhile.
        actor: Who.
        action: What, such as ``run.stop``.
        subject: To what, such as the run's name.
        before: What was there before, as far as it changes; fields that look like secrets are left out.
        after: What is there now.
        at_s: Seconds since 1970; now without it.
    """
    last = session.execute(select(Audit.number, Audit.chain).order_by(Audit.number.desc()).limit(1)).first()
    number, chain = (last.number, last.chain) if last else (0, START)
    row = Audit(
        number=number + 1,
        at_s=round(time.time() if at_s is None else at_s, 3),
        who=actor.who[:64],
        via=actor.via,
        address=actor.address[:64],
        action=action[:64],
        subject=subject[:128],
        before=_plain(before),
        after=_plain(after),
        chain="",
    )
    row.chain = link(row, chain)
    session.add(row)
    session.flush()
    return row


def link(row: Audit, before: str) -> str:
    """The chain value of a row: SHA-256 over all its fields and the chain value of the row before it."""
    return hashlib.sha256(json.dumps([before, as_dict(row)], sort_keys=True).encode()).hexdigest()


def as_dict(row: Audit) -> dict[str, Any]:
    """A row as plain data, without its chain value."""
    return {
        "number": row.number,
        "at_s": row.at_s,
        "who": row.who,
        "via": row.via,
        "address": row.address,
        "action": row.action,
        "subject": row.subject,
        "before": row.before,
        "after": row.after,
    }


def rows(session: Session, *, after: int = 0) -> Iterator[Audit]:
    """All rows behind a number, in order."""
    yield from session.scalars(select(Audit).where(Audit.number > after).order_by(Audit.number)).yield_per(1000)


def verify(found: Iterable[Audit], *, expect: str | None = None) -> tuple[int, str]:
    """Check the whole chain.

    Args:
        found: All rows, in order.
        expect: A chain value that must occur, written down earlier.

    Returns:
        How many rows there are, and the last chain value.

    Raises:
        AuditError: Naming the first row that does not hold, or that ``expect`` is not there.
    """
    number, chain, has_expected = 0, START, expect in (None, START)
    for row in found:
        number += 1
        if row.number != number:
            raise AuditError(f"audit row {number} is missing: after row {number - 1} comes row {row.number}")
        chain_here = link(row, chain)
        if chain_here != row.chain:
            raise AuditError(f"audit row {number} ({row.action} {row.subject}) was altered, or the row before it was")
        chain = chain_here
        has_expected = has_expected or chain == expect
    if not has_expected:
        raise AuditError(f"the audit has no row with chain value {expect}: rows were removed or all were written anew")
    return number, chain


def _plain(values: Mapping[str, Any] | None) -> str:
    if values is None:
        return ""
    shown = {key: value for key, value in values.items() if not any(word in key.lower() for word in HIDDEN)}
    return json.dumps(shown, sort_keys=True, default=str)
