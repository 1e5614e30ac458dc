"""Backup and restore of a centre."""

import sqlite3
import stat
import tarfile
import threading

import pytest
import sqlalchemy as sa
from sqlalchemy import func, select

from fl.errors import ConfigError, StorageError
from fl.rounds.journal import Journal
from server import audit, backup, tokens
from server.actions import Actions
from server.audit import Actor
from server.home import Home
from server.store import Store, copying
from server.store.database import compare
from server.store.models import Event, Site
from server.store.places import VARIABLE, SqliteFile, from_url
from server.store.rows import note
from tests.server import kit
from tests.server.store import schemas


@pytest.fixture
def centre(tmp_path):
    made = kit.make_centre(tmp_path / "home")
    tokens.invite(made.enrolment, "north")
    yield made
    made.close()


def test_a_restored_home_is_the_same_centre(centre, tmp_path):
    (centre.home.path / "models").mkdir()
    (centre.home.path / "models" / "1.safetensors").write_bytes(b"arrays")
    config = {"run": {"name": "trial", "rounds": 1, "seed": 1}}
    Journal.create(centre.home.runs / "20261126-trial", config).close()
    file = tmp_path / "centre.backup"
    (listed,) = backup.write(centre.home, file)
    assert (listed.name, listed.status) == ("20261126-trial", "created")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    restored = Home(tmp_path / "other")
    assert backup.restore(file, restored) == [listed]
    assert stat.S_IMODE(restored.path.stat().st_mode) == 0o700
    with restored.open_store().read() as session:
        assert session.scalars(select(Site.id)).all() == ["north"]
    for name in ("ca/0001.key", "gateway/server.key", "models/1.safetensors", "server.toml"):
        assert (restored.path / name).read_bytes() == (centre.home.path / name).read_bytes(), name
        assert (restored.path / name).stat().st_mode == (centre.home.path / name).stat().st_mode
    assert not (restored.path / "runs").exists()


def test_a_backup_while_others_write_is_one_state_of_the_store(centre, tmp_path):
    ended = threading.Event()

    def write():
        while not ended.is_set():
            with centre.registry.store.write() as session:  # always two together
                note(session, 1, 1.0, "a")
                note(session, 1, 1.0, "b")

    thread = threading.Thread(target=write)
    thread.start()
    try:
        for number in range(3):
            backup.write(centre.home, tmp_path / f"{number}.backup")
    finally:
        ended.set()
        thread.join()
    for number in range(3):
        restored = Home(tmp_path / f"home-{number}")
        backup.restore(tmp_path / f"{number}.backup", restored)
        with restored.open_store().read() as session:
            counts = [
                session.scalar(select(func.count()).select_from(Event).where(Event.what == what)) for what in "ab"
            ]
        assert counts[0] == counts[1]
        assert sqlite3.connect(restored.store).execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "to"), [("postgresql", "postgresql"), ("postgresql", "sqlite"), ("sqlite", "postgresql")]
)
def test_a_backup_is_restored_into_whichever_store_there_is(postgres, tmp_path, monkeypatch, kind, to):
    def put(kind):
        monkeypatch.delenv(VARIABLE, raising=False)
        if kind == "postgresql":
            monkeypatch.setenv(VARIABLE, postgres.database())

    put(kind)
    centre, file = kit.make_centre(tmp_path / "home"), tmp_path / "centre.backup"
    actions = Actions(centre)
    actions.add_site(Actor(who="ada", via="cli"), "north")
    actions.label(Actor(who="ada", via="cli"), "north", {"region": "north"})
    backup.write(centre.home, file)
    actions.add_site(Actor(who="ada", via="cli"), "south")  # later than the backup
    put(to)
    restored = Home(tmp_path / "other")
    backup.restore(file, restored)
    store = restored.open_store()
    assert compare(store) == []
    with store.read() as session:
        site = session.scalars(select(Site)).one()
        assert (site.id, site.labels) == ("north", '{"region": "north"}')
        assert audit.verify(audit.rows(session))[0] == 2
    with store.write() as session:  # numbers go on behind those that were restored
        session.add(Site(id="east", state="invited", created_s=1.0, changed_s=1.0))
    assert bool(list(restored.path.glob("store.*"))) == (to == "sqlite")
    store.close()
    centre.close()


