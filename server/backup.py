"""Backup and restore of a centre: one file with all that cannot be made again.

A backup has the store as a SQLite file (a copy that SQLite makes while others write, or the rows of PostgreSQL as one
transaction sees them), ``server.toml``, the transport authority, the gateway's key, the roster and its authority, and
models that have a name. Whichever of the two the store was, it can be restored into either. Journals are large and lie
beside: the backup lists them, and ``runs/`` is copied by whatever copies directories. Restored, journals that are put
back into ``runs/`` are found by the control room.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fl import __version__
from fl.errors import ConfigError, FLError, StorageError
from fl.files import storage_error
from fl.rounds.journal import load_state
from server.home import Home
from server.store import Store, copying
from server.store.database import REVISION
from server.store.places import Place, Postgres, SqliteFile, place_of

FORMAT = 1
FACTS, STORE = "backup.json", "store.db"
KEPT = ("server.toml", "ca", "gateway", "secagg", "models")
"""What is copied as it is."""
LEFT = (".log", ".sock", ".part", "lock", "ledger.db", "ledger.db-wal", "ledger.db-shm")
"""Endings of what is not."""


@dataclasses.dataclass(frozen=True, slots=True)
class Listed:
    """A journal that lay beside a backup."""

    name: str
    status: str
    rounds: int


def write(home: Home, file: Path) -> list[Listed]:
    """Write a backup, while the centre runs or not.

    Args:
        home: The server's home.
        file: Must not exist; it is readable by its owner only, because it holds private keys.

    Returns:
        The journals that are not in it.

    Raises:
        ConfigError: If it is no server's home, or the file exists.
        StorageError: If it cannot be written; no file is left then.
    """
    config = home.config()
    if file.exists():
        raise ConfigError(f"{file} exists", hint="name another file: a backup is never overwritten")
    place = place_of(home.store, config.store.url_file)
    journals = _journals(home.runs)
    part = file.with_name(f".{file.name}.part")
    try:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as raw:
            with tempfile.TemporaryDirectory(dir=file.resolve().parent) as folder:
                copy = Path(folder) / STORE
                _copy_store(place, copy)
                facts = {
                    "format": FORMAT,
                    "fedfleet": __version__,
                    "step": REVISION,
                    "at_s": round(time.time()),
                    "journals": [dataclasses.asdict(one) for one in journals],
                }
                with tarfile.open(fileobj=raw, mode="w:gz", compresslevel=3) as tar:
                    _add(tar, FACTS, json.dumps(facts, indent=2).encode())
                    tar.add(copy, STORE)
                    for kept in KEPT:
                        if (home.path / kept).exists():
                            tar.add(home.path / kept, kept, filter=_wanted)
            raw.flush()
            os.fsync(raw.fileno())
        part.replace(file)
    except OSError as err:
        raise storage_error(file, err) from err
    finally:
        part.unlink(missing_ok=True)
    return journals


def restore(file: Path, home: Home) -> list[Listed]:
    """Make a server's home of a backup.

    Args:
        file: The backup.
        home: Must not exist, or be empty.

    Returns:
        The journals that lay beside the backup: put them into ``runs/``.

    Raises:
        ConfigError: If the home is not empty, or it is no backup, or one of a newer fedfleet.
        StorageError: If it cannot be written.
    """
    if home.path.exists() and any(home.path.iterdir()):
        raise ConfigError(f"{home.path} is not empty", hint="--home names a new directory")
    facts = read(file)
    part = home.path.with_name(f".{home.path.name}.part")
    try:
        part.mkdir(mode=0o700, parents=True)
    except OSError as err:
        raise storage_error(part, err) from err
    try:
        with _opened(file) as tar:
            tar.extractall(part, filter="data")
        (part / FACTS).unlink()
        place = place_of(part / STORE, Home(part).config().store.url_file)
        if isinstance(place, Postgres):
            with contextlib.closing(Store(part / STORE)) as copied, contextlib.closing(Store(place)) as store:
                copying.copy(copied, store)
            for file_of_store in part.glob(f"{STORE}*"):
                file_of_store.unlink()
        if home.path.exists():
            home.path.rmdir()
        part.rename(home.path)
    except OSError as err:
        raise storage_error(home.path, err) from err
    finally:
        shutil.rmtree(part, ignore_errors=True)
    home.path.chmod(0o700)
    home.open_store().close()  # brought up to date, and found whole
    return [Listed(**one) for one in facts["journals"]]


def read(file: Path) -> Mapping[str, Any]:
    """What a backup says of itself.

    Raises:
        ConfigError: If it is none, or of a newer fedfleet.
    """
    with _opened(file) as tar:
        try:
            member = tar.extractfile(FACTS)
            assert member is not None
            facts: dict[str, Any] = json.loads(member.read())
        except (KeyError, ValueError, AssertionError) as err:
            raise ConfigError(f"{file} is no backup of a centre", hint="fl server backup FILE writes one") from err
    if facts.get("store", STORE) != STORE:
        raise ConfigError(
            f"{file} has a dump of pg_dump in place of {STORE}", hint="restore it with the fl that wrote it"
        )
    if int(str(facts["format"])) > FORMAT or str(facts["step"]) > REVISION:
        raise ConfigError(f"{file} was written by fedfleet {facts['fedfleet']}", hint="install that or a newer one")
    return facts


def _copy_store(place: Place, copy: Path) -> None:
    if isinstance(place, SqliteFile):
        try:
            with (
                contextlib.closing(sqlite3.connect(place.path)) as source,
                contextlib.closing(sqlite3.connect(copy)) as to,
            ):
                source.backup(to)
        except sqlite3.Error as err:
            raise StorageError(f"cannot copy {place.path}: {err}") from err
        return
    with contextlib.closing(Store(place, upgrade=False)) as store, contextlib.closing(Store(copy)) as copied:
        copying.copy(store, copied)


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file) as tar:
            yield tar
    except (tarfile.TarError, EOFError) as err:
        raise ConfigError(f"{file} is no backup of a centre, or not whole: {err}") from err
    except FileNotFoundError as err:
        raise ConfigError(f"no such file: {file}") from err


def _journals(folder: Path) -> list[Listed]:
    found = []
    for directory in sorted(folder.iterdir()) if folder.is_dir() else []:
        with contextlib.suppress(FLError):
            state = load_state(directory)
            found.append(Listed(directory.name, state.status, state.committed_rounds))
    return found


def _wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if member.name.endswith(LEFT) else member


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(data), 0o600, int(time.time())
    tar.addfile(member, io.BytesIO(data))
