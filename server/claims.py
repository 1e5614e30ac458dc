"""Mail that SuperLink marked as delivered, and whose answer died with it or with the gateway: given back.

Flower delivers at most once: it marks a message in its database, and then answers whoever asked. A process that is
killed in between has delivered nothing, and the message would never be given again. A message is with a node once
the gateway's ledger has it; a reply is with its ServerApp once Flower has deleted it, which it does before it answers.
So what is marked and neither known to the ledger nor deleted was lost, and is free again once its mark is gone.

This module changes two columns of Flower's tables, and only while nobody asks: ``python -m server.claims`` does it and
then becomes SuperLink; the gateway does it before it lets sites in. The contract test holds the tables to this shape.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sqlite3
import sys
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from fl.errors import StorageError

WAIT_S = 10.0
TABLES = {
    "message_ins": ("message_id", "delivered_at"),
    "message_res": ("message_id", "reply_to_message_id", "delivered_at"),
    "objects": ("object_id",),
}
"""What is read and written of Flower's database."""

MESSAGES = """
SELECT message_id FROM message_ins WHERE delivered_at <> ''
AND EXISTS (SELECT 1 FROM objects WHERE objects.object_id = message_ins.message_id)
AND NOT EXISTS (SELECT 1 FROM message_res WHERE message_res.reply_to_message_id = message_ins.message_id)
"""
"""Marked, not answered, and not confirmed by its node: with a confirmation Flower deletes the message's object."""


@dataclasses.dataclass(frozen=True, slots=True)
class Released:
    """How much was given back."""

    messages: int = 0
    replies: int = 0


def release(database: Path, known: Collection[str], *, replies: bool) -> Released:
    """Give back what was marked as delivered and is with nobody.

    Args:
        database: SuperLink's; if it isn't there yet, there is nothing to do.
        known: Ids of the messages that nodes have, as the gateway's ledger says.
        replies: Whether to look at replies too; only while no SuperLink runs.

    Raises:
        StorageError: If the database cannot be used.
    """
    with _opened(database) as db:
        if db is None:
            return Released()
        db.execute("BEGIN IMMEDIATE")
        lost = [row for row in db.execute(MESSAGES) if row[0] not in known]
        db.executemany("UPDATE message_ins SET delivered_at = '' WHERE message_id = ?", lost)
        changed = 0
        if replies:
            changed = db.execute("UPDATE message_res SET delivered_at = '' WHERE delivered_at <> ''").rowcount
        db.execute("COMMIT")
        return Released(len(lost), changed)


def known(ledger: Path) -> set[str]:
    """Ids of the messages that the gateway's ledger has.

    Raises:
        StorageError: If it cannot be read.
    """
    with _opened(ledger, "deliveries") as db:
        return set() if db is None else {row[0] for row in db.execute("SELECT message_id FROM deliveries")}


@contextlib.contextmanager
def _opened(path: Path, table: str = "message_res") -> Iterator[sqlite3.Connection | None]:
    """An SQLite file; ``None`` if it, or its table, isn't there yet."""
    if not path.exists():
        yield None
        return
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)) as db:
            found = db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?", (table,)).fetchone()
            yield db if found else None
    except sqlite3.Error as err:
        raise StorageError(f"cannot use {path}: {err}", hint="move it away if it is damaged") from err


def argv(database: Path, ledger: Path, superlink: Sequence[str]) -> list[str]:
    """The command that gives back what an earlier SuperLink had on its way, and then becomes SuperLink."""
    return [sys.executable, "-m", "server.claims", str(database), str(ledger), *superlink]


def main(arguments: Sequence[str]) -> None:
    """Do it, and become the program that the arguments name after the two files."""
    database, ledger, *program = arguments
    try:
        released = release(Path(database), known(Path(ledger)), replies=True)
    except StorageError as err:  # SuperLink itself says what is wrong with it, and may do without
        sys.stderr.write(f"nothing was given back: {err.message}\n")
    else:
        if released != Released():
            sys.stderr.write(f"given back: {released.messages} messages, {released.replies} replies\n")
    os.execv(program[0], program)  # noqa: S606, what our own ``argv`` named


if __name__ == "__main__":
    main(sys.argv[1:])
