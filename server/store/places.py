"""Where a store can be: a SQLite file, or a PostgreSQL database. All that differs between the two.

On both, transactions that write wait for each other at their beginning, readers see one state and wait for nobody, and
what was committed survives a power failure.
"""

from __future__ import annotations

import dataclasses
import os
import sqlite3
import threading
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, OperationalError

from fl.errors import ConfigError, StorageError
from fl.files import read_secret

BUSY_MS = 15_000
VARIABLE = "FEDFLEET_STORE_URL"
DRIVER = "postgresql+psycopg"
WRITER = 0x6665_6466_6C74  # any number that nobody else in the database locks
CONNECT_S = 10


class Watch(Protocol):
    """Tells whether a store has changed; raises ``StorageError`` if it does not answer."""

    def version(self) -> object:
        """Differs from the one before if anybody else committed something; it may also differ without."""

    def revision(self) -> int:
        """Of who is admitted (``server.store.rows.bump``)."""


class Place(Protocol):
    """Where a store is."""

    @property
    def words(self) -> str:
        """For messages; without a password."""

    @property
    def hint(self) -> str:
        """What to do when it cannot be used."""

    def engine(self) -> sqlalchemy.Engine:
        """Connections to it.

        Raises:
            StorageError: If it cannot be opened.
        """

    def watch(self, engine: sqlalchemy.Engine) -> Watch:
        """A view of its changes."""


@dataclasses.dataclass(frozen=True, slots=True)
class SqliteFile:
    """A file, made if needed, readable by its owner only. Its directory must exist."""

    path: Path

    @property
    def words(self) -> str:
        """See ``Place``."""
        return str(self.path)

    @property
    def hint(self) -> str:
        """See ``Place``."""
        return "is its disk full?"

    def engine(self) -> sqlalchemy.Engine:
        """See ``Place``."""
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))  # SQLite's own files get the same mode
        except OSError as err:
            raise StorageError(f"cannot open {self.path}: {err.strerror}") from err
        engine = sqlalchemy.create_engine(f"sqlite:///{self.path}", connect_args={"timeout": BUSY_MS / 1000})
        event.listen(engine, "connect", _set_up)
        event.listen(engine, "begin", _begin_sqlite)
        return engine

    def watch(self, engine: sqlalchemy.Engine) -> Watch:
        """See ``Place``."""
        return _SqliteWatch(self)


@dataclasses.dataclass(frozen=True, slots=True)
class Postgres:
    """A database of PostgreSQL 13 or newer, owned by who connects."""

    url: sqlalchemy.URL = dataclasses.field(repr=False)

    @property
    def words(self) -> str:
        """See ``Place``."""
        host = self.url.host or self.url.query.get("host") or "this machine"
        return f"PostgreSQL {self.url.database} at {host}{f':{self.url.port}' if self.url.port else ''}"

    @property
    def hint(self) -> str:
        """See ``Place``."""
        return "is it running, and has its disk room?"

    def engine(self) -> sqlalchemy.Engine:
        """See ``Place``."""
        try:
            engine = sqlalchemy.create_engine(
                self.url,
                pool_pre_ping=True,  # it may have been started again
                pool_size=10,
                max_overflow=30,  # as many as the API's threads
                connect_args={"connect_timeout": CONNECT_S, "application_name": "fedfleet"},
            )
        except ModuleNotFoundError as err:
            raise ConfigError("PostgreSQL needs psycopg", hint="pip install fedfleet[postgres]") from err
        event.listen(engine, "begin", _begin_postgres)
        return engine

    def watch(self, engine: sqlalchemy.Engine) -> Watch:
        """See ``Place``."""
        return _PostgresWatch(self, engine)


def place_of(path: Path, url_file: Path | None = None) -> Place:
    """Where a home's store is: ``FEDFLEET_STORE_URL``, else the URL in a file (0600), else a SQLite file.

    Raises:
        ConfigError: If the file cannot be used or is open to others, or the URL is none of PostgreSQL.
    """
    text, origin = os.environ.get(VARIABLE, ""), VARIABLE
    if not text and url_file is not None:
        text, origin = read_secret(url_file), str(url_file)
    return from_url(text, origin) if text else SqliteFile(path)


def from_url(text: str, origin: str) -> Postgres:
    """A database by its URL. The URL is never said: it may have a password.

    Raises:
        ConfigError: If it is none of PostgreSQL.
    """
    hint = "postgresql://USER:PASSWORD@HOST/DATABASE"
    try:
        url = sqlalchemy.make_url(text.strip())
    except (ArgumentError, ValueError) as err:
        raise ConfigError(f"{origin} has no URL of a database", hint=hint) from err
    if url.drivername not in ("postgresql", "postgres", DRIVER) or not url.database:
        raise ConfigError(f"{origin}: {url.drivername} is no PostgreSQL, or it names no database", hint=hint)
    return Postgres(url.set(drivername=DRIVER))


def unusable(place: Place, err: Exception | None) -> StorageError:
    """What to say when a store does not do what it is asked."""
    why = str(err).strip().partition("\n")[0]
    return StorageError(f"cannot use {place.words}: {why}", hint=place.hint)


class _SqliteWatch:
    """``PRAGMA data_version`` of a connection of its own changes with each commit of anybody else."""

    def __init__(self, place: SqliteFile) -> None:
        self._place = place
        self._db = sqlite3.connect(place.path, isolation_level=None, check_same_thread=False, timeout=BUSY_MS / 1000)

    def version(self) -> object:
        return self._ask("PRAGMA data_version")

    def revision(self) -> int:
        return self._ask("SELECT value FROM revision")

    def _ask(self, question: str) -> int:
        try:
            found = self._db.execute(question).fetchone()
        except sqlite3.Error as err:
            raise unusable(self._place, err) from err
        return int(found[0]) if found else 0


class _PostgresWatch:
    """PostgreSQL has no such counter: the revision itself is looked at, over a connection that is kept."""

    def __init__(self, place: Postgres, engine: sqlalchemy.Engine) -> None:
        self._place, self._engine = place, engine.execution_options(isolation_level="AUTOCOMMIT")
        self._lock = threading.Lock()

    def version(self) -> object:
        return self.revision()

    def revision(self) -> int:
        try:
            with self._lock, self._engine.connect() as connection:
                return int(connection.exec_driver_sql("SELECT value FROM revision").scalar() or 0)
        except OperationalError as err:
            raise unusable(self._place, err.orig) from err


def options(place: Place, *, writes: bool) -> dict[str, Any]:
    """How a transaction is begun."""
    if isinstance(place, Postgres):
        # One that writes takes the lock and then looks, so that it sees what the one before it wrote.
        return {"writes": writes, "isolation_level": "READ COMMITTED" if writes else "REPEATABLE READ"}
    return {"writes": writes}


def _set_up(connection: sqlite3.Connection, _: object) -> None:
    connection.isolation_level = None  # the driver would begin transactions late, and not for a change of tables
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={BUSY_MS}"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: sqlalchemy.Connection) -> None:
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _begin_postgres(connection: sqlalchemy.Connection) -> None:
    if connection.get_execution_options().get("writes", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({WRITER})")
