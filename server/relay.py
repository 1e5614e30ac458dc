"""Carries changes between control rooms over one PostgreSQL store, so that each tells all of them (``NOTIFY``).

What is told is a hint to look; the truth is in the store. So a change that is too long for a notification, or that came
while PostgreSQL was away, becomes a word that something was missed.
"""

from __future__ import annotations

import json
import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import sqlalchemy
from sqlalchemy.exc import SQLAlchemyError

from server.live import Change, Live
from server.store import Store

log = logging.getLogger(__name__)

CHANNEL = "fedfleet_live"
MOST_BYTES = 7_900
"""PostgreSQL takes fewer than 8,000 in a notification."""
TICK_S, AGAIN_S = 0.5, 1.0
TOGETHER = 500
"""Notifications of one transaction."""
MOST_WAITING = 20_000
"""Changes that wait to be told."""


class Relay:
    """Tells others what this process publishes, and this process what others do; in a ``with`` block.

    Args:
        store: In PostgreSQL.
        live: This process's hub.
        heard: Called for each change of another process.
    """

    def __init__(self, store: Store, live: Live, *, heard: Callable[[Change], None] = lambda change: None) -> None:
        self._engine = store.engine.execution_options(isolation_level="AUTOCOMMIT", writes=False)
        self._live, self._heard = live, heard
        self._life = secrets.token_hex(8)
        self._missed = json.dumps([self._life])
        self._waiting: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._ended, self._lost = threading.Event(), threading.Event()
        self._said: set[str] = set()
        self._threads = [
            threading.Thread(target=self._keep, args=(work, what), name=f"relay, {what}", daemon=True)
            for work, what in ((self._tell, "telling"), (self._listen, "listening"))
        ]
        self.listening = threading.Event()
        """Set while this process hears of all changes."""

    @property
    def waiting(self) -> int:
        """Changes that wait to be told."""
        return self._waiting.qsize()

    def __enter__(self) -> Relay:
        self._live.told = self._take
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _take(self, change: Change) -> None:
        """Have a change told; while PostgreSQL is away for long, only that there were some."""
        if self._waiting.qsize() < MOST_WAITING:
            self._waiting.put(change)
        else:
            self._lost.set()

    def _keep(self, work: Callable[[], None], what: str) -> None:
        """Do a thread's work; when PostgreSQL is away, say so once and try again."""
        while not self._ended.is_set():
            try:
                work()
            except (SQLAlchemyError, OSError) as err:
                self.listening.clear()
                self._say(what, f"{what} between control rooms pauses: {str(err).strip().partition(chr(10))[0]}")
                self._ended.wait(AGAIN_S)

    def _tell(self) -> None:
        notify = sqlalchemy.text(f"SELECT pg_notify('{CHANNEL}', :payload)")
        with self._engine.connect() as connection:
            while not self._ended.is_set():
                if self._lost.is_set():
                    self._lost.clear()
                    connection.execute(notify, {"payload": self._missed})
                self._say("telling", "")
                if payloads := [self._payload(change) for change in self._next()]:
                    self._lost.set()  # until they are told
                    connection.execute(notify, [{"payload": payload} for payload in payloads])
                    self._lost.clear()

    def _next(self) -> Iterator[Change]:
        """What waits, once there is something."""
        change = self._waiting.get()
        for left in reversed(range(TOGETHER)):
            if change is None:
                return
            yield change
            try:
                change = self._waiting.get_nowait() if left else None
            except queue.Empty:
                return

    def _listen(self) -> None:
        with self._engine.connect() as connection:
            connection.exec_driver_sql(f"LISTEN {CHANNEL}")
            driver: Any = connection.connection.driver_connection
            self._say("listening", "")
            self._live.missed()  # whatever was told before this
            self.listening.set()
            asked = time.monotonic()
            while not self._ended.is_set():
                for notice in _driver_errors(driver.notifies(timeout=TICK_S)):
                    self._hear(json.loads(notice.payload))
                if time.monotonic() - asked > 10 * TICK_S:  # a connection that broke in silence
                    connection.exec_driver_sql("SELECT 1")
                    asked = time.monotonic()

    def _payload(self, change: Change) -> str:
        facts = [self._life, change.topic, change.name, change.project, change.at_s, change.text]
        text = json.dumps(facts, separators=(",", ":"))
        return text if len(text.encode()) <= MOST_BYTES else self._missed

    def _hear(self, facts: list[Any]) -> None:
        if facts[0] == self._life:
            return
        if len(facts) == 1:
            self._live.missed()
            return
        _, topic, name, project, at_s, text = facts
        self._heard(self._live.hear(topic, name, project, at_s, text))

    def _say(self, what: str, words: str) -> None:
        """Say a trouble once, and when it is over."""
        if words and what not in self._said:
            self._said.add(what)
            log.warning("%s", words)
        elif not words and what in self._said:
            self._said.discard(what)
            log.info("%s between control rooms goes on", what)


def _driver_errors(notices: Iterator[Any]) -> Iterator[Any]:
    """The driver is used past SQLAlchemy here, so its errors are its own."""
    import psycopg

    try:
        yield from notices
    except psycopg.Error as err:
        raise OSError(str(err)) from err
