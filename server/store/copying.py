"""Copies a whole store into another, whichever of SQLite and PostgreSQL the two are."""

from __future__ import annotations

import sqlalchemy as sa

from fl.errors import ConfigError
from server.store.database import Store
from server.store.models import Base

ROWS = 1_000
"""Rows that are in memory at a time."""


def copy(source: Store, target: Store) -> None:
    """Copy all rows, as one state of the source: who writes to it meanwhile is neither held up nor half seen.

    Args:
        source: Stays as it is.
        target: Must have no rows. It gets all of them or, after an error, none.

    Raises:
        ConfigError: If there is a row in the target.
        StorageError: If one of the two does not answer, or is full.
    """
    tables = Base.metadata.sorted_tables
    with source.read() as old, target.write() as new:
        for table in tables:
            if new.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first():
                raise ConfigError(
                    f"{target.place.words} is not empty: there is a row in {table.name}",
                    hint="name a database without tables",
                )
        for table in tables:
            found = old.execute(sa.select(table), execution_options={"yield_per": ROWS})
            for rows in found.mappings().partitions():
                new.execute(table.insert(), [dict(row) for row in rows])
            number = table.autoincrement_column
            if number is not None and new.get_bind().dialect.name == "postgresql":
                # New rows are numbered behind those that were copied; SQLite looks by itself.
                sequence = sa.func.pg_get_serial_sequence(table.name, number.name)
                new.execute(sa.select(sa.func.setval(sequence, sa.func.max(number))).select_from(table))
