"""Tells those who watch what other processes changed: ``fl site`` at this machine, sites that ask at the gateway."""

from __future__ import annotations

from sqlalchemy import func, select

from server import audit
from server.live import Live, Topic
from server.store import Store
from server.store.runs import Audit

TOPICS: dict[str, Topic] = {"site": "site", "user": "user"}
"""What is told, by the first word of what was done; runs and models are changed in this process only."""


class Elsewhere:
    """Looks for new rows of the audit that the command line or the gateway wrote.

    Args:
        store: Where the audit is; what is in it now is not told.
        live: Who is told.
    """

    def __init__(self, store: Store, live: Live) -> None:
        self._store, self._live = store, live
        with store.read() as session:
            self._told = session.scalar(select(func.max(Audit.number))) or 0

    def look(self) -> None:
        """Tell of what is new.

        Raises:
            StorageError: If the store cannot be read; nothing is left out then the next time.
        """
        with self._store.read() as session:
            fresh = list(audit.rows(session, after=self._told))
        for row in fresh:
            topic = TOPICS.get(row.action.partition(".")[0])
            if row.via in ("cli", "gateway") and topic:
                self._live.publish(topic, row.subject)
                self._live.publish("audit", row.subject)
            self._told = row.number
