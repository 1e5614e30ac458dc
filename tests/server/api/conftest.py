import pytest

from tests.server.api import kit


@pytest.fixture
def room(tmp_path):
    """A control room with two sites, two runs and a model."""
    made = kit.open_room(tmp_path)
    kit.fill(made.store, tmp_path)
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def same_room(tmp_path_factory):
    """As ``room``, one for all tests of a module: for those that change nothing in it."""
    folder = tmp_path_factory.mktemp("room")
    made = kit.open_room(folder)
    kit.fill(made.store, folder)
    yield made
    made.store.close()