@pytest.mark.slow
def test_a_database_with_rows_is_restored_into_by_nobody(postgres, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, postgres.database())
    centre, file = kit.make_centre(tmp_path / "home"), tmp_path / "centre.backup"
    Actions(centre).add_site(Actor(who="ada", via="cli"), "north")
    backup.write(centre.home, file)
    Actions(centre).add_site(Actor(who="ada", via="cli"), "south")
    with pytest.raises(ConfigError, match=r"PostgreSQL .* is not empty: there is a row in "):
        backup.restore(file, Home(tmp_path / "other"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["centre.backup", "home"]
    with centre.registry.store.read() as session:
        assert sorted(session.scalars(select(Site.id))) == ["north", "south"]
    centre.close()


@pytest.mark.slow
def test_every_row_goes_through_postgresql_and_back(postgres, tmp_path):
    schemas.load(schemas.STEPS[-1], SqliteFile(tmp_path / "first.db"))
    stores = [Store(tmp_path / "first.db"), Store(from_url(postgres.database(), "test")), Store(tmp_path / "last.db")]
    copying.copy(stores[0], stores[1])
    copying.copy(stores[1], stores[2])
    first, _, last = (schemas.contents(store.engine) for store in stores)
    assert first == last
    assert all(first.values())  # there is a row in each table
    for store in stores:
        store.close()


@pytest.mark.slow
def test_a_backup_does_not_bring_a_store_up_to_date(postgres, tmp_path, monkeypatch):
    home = kit.make_centre(tmp_path / "home")
    home.close()
    url = postgres.database()
    schemas.load(schemas.STEPS[0], from_url(url, "test"))
    monkeypatch.setenv(VARIABLE, url)
    with pytest.raises(ConfigError, match=r"is of step 0001, older than this fl"):
        backup.write(home.home, tmp_path / "b")
    with sa.create_engine(from_url(url, "test").url).connect() as connection:
        assert connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == "0001"


@pytest.mark.slow
def test_a_backup_of_postgresql_needs_it_to_answer(postgres, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, postgres.database())
    centre = kit.make_centre(tmp_path / "home")
    postgres.stop()
    with pytest.raises(StorageError, match=r"^cannot use PostgreSQL "):
        backup.write(centre.home, tmp_path / "b")
    postgres.start()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_a_home_that_is_not_empty_is_left_alone(centre, tmp_path):
    backup.write(centre.home, tmp_path / "b")
    before = sorted(path.name for path in centre.home.path.iterdir())
    with pytest.raises(ConfigError, match="is not empty"):
        backup.restore(tmp_path / "b", centre.home)
    assert sorted(path.name for path in centre.home.path.iterdir()) == before


def test_a_backup_never_overwrites_a_file(centre, tmp_path):
    (tmp_path / "b").write_text("precious")
    with pytest.raises(ConfigError, match="exists"):
        backup.write(centre.home, tmp_path / "b")
    assert (tmp_path / "b").read_text() == "precious"


def test_half_a_backup_and_something_else_make_no_home(centre, tmp_path):
    backup.write(centre.home, tmp_path / "b")
    whole = (tmp_path / "b").read_bytes()
    (tmp_path / "half").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text").write_text("hello")
    with tarfile.open(tmp_path / "tar", "w") as tar:
        tar.add(tmp_path / "text", "hello")
    for name, complaint in (("half", "not whole"), ("text", "no backup"), ("tar", "no backup"), ("no", "no such file")):
        with pytest.raises(ConfigError, match=complaint):
            backup.restore(tmp_path / name, Home(tmp_path / "other"))
        assert not (tmp_path / "other").exists()
    assert not list(tmp_path.glob(".*.part"))


def test_a_backup_of_a_newer_fedfleet_says_so(centre, tmp_path, monkeypatch):
    monkeypatch.setattr(backup, "REVISION", "0999")
    backup.write(centre.home, tmp_path / "b")
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="was written by fedfleet"):
        backup.restore(tmp_path / "b", Home(tmp_path / "other"))


def test_no_room_for_a_backup_leaves_no_file(centre):
    with pytest.raises(StorageError, match="cannot write"):
        backup.write(centre.home, centre.home.path / "nowhere" / "b")
