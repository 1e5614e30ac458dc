"""Dumps of the store as each release left it, with a row in every table: what a migration has to bring up to date.

A new step needs two new files beside the others, written once, when it is new:

    python -m tests.server.store.schemas 0004

They are never written again: a step that is edited later no longer fits what is out there, and a test says so.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from server.store.database import MIGRATIONS
from server.store.places import Place, Postgres, SqliteFile, from_url, options
from tests.server.postgres import PostgresServer, programs

FOLDER = Path(__file__).parent / "schemas"
STEPS = sorted({path.name.partition(".")[0] for path in FOLDER.glob("*.sql")})
NOT_THE_STORE = re.compile(r"--|SET |SELECT pg_catalog\.set_config|\\(un)?restrict ")
"""Lines of a dump that differ from one version of pg_dump to the next."""


def file_of(step: str, kind: str) -> Path:
    """The dump of a step; ``kind`` is ``sqlite`` or ``postgresql``."""
    return FOLDER / f"{step}.{kind}.sql"


def load(step: str, place: Place) -> None:
    """Make a store as that step left it, in an empty place."""
    if isinstance(place, SqliteFile):
        with contextlib.closing(sqlite3.connect(place.path)) as connection:
            connection.executescript(file_of(step, "sqlite").read_text())
    else:
        assert isinstance(place, Postgres)
        _client("psql", place, "-q", "-v", "ON_ERROR_STOP=1", "-f", str(file_of(step, "postgresql")))


def contents(engine: sa.Engine) -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables."""
    found = sa.MetaData()
    with engine.connect() as connection:
        found.reflect(connection)
        return {
            table.name: [dict(row) for row in connection.execute(sa.select(table)).mappings()]
            for table in found.sorted_tables
            if table.name != "alembic_version"
        }


def shape(engine: sa.Engine) -> dict[str, Any]:
    """Every table's columns, keys and indexes, as the database tells them."""
    look = sa.inspect(engine)
    return {
        table: {
            "columns": {
                one["name"]: (str(one["type"]), one["nullable"], one["default"]) for one in look.get_columns(table)
            },
            "key": look.get_pk_constraint(table),
            "foreign": sorted(map(str, look.get_foreign_keys(table))),
            "unique": sorted(map(str, look.get_unique_constraints(table))),
            "indexes": sorted(map(str, look.get_indexes(table))),
        }
        for table in look.get_table_names()
    }


def migrate(step: str, place: Place) -> sa.Engine:
    """Make a store of a step by the steps up to it, in an empty place."""
    engine, config = place.engine(), Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with engine.execution_options(**options(place, writes=True)).begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, step)
    return engine


def _write(step: str, place: Place, kind: str) -> None:
    engine = migrate(step, place)
    with engine.execution_options(**options(place, writes=True)).begin() as connection:
        tables = sa.MetaData()
        tables.reflect(connection)
        for table in tables.sorted_tables:
            if table.name != "alembic_version":
                connection.execute(table.insert().values({column.name: _value(column) for column in table.columns}))
    engine.dispose()
    if isinstance(place, SqliteFile):
        with contextlib.closing(sqlite3.connect(place.path)) as source:
            text = "\n".join(source.iterdump())
    else:
        assert isinstance(place, Postgres)
        text = _client("pg_dump", place, "--no-owner", "--no-privileges", "--inserts")
    kept = [line for line in text.splitlines() if line.strip() and not NOT_THE_STORE.match(line)]
    file_of(step, kind).write_text("\n".join(kept) + "\n")


def _value(column: sa.Column[Any]) -> Any:
    """Something that fits: the same for every column of a type, so that references hold."""
    kind = column.type.python_type
    if column.foreign_keys:
        (other,) = column.foreign_keys
        return _value(other.column)
    return {bytes: b"\x00\xffkey", bool: True, int: 1, float: 1.25}.get(kind, f"{column.name} ü"[: _length(column)])


def _length(column: sa.Column[Any]) -> int | None:
    return getattr(column.type, "length", None)


def _client(name: str, place: Postgres, *argv: str) -> str:
    folder = programs()
    assert folder is not None
    where = [f"--host={place.url.host}", f"--port={place.url.port}", f"--username={place.url.username}"]
    done = subprocess.run(
        [str(folder / name), *where, f"--dbname={place.url.database}", *argv],
        capture_output=True,
        text=True,
        env={**os.environ, "PGCLIENTENCODING": "UTF8"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def main() -> None:
    """Write the dumps of the steps that are named."""
    server = PostgresServer()
    try:
        for step in sys.argv[1:]:
            assert not file_of(step, "sqlite").exists(), f"{step} is out there"
            with tempfile.TemporaryDirectory() as folder:
                _write(step, SqliteFile(Path(folder) / "store.db"), "sqlite")
            _write(step, from_url(server.database(), "here"), "postgresql")
    finally:
        server.end()


if __name__ == "__main__":
    main()
