"""A store of any release, with a row in every table, becomes one of today and keeps what is in it."""

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from server.store import Store
from server.store.database import MIGRATIONS, REVISION, compare
from server.store.places import SqliteFile, from_url
from tests.server.store.schemas import STEPS, contents, file_of, load, migrate, shape


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def places(request, tmp_path):
    """Makes empty places."""
    if request.param == "postgres":
        server = request.getfixturevalue("postgres")
        return lambda name: from_url(server.database(), "the test")
    return lambda name: SqliteFile(tmp_path / f"{name}.db")


def test_every_step_has_a_dump_of_the_store_that_it_left():
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    steps = sorted(one.revision for one in ScriptDirectory.from_config(config).walk_revisions())
    assert steps == STEPS
    for step in steps:
        assert file_of(step, "sqlite").exists()
        assert file_of(step, "postgresql").exists()


@pytest.mark.parametrize("step", STEPS)
def test_a_step_makes_the_tables_that_it_made_when_it_was_released(places, step):
    load(step, released := places("released"))
    now, then = migrate(step, places("now")), released.engine()
    assert shape(now) == shape(then)
    now.dispose()
    then.dispose()


@pytest.mark.parametrize("step", STEPS)
def test_a_store_of_a_release_is_brought_up_to_date_and_loses_nothing(places, step):
    load(step, released := places("released"))
    engine = released.engine()
    before = contents(engine)
    engine.dispose()
    assert all(len(rows) == 1 for rows in before.values())
    store, fresh = Store(released), Store(places("fresh"))
    assert (store.revision(), compare(store)) == (REVISION, [])
    assert shape(store.engine) == shape(fresh.engine)
    after = contents(store.engine)
    for table, rows in before.items():
        for name, value in rows[0].items():
            assert after[table][0][name] == value, f"{table}.{name}"
    store.close()
    fresh.close()


def test_a_store_of_a_release_is_only_opened_by_the_next_one_when_all_steps_succeed(places, monkeypatch):
    """A step that fails in the middle leaves the store as it was."""
    import alembic.op

    load("0002", place := places("released"))
    engine = place.engine()
    before = (shape(engine), contents(engine))
    engine.dispose()
    real, added = alembic.op.add_column, []

    def fail(*arguments, **options):
        added.append(arguments[0])
        if len(added) == 2:
            raise ZeroDivisionError
        real(*arguments, **options)

    monkeypatch.setattr(alembic.op, "add_column", fail)
    with pytest.raises(ZeroDivisionError):
        Store(place)
    monkeypatch.undo()
    assert added == ["sites", "runs"]
    engine = place.engine()
    assert (shape(engine), contents(engine)) == before
    engine.dispose()
    store = Store(place)
    assert store.revision() == REVISION
    store.close()
