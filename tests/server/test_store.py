"""The store: brought up to date, never half-written, found closed to others."""

import multiprocessing
import sqlite3
import stat

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import select

from fl.errors import ConfigError, StorageError
from server.store import Store
from server.store.database import MIGRATIONS, REVISION, compare
from server.store.models import Event, Site


def a_site(name="a"):
    return Site(id=name, state="invited", reason="", created_s=1.0, changed_s=1.0, report="")


def test_the_steps_make_the_tables_of_the_models(tmp_path):
    assert compare(Store(tmp_path / "store.db")) == []


def test_the_newest_step_is_the_one_that_the_code_expects():
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION


def test_only_the_owner_can_read_it(tmp_path):
    store = Store(tmp_path / "store.db")
    with store.write() as session:
        session.add(a_site())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o600}
    assert len(list(tmp_path.iterdir())) == 3  # with -wal and -shm


def write_and_fail(store):
    with store.write() as session:
        session.add(a_site())
        session.flush()
        raise ZeroDivisionError


def test_an_error_undoes_the_whole_transaction(tmp_path):
    store = Store(tmp_path / "store.db")
    with pytest.raises(ZeroDivisionError):
        write_and_fail(store)
    with store.read() as session:
        assert session.scalars(select(Site)).all() == []


def test_a_reference_to_nothing_is_refused(tmp_path):
    with pytest.raises(Exception, match="FOREIGN KEY"), Store(tmp_path / "store.db").write() as session:
        session.add(Event(site=7, at_s=1.0, what="x"))


def test_a_newer_store_is_left_alone(tmp_path):
    path = tmp_path / "store.db"
    Store(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="is of step 9999, this fl knows steps up to"):
        Store(path)
    assert path.read_bytes() == before


def test_another_file_is_not_taken_for_a_store(tmp_path):
    path = tmp_path / "store.db"
    path.write_bytes(b"not a database, but long enough to be looked at" * 100)
    with pytest.raises(ConfigError, match="is no store of fedfleet"):
        Store(path)


def test_a_directory_that_is_not_there_is_named(tmp_path):
    with pytest.raises(StorageError, match="cannot open"):
        Store(tmp_path / "nowhere" / "store.db")


def open_and_write(path, name):
    with Store(path).write() as session:
        session.add(a_site(name))


def test_processes_that_open_a_new_store_at_once_bring_it_up_to_date_once(tmp_path):
    path = tmp_path / "store.db"
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=open_and_write, args=(path, f"site-{number}")) for number in range(3)]
    for process in others:
        process.start()
    for process in others:
        process.join(90)
    assert [process.exitcode for process in others] == [0, 0, 0]
    with Store(path).read() as session:
        assert len(session.scalars(select(Site)).all()) == 3


def test_a_watcher_sees_a_commit_of_another_connection_only(tmp_path):
    store = Store(tmp_path / "store.db")
    watch = store.watch()
    before = watch.version()
    assert watch.version() == before
    with store.write() as session:
        session.add(a_site())
    assert watch.version() != before
