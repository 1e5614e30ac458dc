"""What was delivered to whom and is not answered yet, on disk, so that a gateway that starts again knows it.

A row is written before a site gets its message and goes when the reply is whole. SuperLink hands a message out once;
the ledger keeps it until the site has confirmed that it has all of it, and so a lost answer loses nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import sqlite3
import time
from collections.abc import Iterator, Set
from pathlib import Path

from fl.errors import StorageError
from server.gateway import fleet

SCHEMA = """
CREATE TABLE IF NOT EXISTS deliveries (
    message_id TEXT PRIMARY KEY,
    node_id TEXT NOT NULL,
    run_id TEXT NOT NULL,
    expires_s REAL NOT NULL,
    head BLOB NOT NULL,
    body BLOB,
    reply_id TEXT NOT NULL DEFAULT '',
    announced TEXT NOT NULL DEFAULT '',
    session_id TEXT NOT NULL DEFAULT ''
) STRICT
"""


@dataclasses.dataclass(slots=True)
class Delivery:
    """One message that a node was given."""

    message_id: str
    node_id: int
    run_id: int
    expires_s: float
    head: bytes
    body: bytes | None
    """SuperLink's answer that carried it; ``None`` once the site has confirmed it."""
    reply_id: str = ""
    """Id of the reply, once the site has announced one."""
    announced: Set[str] = frozenset()
    """Ids of the objects that SuperLink wants of that reply."""
    session_id: str = ""
    """SuperLink's newest session for them."""
    pending: set[str] = dataclasses.field(default_factory=set)
    """Which of them it does not have yet, as far as this life of the gateway knows."""
    reply_bytes: int = 0
    given: int = 0
    """How often the node was given it in this life of the gateway."""
    objects: tuple[Set[str], ...] = ()
    """Ids of the objects that the node may pull."""

    @property
    def is_confirmed(self) -> bool:
        """Whether the site has all of it."""
        return self.body is None


class Ledger:
    """The file. Close it at the end.

    Args:
        path: SQLite file, made if needed; its directory must exist.

    Raises:
        StorageError: If it cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with self._errors():
            path.touch(mode=0o600)
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.execute("PRAGMA journal_mode = WAL")
            # Survives any end of this process; a power failure may cost the last second, and then a deadline.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute(SCHEMA)

    def deliveries(self) -> Iterator[Delivery]:
        """All that still matter; the others are removed."""
        with self._errors():
            self._db.execute("DELETE FROM deliveries WHERE expires_s < ?", (time.time(),))
            rows = self._db.execute(
                "SELECT message_id, node_id, run_id, expires_s, head, body, reply_id, announced, session_id"
                " FROM deliveries"
            ).fetchall()
        for message_id, node_id, run_id, expires_s, head, body, reply_id, announced, session_id in rows:
            ids = frozenset(announced.split())
            yield Delivery(
                message_id=message_id,
                node_id=int(node_id),
                run_id=int(run_id),
                expires_s=expires_s,
                head=head,
                body=body,
                reply_id=reply_id,
                announced=ids,
                session_id=session_id,
                pending=set(ids),
                objects=fleet.objects_of(body) if body else (),
            )

    def add(self, it: Delivery) -> None:
        """Write down a message before its node gets it."""
        with self._errors():
            self._db.execute(
                "INSERT OR REPLACE INTO deliveries (message_id, node_id, run_id, expires_s, head, body)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (it.message_id, str(it.node_id), str(it.run_id), it.expires_s, it.head, it.body),
            )

    def confirm(self, it: Delivery) -> None:
        """The site has all of it."""
        with self._errors():
            self._db.execute("UPDATE deliveries SET body = NULL WHERE message_id = ?", (it.message_id,))

    def announce(self, it: Delivery) -> None:
        """The site has announced its reply."""
        with self._errors():
            self._db.execute(
                "UPDATE deliveries SET reply_id = ?, announced = ?, session_id = ?, body = NULL WHERE message_id = ?",
                (it.reply_id, " ".join(it.announced), it.session_id, it.message_id),
            )

    def remove(self, it: Delivery) -> None:
        """It is answered, or nobody waits for an answer."""
        with self._errors():
            self._db.execute("DELETE FROM deliveries WHERE message_id = ?", (it.message_id,))

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as err:
            raise StorageError(f"cannot use {self._path}: {err}", hint="remove it if it is damaged") from err
