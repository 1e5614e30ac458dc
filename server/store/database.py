"""Opens the store, brought up to date when it is opened; where it is and how that differs: ``server.store.places``.

Transactions that write take the lock at their beginning, so they queue up instead of failing half-way; readers are not
held up by a writer. A change that was committed survives a power failure: a revocation is not forgotten.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from fl.errors import ConfigError
from server.store import runs as _runs  # noqa: F401  # its tables belong to ``Base`` too
from server.store.models import Base
from server.store.places import Place, SqliteFile, Watch, options, unusable

REVISION = "0003"
"""The newest step in ``migrations/versions``."""

MIGRATIONS = Path(__file__).parent / "migrations"


class Store:
    """An open store. Several processes may have it open; several threads may share this object.

    Args:
        place: Where it is; a path is a SQLite file.
        upgrade: Whether to bring it up to date.

    Raises:
        ConfigError: If it was written by a newer fedfleet, or is no store; without ``upgrade``, by an older one too.
        StorageError: If it cannot be opened.
    """

    def __init__(self, place: Place | Path, *, upgrade: bool = True) -> None:
        self.place = SqliteFile(place) if isinstance(place, Path) else place
        self._here = threading.local()
        self.engine = self.place.engine()
        try:
            self._bring_up_to_date(upgrade)
        except OperationalError as err:
            raise unusable(self.place, err.orig) from err
        except sqlalchemy.exc.DatabaseError as err:
            raise ConfigError(f"{self.place.words} is no store of fedfleet: {err.orig}") from err

    @contextmanager
    def write(self) -> Iterator[Session]:
        """A transaction that writes; committed at the end, undone by an error.

        One that is begun within another, in the same thread, is a part of it: so a change and what is said of it in the
        audit are there together, or neither is.

        Raises:
            StorageError: If the disk is full, or another process keeps the store locked.
        """
        with self._session(writes=True) as session:
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A transaction that sees one state of the store and changes nothing."""
        with self._session(writes=False) as session:
            yield session

    def watch(self) -> Watch:
        """Tells whether anybody else changed something."""
        return self.place.watch(self.engine)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def revision(self) -> str | None:
        """The last step that was applied; ``None`` for an empty file."""
        with self.engine.connect() as connection:
            if not sqlalchemy.inspect(connection).has_table("alembic_version"):
                return None
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()

    @contextmanager
    def _session(self, *, writes: bool) -> Iterator[Session]:
        outer: Session | None = getattr(self._here, "session", None)
        if outer is not None:  # SQLite would wait for ourselves
            yield outer
            outer.flush()
            return
        engine = self.engine.execution_options(**options(self.place, writes=writes))
        try:
            with Session(engine, expire_on_commit=False) as session, session.begin():
                self._here.session = session if writes else None
                yield session
        except OperationalError as err:
            raise unusable(self.place, err.orig) from err
        finally:
            self._here.session = None

    def _bring_up_to_date(self, may: bool) -> None:
        found = self.revision()
        if found == REVISION:
            return
        if found is not None and found > REVISION:
            raise ConfigError(
                f"{self.place.words} is of step {found}, this fl knows steps up to {REVISION}",
                hint="install the newer fedfleet that wrote it",
            )
        if not may:
            raise ConfigError(
                f"{self.place.words} is of step {found or 0}, older than this fl, which knows {REVISION}",
                hint="use the fedfleet that wrote it, or start the centre once with this one",
            )
        from alembic import command  # half a second to import, and needed once a release
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        with self.engine.execution_options(**options(self.place, writes=True)).begin() as connection:
            config.attributes["connection"] = connection  # a second process waits here, then finds nothing to do
            command.upgrade(config, "head")


def compare(store: Store) -> list[Any]:
    """What differs between the tables in a store and those of ``models``; empty when the steps are complete."""
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store.engine.connect() as connection:
        return list(compare_metadata(MigrationContext.configure(connection), Base.metadata))
