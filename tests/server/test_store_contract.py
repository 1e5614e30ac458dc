"""What a store promises, on SQLite and on a real PostgreSQL: both must pass the same tests."""

import threading

import pytest
from sqlalchemy import select

from fl.errors import ConfigError, StorageError
from server import audit
from server.audit import Actor
from server.controller.states import State
from server.store import Store
from server.store.database import compare
from server.store.models import Event, Site
from server.store.places import Postgres, SqliteFile, from_url
from server.store.rows import bump
from server.store.runs import Reply, Run
from server.views.fleet import fleet
from server.views.usage import usage
from tests.server.controller.test_ingest import a_journal, take_all

ME = Actor(who="tester", via="cli", address="")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def place(request, tmp_path):
    if request.param == "sqlite":
        return SqliteFile(tmp_path / "store.db")
    return from_url(request.getfixturevalue("postgres").database(), "the test")


@pytest.fixture
def store(place):
    made = Store(place)
    yield made
    made.close()


def a_site(name="a"):
    return Site(id=name, state="active", reason="", created_s=1.0, changed_s=1.0, report="")


def a_run(name="r", state: State = "queued", **more):
    return Run(
        **{
            "name": name,
            "title": name,
            "project": "default",
            "priority": 0,
            "kind": "run",
            "state": state,
            "config": "{}",
            "submitted_by": "me",
            "submitted_s": 1.0,
            "start_s": 0.0,
            "changed_s": 1.0,
            **more,
        }
    )


def test_its_steps_make_the_tables_of_the_models(store):
    assert compare(store) == []


def test_a_newer_store_is_left_alone(place):
    store = Store(place)
    with store.write() as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(ConfigError, match="is of step 9999, this fl knows steps up to"):
        Store(place)
    store.close()


def test_an_error_undoes_all_of_a_transaction_and_of_the_one_within(store):
    def fail():
        with store.write() as session:
            session.add(a_site())
            with store.write() as inner:
                audit.append(inner, ME, "site.add", "a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    with store.read() as session:
        assert session.scalars(select(Site)).all() == []
        assert list(audit.rows(session)) == []


def test_a_reference_to_nothing_is_refused(store):
    with pytest.raises(Exception, match=r"(?i)foreign key"), store.write() as session:
        session.add(Event(site=7, at_s=1.0, what="x"))


def test_writers_wait_for_each_other_so_that_none_counts_from_an_old_state(store):
    def write():
        for _ in range(10):
            with store.write() as session:
                bump(session)
                audit.append(session, ME, "count", "x")

    threads = [threading.Thread(target=write) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.watch().revision() == 60
    with store.read() as session:
        assert audit.verify(audit.rows(session))[0] == 60


def test_a_reader_sees_one_state_and_waits_for_no_writer(store):
    with store.write() as session:
        session.add(a_site("a"))
    began, done, counts = threading.Event(), threading.Event(), []

    def write():
        began.wait(10)
        with store.write() as session:
            session.add(a_site("b"))
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    with store.read() as session:
        counts.append(len(session.scalars(select(Site)).all()))
        began.set()
        assert done.wait(10)  # a writer finished meanwhile
        counts.append(len(session.scalars(select(Site)).all()))
    thread.join()
    assert counts == [1, 1]
    with store.read() as session:
        assert len(session.scalars(select(Site)).all()) == 2


def test_a_watcher_sees_what_others_commit(store):
    watch = store.watch()
    before = watch.version()
    assert watch.version() == before
    with store.write() as session:
        bump(session)
    assert watch.version() != before
    assert watch.revision() == 1


def test_the_tables_of_a_journal_and_the_views_over_them_are_those_of_sqlite(store, tmp_path):
    journal = a_journal(tmp_path)
    other = Store(tmp_path / "other.db")
    found = []
    for one in (store, other):
        with one.write() as session:
            session.add(a_run(journal.name, "running"))
        take_all(one, journal, at_once=7)
        with one.read() as session:
            tables = [
                [{name: getattr(row, name) for name in kind.__table__.columns.keys()} for row in session.scalars(query)]  # noqa: SIM118
                for kind, query in ((Reply, select(Reply).order_by(Reply.number)), (Run, select(Run)))
            ]
            found.append((tables, usage(session, by="run"), usage(session, by="site"), fleet(session, 5.0)))
    other.close()
    assert found[0] == found[1]
    assert len(found[0][0][0]) > 30


@pytest.mark.slow
def test_a_postgresql_that_is_gone_is_said_and_used_again_when_it_is_back(postgres):
    store = Store(from_url(postgres.database(), "the test"))
    with store.write() as session:
        session.add(a_site())
    postgres.stop()

    def read():
        with store.read() as session:
            return session.scalars(select(Site.id)).all()

    with pytest.raises(StorageError, match=r"cannot use PostgreSQL fedfleet\d+ at 127.0.0.1:\d+"):
        read()
    with pytest.raises(StorageError, match="cannot use PostgreSQL"):
        Store(store.place)
    postgres.start()
    assert read() == ["a"]
    store.close()


def test_a_url_with_a_password_is_never_said():
    secret = "hunter2"
    place = from_url(f"postgresql://fl:{secret}@db.example.org:6000/fedfleet", "the file")
    assert place.words == "PostgreSQL fedfleet at db.example.org:6000"
    assert secret not in repr(place) + place.words
    for text in (f"mysql://fl:{secret}@host/db", f"postgresql://fl:{secret}@host", f"nothing {secret}"):
        with pytest.raises(ConfigError) as caught:
            from_url(text, "the file")
        assert secret not in f"{caught.value} {caught.value.hint}"


def test_the_url_is_read_from_a_file_that_only_its_owner_can_read(tmp_path, monkeypatch):
    from server.store.places import VARIABLE, place_of

    file = tmp_path / "store.url"
    file.write_text("postgresql://host/db\n")
    with pytest.raises(ConfigError, match="can be read by others"):
        place_of(tmp_path / "store.db", file)
    file.chmod(0o600)
    assert isinstance(place_of(tmp_path / "store.db", file), Postgres)
    assert isinstance(place_of(tmp_path / "store.db"), SqliteFile)
    monkeypatch.setenv(VARIABLE, "postgresql://elsewhere/db")
    assert place_of(tmp_path / "store.db").words == "PostgreSQL db at elsewhere"
